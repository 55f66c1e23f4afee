"""Sliced Wasserstein-2: optimal transport in one dimension, averaged over directions."""

import numpy as np
from jaxtyping import Float, Num

from gendyn.metrics.measure import Array, Features, Measure, embed


def sliced_wasserstein(
    samples: Num[Array, "n *data"],
    reference: Num[Array, "m *data"],
    *,
    features: Features | None = None,
    projections: int = 512,
    seed: int = 0,
) -> Measure:
    """Sliced Wasserstein-2 distance, in the units of the features.

        SW2(a, b)^2 = E_theta W2(theta . a, theta . b)^2,    theta uniform on the unit sphere of R^d,

    estimated with `projections` directions; each W2 is exact (see `wasserstein`), also when the sets differ in size.
    Two calls with one seed use the same directions, so their difference is not noise of the directions.

    Cost: O(projections (n + m) (d + log(n + m))). In one dimension the result is exact.
    Limits: a shift by v gives |v| / sqrt(d); the value is at most W2 / sqrt(d); for sets of n examples of one
    distribution it is not 0 but falls like n^-1/2, so print it beside the floor.

    >>> a = np.random.default_rng(0).standard_normal((100, 1))
    >>> print(sliced_wasserstein(a, a + 2.0))
    sliced_wasserstein = 2 (n=100 against 100, features: coordinates, directions: 512, seed: 0)

    References: Rabin et al. 2011, "Wasserstein barycenter and its application to texture mixing";
    Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures".
    """
    a, b, name = embed(samples, reference, features)
    directions = _directions(a.shape[1], projections, seed)
    # a few directions at a time: the projected sets, not the data, are the large arrays here
    squares = [wasserstein(a @ block, b @ block) ** 2 for block in np.array_split(directions, -(-projections // 64), 1)]
    return Measure(
        name="sliced_wasserstein",
        value=float(np.sqrt(np.concatenate(squares).mean())),
        n=len(a),
        reference_n=len(b),
        features=name,
        settings={"directions": projections, "seed": seed},
    )


def wasserstein(
    a: Float[np.ndarray, "n *columns"], b: Float[np.ndarray, "m *columns"], order: float = 2.0
) -> Float[np.ndarray, "*columns"]:
    """Exact Wasserstein distance of given order between sets of numbers, for each column.

        W_p(a, b)^p = int_0^1 |Q_a(u) - Q_b(u)|^p du,    Q the quantile functions (Villani 2003, Theorem 2.18).

    Q_a is constant between multiples of 1/n, Q_b between multiples of 1/m, so the integral is a finite sum over the
    joint intervals, n + m - gcd(n, m) of them; their ends are kept as integers in units of 1/(n m).

    >>> wasserstein(np.array([0.0]), np.array([3.0, 4.0]), order=1).item()
    3.5
    """
    n, m = len(a), len(b)
    ends = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    widths, starts = np.diff(ends) / (n * m), ends[:-1]
    gaps = np.abs(np.sort(a, axis=0)[starts // m] - np.sort(b, axis=0)[starts // n])
    return np.asarray(np.tensordot(widths, gaps**order, axes=1) ** (1.0 / order))


def _directions(size: int, count: int, seed: int) -> Float[np.ndarray, "size count"]:
    if count < 1:
        raise ValueError(f"sliced_wasserstein needs at least one direction, got projections={count}.")
    normal = np.random.default_rng(seed).standard_normal((size, count))
    return normal / np.linalg.norm(normal, axis=0)
