"""Exact models: data whose denoiser, score, velocity and likelihood are known in closed form under every process.

Every other part of gendyn is tested against these: an objective's minimiser is the oracle, a sampler run on the oracle
has a measurable order, a likelihood closes its budget.
"""

from gendyn.oracles.examples import EXAMPLES
from gendyn.oracles.flow_map import consistency_function
from gendyn.oracles.mixture import GaussianMixture
from gendyn.oracles.point_masses import PointMasses
from gendyn.oracles.two_sided import TwoSided

__all__ = ["EXAMPLES", "GaussianMixture", "PointMasses", "TwoSided", "consistency_function"]
