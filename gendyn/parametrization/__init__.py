"""Names of parameter axes and the roles that follow from them; see `axes`.

One picture carries the room: a parameter is a box whose edges are named, some edges grow with the network and
some do not, and *which edges grow* decides how it is initialised, how fast it learns and how it is cut over
devices.
"""

from gendyn.parametrization.axes import AXES, FINITE, ROLES, WIDTH, role

__all__ = ["AXES", "FINITE", "ROLES", "WIDTH", "role"]
