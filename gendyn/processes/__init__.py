"""Forward dynamics: how data becomes noise.

Every process here is an affine path

    x = alpha(t) data + sigma(t) noise,        noise ~ N(0, I), or heavy-tailed (PFGM++, see `noise`),

and only the pair (alpha, sigma) and the law of the noise tell one from another. Dividing by alpha turns each of them
into the exploding path with noise level sigma/alpha = e^{-lam}, which is why one denoiser, one set of conversions and
one set of samplers serve them all. Each process keeps the clock of its own literature and says which end is which
(`t_noise`, `t_data`); nothing outside this room may assume a direction.
"""

from gendyn.processes import couplings, fields, interpolants, mean_reverting, noise
from gendyn.processes.describe import describe, from_description
from gendyn.processes.flows import GVP, RectifiedFlow
from gendyn.processes.gaussian import GaussianPath, Process
from gendyn.processes.interpolants import INTERPOLANTS, Interpolant, OneSided
from gendyn.processes.mean_reverting import MeanReverting
from gendyn.processes.pfgmpp import PFGMPP
from gendyn.processes.variance_exploding import EDM, VE
from gendyn.processes.variance_preserving import SubVP, VPCosine, VPDiscrete, VPLinear

PROCESSES = {
    "vp_linear": VPLinear,
    "vp_cosine": VPCosine,
    "vp_discrete": VPDiscrete.linear,
    "vp_discrete_scaled": VPDiscrete.scaled_linear,
    "vp_discrete_cosine": VPDiscrete.cosine,
    "subvp": SubVP,
    "ve": VE,
    "edm": EDM,
    "pfgmpp": PFGMPP,
    "gvp": GVP,
    "rectified_flow": RectifiedFlow,
    "one_sided_bridge": OneSided,
    "mean_reverting": MeanReverting,
}
"""Name -> constructor with its published defaults; the command line, the shared tests and the README read this list."""

__all__ = [
    "EDM",
    "GVP",
    "INTERPOLANTS",
    "PFGMPP",
    "PROCESSES",
    "VE",
    "GaussianPath",
    "Interpolant",
    "MeanReverting",
    "OneSided",
    "Process",
    "RectifiedFlow",
    "SubVP",
    "VPCosine",
    "VPDiscrete",
    "VPLinear",
    "couplings",
    "describe",
    "fields",
    "from_description",
    "interpolants",
    "mean_reverting",
    "noise",
]
