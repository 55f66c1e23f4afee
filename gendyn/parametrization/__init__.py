"""Names of parameter axes, and what follows from which of them grow: roles, initialisation, learning rates.

One picture carries the room: a parameter is a box whose edges are named, some edges grow with the network and
some do not, and *which edges grow* decides how it is initialised, how fast it learns and how it is cut over
devices. `table` finds that out by building the network at several sizes; `init`, `parametrised` and `optimizer` apply
what a rule (`RULES`) makes of it.
"""

from gendyn.parametrization.axes import AXES, FINITE, ROLES, WIDTH, role
from gendyn.parametrization.optimizer import optimizer
from gendyn.parametrization.rules import DECAYS, OPTIMIZERS, RULES, Multipliers
from gendyn.parametrization.table import ParamTable, init, parametrised, table

__all__ = [
    "AXES",
    "DECAYS",
    "FINITE",
    "OPTIMIZERS",
    "ROLES",
    "RULES",
    "WIDTH",
    "Multipliers",
    "ParamTable",
    "init",
    "optimizer",
    "parametrised",
    "role",
    "table",
]
