"""Names of parameter axes, and what follows from which of them grow: roles, initialisation, learning rates.

One picture carries the room: a parameter is a box whose edges are named, some edges grow with the network and
some do not, and *which edges grow* decides how it is initialised, how fast it learns and how it is cut over
devices. `table` finds that out by building the network at several sizes; `network`, `init` and `optimizer` apply what
a rule (`RULES`) makes of it.
"""

from gendyn.parametrization.axes import AXES, FINITE, ROLES, WIDTH, role
from gendyn.parametrization.coordinates import CoordinateCheck, Trial, coordinate_check
from gendyn.parametrization.optimizer import optimizer
from gendyn.parametrization.rules import DECAYS, DEPTHS, OPTIMIZERS, RULES, Multipliers
from gendyn.parametrization.scaled import init, network
from gendyn.parametrization.table import ParamTable, table
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
    "Trial",
    "Use",
    "activations",
    "coordinate_check",
    "init",
    "network",
    "optimizer",
    "role",
    "table",
    "uses",
]
