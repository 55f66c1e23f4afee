"""Phi-functions, quadrature and interpolation: the arithmetic below every exponential and Adams-type solver.

A solver advances x by an integral of the network's outputs, which it knows at a few nodes only:

    integral of w(s) f(s) ds  ~  sum_j f_j  integral of w(s) l_j(s) ds,

l_j the Lagrange polynomials of the nodes. Against w = e^{z (1 - s)} on [0, 1] the moments are k! phi_{k+1}(z).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gendyn.tree import namespace

SERIES_TERMS = 22  # below |z| = 1 the first term left out is 1/22! = 1e-21 of the first


def phi(k: int, z: Any) -> Any:
    """phi_k(z) = sum_j z^j/(j + k)!: phi_0 = e^z, phi_1 = (e^z - 1)/z, phi_{k+1} = (phi_k - 1/k!)/z.

    Hochbruck and Ostermann 2010, "Exponential integrators", section 2. The series serves |z| < 1, where the recursion
    would divide its rounding error by z k times; elsewhere the recursion loses at most k! units in the last place.
    Also k! phi_{k+1}(z) = integral of e^{z (1 - s)} s^k over [0, 1].

    >>> float(phi(2, 0.0))
    0.5
    """
    xp = namespace(z)
    small = xp.abs(z) < 1
    near, far = xp.where(small, z, 0.0), xp.where(small, 1.0, z)
    series = 0.0 * near
    for j in reversed(range(SERIES_TERMS)):
        series = series * near + 1 / math.factorial(j + k)
    recursion = xp.exp(far)
    for j in range(k):
        recursion = (recursion - 1 / math.factorial(j)) / far
    return xp.where(small, series, recursion)[()]


@lru_cache(maxsize=8)
def gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the n-point rule on [0, 1]: exact for polynomials up to degree 2n - 1.

    >>> nodes, weights = gauss_legendre(3)
    >>> float(weights @ nodes**5).__round__(15)
    0.166666666666667
    """
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


def lagrange(nodes: Sequence[Any], at: Any) -> list[Any]:
    """The Lagrange polynomials of the nodes, each evaluated at the points `at`: 1 at its own node, 0 at the others.

    In product form, which keeps full relative precision when the nodes differ by orders of magnitude, as noise levels
    do; a Vandermonde solve does not.
    """
    polynomials = []
    for j, own in enumerate(nodes):
        value = 1.0 + 0.0 * at
        for other in (*nodes[:j], *nodes[j + 1 :]):
            value = value * ((at - other) / (own - other))
        polynomials.append(value)
    return polynomials


def interpolant_average(nodes: Sequence[Any], at: Any, mass: Any) -> tuple[Any, ...]:
    """Weights v_j, of sum one, with sum_j v_j f_j the average over `mass` of the polynomial through (nodes_j, f_j).

    Args:
        nodes: where f is known, in the variable in which f is taken to be a polynomial.
        at: quadrature points in that variable, [Q].
        mass: their weights, [Q], of any total.

    >>> at, mass = gauss_legendre(2)
    >>> [round(float(v), 12) for v in interpolant_average((0.0, -1.0), at, mass)]
    [1.5, -0.5]
    """
    integrals = [(mass * value).sum() for value in lagrange(nodes, at)]
    total = sum(integrals)
    return tuple(value / total for value in integrals)
