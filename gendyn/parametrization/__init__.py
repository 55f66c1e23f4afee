"""Names of parameter axes, and what follows from which of them grow: roles, initialisation, learning rates.

One picture carries the room: a parameter is a box whose edges are named, some edges grow with the network and
some do not, and *which edges grow* decides how it is initialised, how fast it learns and how it is cut over
devices. `table` finds that out by building the network at several sizes; `network`, `init` and `optimizer` apply what
a rule (`RULES`) makes of it.
"""

from gendyn.parametrization.axes import AXES, FINITE, ROLES, WIDTH, role
from gendyn.parametrization.conversion import decay_for_horizon, decay_for_rate, rate_for_batch, timescale
from gendyn.parametrization.coordinates import CoordinateCheck, coordinate_check
from gendyn.parametrization.curvature import adam_scale, sharpness
from gendyn.parametrization.gradient_noise import NoiseScale, noise_scale
from gendyn.parametrization.optimizer import optimizer
from gendyn.parametrization.points import grid, random_search
from gendyn.parametrization.rules import DECAYS, DEPTHS, OPTIMIZERS, RULES, Multipliers
from gendyn.parametrization.scaled import init, network
from gendyn.parametrization.spectra import Spectrum, gradients_over_eps, singular_values
from gendyn.parametrization.sweeps import sweep
from gendyn.parametrization.table import ParamTable, table
from gendyn.parametrization.transfers import Transfer, transfer
from gendyn.parametrization.trial import Trial
from gendyn.parametrization.uses import Use, activations, uses

__all__ = [
    "AXES",
    "DECAYS",
    "DEPTHS",
    "FINITE",
    "OPTIMIZERS",
    "ROLES",
    "RULES",
    "WIDTH",
    "CoordinateCheck",
    "Multipliers",
    "NoiseScale",
    "ParamTable",
    "Spectrum",
    "Transfer",
    "Trial",
    "Use",
    "activations",
    "adam_scale",
    "coordinate_check",
    "decay_for_horizon",
    "decay_for_rate",
    "gradients_over_eps",
    "grid",
    "init",
    "network",
    "noise_scale",
    "optimizer",
    "random_search",
    "rate_for_batch",
    "role",
    "sharpness",
    "singular_values",
    "sweep",
    "table",
    "timescale",
    "transfer",
    "uses",
]
