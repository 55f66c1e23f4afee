"""Draws cut from one path: unit variance, independence, refinement, and the strong order they make visible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn import oracles
from gendyn.processes import EDM, PROCESSES
from gendyn.samplers import ancestral, brownian, grids, plan, run_eager
from gendyn.samplers.brownian import CELL
from gendyn.samplers.levels import CLOCK_END

KEY = jax.random.key(0)


def on_lattice(lam):
    """Nodes that the path's lattice represents exactly, so that identities hold to rounding."""
    return np.rint((np.asarray(lam) + CLOCK_END) / CELL) * CELL - CLOCK_END


def ancestral_on(lam, name="edm"):
    process = PROCESSES[name]()
    return ancestral(process, grids.explicit(process, lam=on_lattice(lam)))


def test_draws_are_independent_unit_normals():
    """Covariance of 6 rows over 20,000 elements: 6 standard errors each, false alarm below 1e-7 (fixed key)."""
    n = 20_000
    draws = np.asarray(brownian(ancestral_on([-3.0, -2.9, -1.0, -0.2, 0.0, 2.0, 4.0]), KEY, (n, 1)))[..., 0]
    assert draws.shape == (6, n)
    covariance = draws @ draws.T / n
    assert np.all(np.abs(covariance - np.eye(6)) < 6 * np.sqrt((1 + np.eye(6)) / n))
    assert np.all(np.abs(draws.mean(1)) < 6 / np.sqrt(n))


def test_a_coarse_draw_is_the_exact_combination_of_fine_draws():
    """U(b) - e^{-(b-a)} U(a) = sum over pieces of e^{-(b - b_j)} (U(b_j) - e^{-(b_j - a_j)} U(a_j))."""
    lam = on_lattice(np.linspace(-2.0, 1.0, 13))
    shape = (5, 2)
    fine = np.asarray(brownian(ancestral_on(lam), KEY, shape), np.float64)
    coarse = np.asarray(brownian(ancestral_on(lam[::4]), KEY, shape), np.float64)

    def spread(width):
        return np.sqrt(-np.expm1(-2 * width))

    for i in range(3):
        end = lam[4 * (i + 1)]
        pieces = [
            np.exp(-(end - lam[j + 1])) * spread(lam[j + 1] - lam[j]) * fine[j] for j in range(4 * i, 4 * (i + 1))
        ]
        np.testing.assert_allclose(coarse[i], sum(pieces) / spread(end - lam[4 * i]), atol=1e-5)


def test_the_path_depends_on_the_key_alone():
    short, long = ancestral_on([-1.0, 0.0, 1.0]), ancestral_on([-2.0, -1.0, 0.0, 1.0, 2.0])
    np.testing.assert_array_equal(brownian(short, KEY, (3,)), brownian(long, KEY, (3,))[1:3])
    vp = ancestral_on([-1.0, 0.0, 1.0], "vp_linear")
    np.testing.assert_allclose(brownian(vp, KEY, (3,)), brownian(short, KEY, (3,)), atol=1e-4)
    assert not np.allclose(brownian(short, jax.random.key(1), (3,)), brownian(short, KEY, (3,)))


def test_one_key_per_example_is_independent_of_neighbours():
    ours, keys = ancestral_on([-1.0, 0.0, 1.0]), jax.random.split(KEY, 4)
    together = brownian(ours, keys, (4, 2))
    order = np.array([3, 1])
    np.testing.assert_array_equal(brownian(ours, keys[order], (2, 2)), together[:, order])
    assert np.unique(np.round(together, 5)).size == together.size


def test_rows_without_an_interval_receive_zeros():
    ours = plan("heun", EDM(), nfe=5).pad(rows=7, draws=1)
    draws = np.asarray(brownian(ours, KEY, (2,)))
    empty = ours.clock[:, 0] == ours.clock[:, 1]
    assert empty.tolist() == [False, True, False, True, False, True, True]
    assert (draws[empty] == 0).all()
    assert (draws[~empty] != 0).all()


def test_unbounded_ends_of_the_clock_are_cut():
    """Pure noise to clean data: lam from -inf to +inf; draws stay finite and of unit size."""
    process = PROCESSES["rectified_flow"]()
    draws = brownian(ancestral(process, grids.uniform_t(process, 4)), KEY, (2000,))
    assert np.all(np.abs(np.asarray(draws).std(1) - 1) < 0.1)


def test_steps_below_the_resolution_are_refused():
    with pytest.raises(ValueError, match="resolves steps of at least"):
        brownian(ancestral(EDM(), grids.explicit(EDM(), lam=[0.0, 1e-8])), KEY, (2,))


@pytest.mark.parametrize("name", ["edm", "vp_linear", "rectified_flow"])
def test_strong_order_on_a_shared_path(name):
    """Ancestral sampling (ddim with eta = 1): root mean square distance to the finest solution on the same path."""
    process, mixture = PROCESSES[name](), oracles.GaussianMixture([1.0], [[0.7]], [[0.3]])
    nodes = on_lattice(np.linspace(-2.0, 1.0, 641))
    shape, ends = (300, 1), {}
    start = process.t_of_lam(nodes[0])
    x_T = process.alpha(start) * 0.7 + 2 * process.sigma(start) * np.random.default_rng(0).standard_normal(shape)
    for n in (20, 40, 80, 640):
        ours = ancestral(process, grids.explicit(process, lam=nodes[:: 640 // n]))
        noise = np.asarray(brownian(ours, KEY, shape), np.float64)
        ends[n] = run_eager(ours, mixture.denoiser(process), x_T, noise=noise)
    errors = [np.sqrt(np.mean((ends[n] - ends[640]) ** 2)) for n in (20, 40, 80)]
    slopes = -np.diff(np.log2(errors))
    print(f"{name:>16} {slopes.round(2)}")
    assert np.all((slopes > 0.85) & (slopes < 1.3))


def test_brownian_draws_are_float32_and_jit_free_of_the_plan():
    draws = brownian(ancestral_on([-1.0, 1.0]), KEY, (2, 3))
    assert draws.dtype == jnp.float32
