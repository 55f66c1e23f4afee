"""Phi-functions, quadrature and interpolation against identities and exact rational values."""

from fractions import Fraction
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn.phi import gauss_legendre, interpolant_average, lagrange, phi

Z = np.array([-40.0, -3.0, -1.0001, -0.9999, -0.3, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.3, 0.9999, 1.0001, 3.0, 12.0])


@pytest.mark.parametrize("k", range(7))
def test_phi_against_its_series_in_exact_arithmetic(k):
    """Relative error at most k! units in the last place; the exact value is a rational sum of 250 terms."""
    for z in Z:
        exact = sum(Fraction(float(z)) ** j / factorial(j + k) for j in range(250))
        assert abs(phi(k, z) / float(exact) - 1) < 4e-16 * max(factorial(k), 4), z


@pytest.mark.parametrize("k", range(5))
def test_phi_is_a_moment(k):
    """k! phi_{k+1}(z) = integral of e^{z (1 - s)} s^k over [0, 1]."""
    s, weights = gauss_legendre(48)
    for z in Z:
        np.testing.assert_allclose(factorial(k) * phi(k + 1, z), weights @ (np.exp(z * (1 - s)) * s**k), rtol=1e-12)


def test_phi_vanishes_for_infinite_negative_argument():
    assert [float(phi(k, -np.inf)) for k in (0, 1, 2, 3)] == [0.0, 0.0, 0.0, 0.0]


def test_phi_follows_jax_and_has_gradients_through_zero():
    """d phi_1/dz = phi_1 - phi_2 at 0 is 1/2."""
    assert isinstance(phi(1, jnp.float32(0.1)), jax.Array)
    np.testing.assert_allclose(jax.grad(lambda z: phi(1, z))(0.0), 0.5, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda z: phi(3, z))(2.0))


def test_lagrange_reproduces_polynomials():
    nodes, at = (3.0, -1.0, 0.5, 150.0), np.linspace(-2, 2, 7)
    for degree in range(4):
        values = sum(n**degree * weight for n, weight in zip(nodes, lagrange(nodes, at)))
        np.testing.assert_allclose(values, at**degree, atol=1e-8)


@pytest.mark.parametrize(
    ("nodes", "published"),
    [
        ((0, -1), (3 / 2, -1 / 2)),
        ((0, -1, -2), (23 / 12, -16 / 12, 5 / 12)),
        ((0, -1, -2, -3), (55 / 24, -59 / 24, 37 / 24, -9 / 24)),
        ((1, 0, -1), (5 / 12, 8 / 12, -1 / 12)),
    ],
)
def test_average_gives_the_adams_rules(nodes, published):
    """Adams-Bashforth of 2, 3, 4 values and Adams-Moulton of 3, as tabulated everywhere."""
    np.testing.assert_allclose(
        interpolant_average([float(n) for n in nodes], *gauss_legendre(4)), published, rtol=1e-13
    )
