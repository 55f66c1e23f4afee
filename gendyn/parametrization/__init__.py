"""Names of parameter axes, and what follows from which of them grow: roles, initialisation, learning rates.

One picture carries the room: a parameter is a box whose edges are named, some edges grow with the network and
some do not, and *which edges grow* decides how it is initialised, how fast it learns and how it is cut over
devices. `table` finds that out by building the network at several sizes; `network`, `init` and `optimizer` apply what
a rule (`RULES`) makes of it.
"""

from gendyn.parametrization.axes import AXES, FINITE, ROLES, WIDTH, role
from gendyn.parametrization.coordinates import CoordinateCheck, coordinate_check
from gendyn.parametrization.optimizer import optimizer
from gendyn.parametrization.points import grid, random_search
from gendyn.parametrization.rules import DECAYS, DEPTHS, OPTIMIZERS, RULES, Multipliers
from gendyn.parametrization.scaled import init, network
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
    "ParamTable",
    "Transfer",
    "Trial",
    "Use",
    "activations",
    "coordinate_check",
    "grid",
    "init",
    "network",
    "optimizer",
    "random_search",
    "role",
    "sweep",
    "table",
    "transfer",
    "uses",
]
