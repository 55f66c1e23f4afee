"""Empirical model statistics: what DPM-Solver-v3 knows about a network before it samples.

Along the probability flow in lam = log(alpha/sigma), split the network's output eps into a part linear in x and a rest,

    f = (sigma eps - l x)/alpha,          d f/d lam = s f + b + (what the solver has to approximate),

one number l, s, b per element of the data and per lam. The solver integrates l, s and b exactly and approximates only
what is left over; data form (l = 1, s = b = 0) and noise form (l = 0, s = -1, b = 0) are two fixed choices of them. The
best choice on average over the data makes f least dependent on x, and its derivative an affine function of it:

    l = E[ sigma diag(d eps/dx) ],        s = Cov(f, f')/Var(f),        b = E f' - s E f.

`estimate` measures them for any denoiser, `Statistics` holds them as tables over lam, saved beside the checkpoint.
"""

from gendyn.samplers.statistics.estimate import counted, estimate, moments, relative_difference
from gendyn.samplers.statistics.moments import Moments, statistics_of
from gendyn.samplers.statistics.pairs import Probes
from gendyn.samplers.statistics.quadrature import GAUSS, TRAPEZOID, Quadrature, collocation
from gendyn.samplers.statistics.tables import Origin, Statistics

__all__ = [
    "GAUSS",
    "TRAPEZOID",
    "Moments",
    "Origin",
    "Probes",
    "Quadrature",
    "Statistics",
    "collocation",
    "counted",
    "estimate",
    "moments",
    "relative_difference",
    "statistics_of",
]
