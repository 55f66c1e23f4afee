"""Consistency sampling as a plan: algorithm 1, exact marginals on any path, refusals."""

import jax
import numpy as np
import pytest

from gendyn import oracles
from gendyn.processes import EDM, PFGMPP, PROCESSES, RectifiedFlow
from gendyn.samplers import MAPS, SAMPLERS, consistency, grids, plan, run, run_eager

COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])
GAUSSIAN = oracles.GaussianMixture([1.0], [[0.7, -0.2]], COVARIANCE[None])


def test_the_exact_function_ends_where_the_probability_flow_does():
    """Heun with 800 calls on the exact denoiser, from one node of the path to its end."""
    for name in ("edm", "vp_linear"):
        process = PROCESSES[name]()
        grid = grids.uniform_lam(process, 400)
        x_T = process.sigma(grid.t[0]) * np.array([[1.0, -0.5], [0.3, 2.0]])
        flowed = run_eager(SAMPLERS["heun"].build(process, grid), GAUSSIAN.denoiser(process), x_T)
        s_min = grid.sigma[-1] / grid.alpha[-1]
        f = oracles.consistency_function(GAUSSIAN, process, s_min)
        np.testing.assert_allclose(f(x_T, grid.t[0]), flowed / grid.alpha[-1], atol=2e-4)


@pytest.mark.parametrize(("name", "nfe"), [("edm", 1), ("edm", 3), ("ve", 2), ("vp_linear", 2), ("mean_reverting", 3)])
def test_any_number_of_jumps_keeps_the_marginal(name, nfe):
    """20,000 samples from the exact marginal at the first node: mean and covariance of the data with s_min noise,
    within 6 standard errors (fixed keys)."""
    process, n = PROCESSES[name](), 20_000
    jumps = plan("consistency", process, nfe)
    assert jumps.nfe == nfe
    t, end = jumps.t[0], process.interval[1]
    alpha, s_min = process.alpha(end), process.sigma(end) / process.alpha(end)
    x_T, _ = process.perturb(jax.random.key(0), GAUSSIAN.sample(jax.random.key(1), n), float(t))
    x = run(jumps, oracles.consistency_function(GAUSSIAN, process, s_min), x_T, key=jax.random.key(2)) / alpha
    wanted = COVARIANCE + s_min**2 * np.eye(2)
    deviation = np.asarray(x) - GAUSSIAN.means[0]
    assert (np.abs(deviation.mean(0)) < 6 * np.sqrt(np.diag(wanted) / n) + 1e-3).all()
    np.testing.assert_allclose(np.cov(deviation.T), wanted, atol=6 * np.sqrt(2 / n) * wanted.max())


def test_the_table_is_the_published_algorithm():
    """x <- f(x, sigma), x <- x + sqrt(sigma_next^2 - sigma_min^2) z, and f alone at the end."""
    process = EDM(sigma_min=0.1, sigma_max=20.0)
    levels = [20.0, 3.0, 0.8, 0.1]
    made = consistency(process, grids.explicit(process, times=levels))
    random = np.random.default_rng(0)
    x_T, z = 20 * random.standard_normal((5, 2)), random.standard_normal((3, 5, 2))
    f = lambda x, t: np.tanh(x) * np.cos(t) + 0.1 * x
    x = f(x_T, 20.0)
    for sigma, draw in zip(levels[1:-1], z):
        x = f(x + np.sqrt(sigma**2 - 0.01) * draw, sigma)
    np.testing.assert_allclose(run_eager(made, f, x_T, noise=z), x, rtol=1e-12)
    clean = consistency(process, grids.explicit(process, times=levels[:-1], final_zero=True))
    np.testing.assert_allclose(clean.sn, made.sn, rtol=1e-12)


def test_one_jump_draws_nothing_and_names_are_found():
    assert plan("consistency", EDM(), nfe=1).draws == 0
    assert "consistency" in MAPS
    assert "consistency" not in SAMPLERS
    with pytest.raises(ValueError, match=r"choose one of ddim, .*consistency"):
        plan("consistent", EDM(), nfe=1)


@pytest.mark.parametrize("nfe", [1, 2])
def test_what_cannot_work_is_refused(nfe):
    with pytest.raises(ValueError, match="adds Gaussian noise again"):
        plan("consistency", PFGMPP(D=128), nfe)
    with pytest.raises(ValueError, match="starts at pure noise"):
        consistency(RectifiedFlow(), grids.uniform_t(RectifiedFlow(), nfe))
