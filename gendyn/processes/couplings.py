"""Couplings: which end of a path is paired with which.

A path joins two ends, a data point and a base point (the unit noise of a Gaussian path, a point of another data set in
a two-sided interpolant). A coupling says how the two are paired within a batch. The marginals of both ends stay what
they are; only the pairing changes, and with it how often paths cross.
"""

from __future__ import annotations

from typing import Any, Protocol

from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.tree import constant


class Coupling(Protocol):
    """Rearranges the base points of a batch so that row i belongs to data row i.

    `needs` names entries of the batch without which there is nothing to pair: ("base",) where the other end is stored
    with the data, () where the process may draw it.
    """

    @property
    def needs(self) -> tuple[str, ...]: ...

    def __call__(
        self, key: PRNGKeyArray, base: Float[Array, "batch *data"], data: Float[Array, "batch *data"], cond: Any = None
    ) -> Float[Array, "batch *data"]: ...


@constant
class Independent:
    """Base and data as they were drawn, independent of each other."""

    needs = ()

    def __call__(self, key: PRNGKeyArray, base: Array, data: Array, cond: Any = None) -> Array:
        return base


@constant
class Stored:
    """Pairs that come with the data: every example has an entry "base", its own other end (reflow, two data sets)."""

    needs = ("base",)

    def __call__(self, key: PRNGKeyArray, base: Array, data: Array, cond: Any = None) -> Array:
        return base


COUPLINGS = {"independent": Independent, "stored": Stored}
"""Name -> coupling; the shared tests read this list."""
