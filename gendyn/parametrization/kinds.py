"""Kinds of parameters: which sides of a kernel grow, from the computation or, where none is given, from the layout."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gendyn.parametrization.axes import ROLES, named
from gendyn.parametrization.uses import Sides, Use
from gendyn.parametrization.widths import Growth

NOT_FANS = ("layers",)
"""Axes that are neither fan-in nor fan-out."""


@dataclass(frozen=True)
class Kind:
    """A kind's name (`axes.ROLES`), and how much the two sides have grown."""

    name: str
    m_in: float
    m_out: float


def kind(entry: Growth, uses: frozenset[Use] | None, given: Mapping[str, str]) -> Kind:
    """What a parameter is.

    Args:
        uses: what the computation does with it; None or empty leaves the house layout: the last axis is the output,
            all before it are contracted.
        given: regular expression of a path -> kind, for what cannot be found out.

    Raises:
        ValueError: a parameter used in two ways, or otherwise than its axes say; an unknown kind.
    """
    for expression, name in given.items():
        if re.search(expression, entry.path):
            if name not in ROLES:
                raise ValueError(f"kinds are {', '.join(ROLES)}; got {name!r} for {expression!r}.")
            return Kind(name, *_growths(entry, *_layout(entry)))
    fan_in, fan_out = _layout(entry)
    declared = bool(entry.axes)
    if uses:
        found = _only(entry, uses)
        if declared and found.how != "elementwise" and (found.fan_in, found.fan_out) != (fan_in, fan_out):
            raise ValueError(
                f"{entry.path} declares the axes {entry.axes}, of which all but the last are contracted, but the "
                f"network contracts dimensions {sorted(found.fan_in)}; lay it out (..., in, out), or give its kind in "
                "kinds=."
            )
        if not declared:
            fan_in, fan_out = found.fan_in, found.fan_out
    m_in, m_out = _growths(entry, fan_in, fan_out)
    grows_in, grows_out = (any(entry.ratios[d] is not None for d in side) for side in (fan_in, fan_out))
    return Kind(named(bool(fan_in), grows_in, grows_out), m_in, m_out)


def _only(entry: Growth, uses: frozenset[Use]) -> Use:
    """The one way in which a parameter is used; a second by which it is only added or multiplied does not count."""
    kernels = [use for use in uses if use.how != "elementwise"] or list(uses)
    if len({(use.fan_in, use.fan_out) for use in kernels}) > 1:
        raise ValueError(
            f"{entry.path} is used in several ways ({', '.join(sorted(use.how for use in kernels))}, along different "
            "dimensions), for which no single rule is right; give each use a parameter of its own, or its kind in "
            "kinds= (tied embeddings: 'input', with the readout multiplied by one over the growth of its width)."
        )
    return kernels[0]


def _layout(entry: Growth) -> tuple[Sides, Sides]:
    dims = [d for d in range(len(entry.ratios)) if not (entry.axes and entry.axes[d] in NOT_FANS)]
    return frozenset(dims[:-1]), frozenset(dims[-1:])


def _growths(entry: Growth, fan_in: Sides, fan_out: Sides) -> tuple[float, float]:
    m_in, m_out = (math.prod(entry.ratios[d] or 1.0 for d in side) for side in (fan_in, fan_out))
    return float(m_in), float(m_out)
