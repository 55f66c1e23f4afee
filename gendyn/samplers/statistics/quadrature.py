"""The integrals of a DPM-Solver-v3 step, cell by cell.

On a cell of the tables l, s and b are linear in lam, so L = int l and S = int s are parabolas, known exactly, and

    B' = e^{-S} b,        (integral of anything else)' = e^{L+S} times it

is a system of pure quadratures, which a collocation rule (an implicit Runge-Kutta method, that is) solves cell by cell.
Two Lobatto points are the trapezoidal rule of the published code; four Gauss points are exact to rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gendyn.phi import gauss_legendre, lagrange
from gendyn.samplers.statistics.tables import Statistics

SAME = 1e-9  # in lam: nodes closer than this are one node


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Quadrature:
    """A collocation rule on a cell [0, 1].

    Attributes:
        points: [Q]. weights: of the whole cell, [Q].
        partial: [Q, Q], integral from 0 to point q is partial[q] . values at the points.
        widest: cells are cut until none is wider, in lam.
    """

    points: np.ndarray
    weights: np.ndarray
    partial: np.ndarray
    widest: float


def collocation(points: Sequence[float] | np.ndarray, widest: float = np.inf) -> Quadrature:
    """The rule that integrates the polynomial through its points.

    >>> collocation((0.0, 1.0)).weights.tolist()
    [0.5, 0.5]
    """
    at, mass = gauss_legendre(len(points))
    points = [float(c) for c in points]

    def integral(end: float) -> list[Any]:
        return [end * (mass * value).sum() for value in lagrange(points, end * at)]

    return Quadrature(
        points=np.asarray(points, float),
        weights=np.array(integral(1.0)),
        partial=np.array([integral(end) for end in points]),
        widest=widest,
    )


GAUSS = collocation(gauss_legendre(4)[0], widest=0.1)
"""Exact in each cell, to rounding: of order 8, on cells of at most 0.1."""

TRAPEZOID = collocation((0.0, 1.0))
"""As published: relative error of about a twelfth of the squared spacing of the tables."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Integrals:
    """What a step from lam_s to lam_e needs, every integral counted from lam_s.

    Attributes:
        decay: e^{-L} at lam_e, [*data].
        mass: e^{L+S} dlam at the quadrature points between lam_s and lam_e, [points, *data]; `at`, [points], is where.
        forcing: the integral of e^{L+S} B dlam over the step, [*data].
        edges, decay_s, B: e^{-S} and B at the edges of the cells, which include the nodes that were asked for.
    """

    decay: np.ndarray
    at: np.ndarray
    mass: np.ndarray
    forcing: np.ndarray
    edges: np.ndarray
    decay_s: np.ndarray
    B: np.ndarray

    def average(self, polynomial: Float[np.ndarray, " points"]) -> np.ndarray:
        """The integral of e^{L+S} times a function given at the quadrature points, [*data]."""
        return np.einsum("p,p...->...", polynomial, self.mass)

    def at_node(self, lam: float) -> tuple[np.ndarray, np.ndarray]:
        """(e^{-S}, B) at a node."""
        i = _index(self.edges, lam)
        return self.decay_s[i], self.B[i]


def integrate(
    statistics: Statistics, start: float, end: float, others: Sequence[float], quadrature: Quadrature
) -> Integrals:
    """The integrals of a step from `start` to `end` whose polynomial passes through `others` too (all in lam).

    Exponents are differences to `start`, so nothing overflows however far the tables reach.
    """
    edges = _mesh(np.asarray(statistics.lam), np.array([start, end, *others]), quadrature.widest)
    zero, width = _index(edges, start), np.diff(edges)
    at = edges[:-1, None] + width[:, None] * quadrature.points
    tables, inside = statistics.at(edges), statistics.at(at)
    column = (slice(None), None) + (None,) * (inside[0].ndim - 2)
    (L, L_in), (S, S_in) = (_linear(edges, at, tables[k], inside[k], zero) for k in (0, 1))
    weights = width[:, None] * quadrature.weights
    forced = np.exp(-S_in) * inside[2]
    B = _cumulative(np.einsum("cq,cq...->c...", weights, forced), zero)
    B_in = B[:-1, None] + width[column] * np.einsum("qr,cr...->cq...", quadrature.partial, forced)
    mass = np.einsum("cq,cq...->cq...", weights, np.exp(L_in + S_in))[zero:]
    return Integrals(
        decay=np.exp(-L[-1]),
        at=at[zero:].ravel(),
        mass=mass.reshape(-1, *mass.shape[2:]),
        forcing=(mass * B_in[zero:]).sum((0, 1)),
        edges=edges,
        decay_s=np.exp(-S),
        B=B,
    )


def _mesh(table: np.ndarray, nodes: np.ndarray, widest: float) -> np.ndarray:
    """The nodes, those of the table between them, and cuts through cells that are too wide."""
    nodes = np.unique(nodes)
    inner = table[(table > nodes[0]) & (table < nodes[-1])]
    edges = np.sort(np.concatenate([nodes, inner[np.abs(inner[:, None] - nodes).min(1) > SAME]]))
    parts = np.maximum(np.ceil(np.diff(edges) / widest), 1).astype(int)
    cuts = [np.linspace(a, b, k, endpoint=False) for a, b, k in zip(edges[:-1], edges[1:], parts, strict=True)]
    return np.append(np.concatenate(cuts), edges[-1])


def _index(edges: np.ndarray, lam: float) -> int:
    return int(np.abs(edges - lam).argmin())


def _cumulative(per_cell: np.ndarray, zero: int) -> np.ndarray:
    """Integrals from edge `zero` to every edge."""
    total = np.concatenate([np.zeros_like(per_cell[:1]), np.cumsum(per_cell, axis=0)])
    return total - total[zero]


def _linear(
    edges: np.ndarray, at: np.ndarray, on_edges: np.ndarray, inside: np.ndarray, zero: int
) -> tuple[np.ndarray, np.ndarray]:
    """The integral of a function that is linear on each cell: at the edges, and at the points inside."""
    shape = (1,) * (on_edges.ndim - 1)
    width = np.diff(edges).reshape(-1, *shape)
    total = _cumulative(0.5 * width * (on_edges[:-1] + on_edges[1:]), zero)
    part = (at - edges[:-1, None]).reshape(*at.shape, *shape)
    return total, total[:-1, None] + 0.5 * part * (on_edges[:-1, None] + inside)
