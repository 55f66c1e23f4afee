"""Adaptive solves: closed-form flows, inverses, counted calls, one path at any tolerance, refusals."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn import denoiser
from gendyn.oracles import GaussianMixture
from gendyn.processes import EDM, PROCESSES
from gendyn.samplers import decode, encode, odeint, sdeint
from gendyn.samplers.adaptive import default_ends

MEAN, VARIANCE = 0.7, 0.3
GAUSSIAN = GaussianMixture([1.0], [[MEAN]], [[VARIANCE]])
MIXTURE = GaussianMixture([0.4, 0.6], [[-1.0, 0.3], [0.8, -0.2]], [[0.15, 0.05], [0.4, 0.3]])


@pytest.mark.parametrize("name", ["vp_linear", "edm", "rectified_flow"])
def test_flow_of_gaussian_data_in_both_directions(name, x64):
    """(x - alpha mean)/sqrt(alpha^2 variance + sigma^2) is constant along the flow."""
    process = PROCESSES[name]()
    ends = default_ends(process)
    standard = lambda x, t: (
        (x - process.alpha(t) * MEAN) / jnp.hypot(process.alpha(t) * VARIANCE**0.5, process.sigma(t))
    )
    x = jnp.linspace(-2, 2, 5)[:, None] * process.sigma(ends[0])
    options = {"rtol": 1e-10, "atol": 1e-10, "solver": diffrax.Dopri8()}
    down = decode(process, GAUSSIAN.denoiser(process), x, **options)
    np.testing.assert_allclose(standard(down.x, ends[1]), standard(x, ends[0]), atol=1e-8)
    back = encode(process, GAUSSIAN.denoiser(process), down.x, **options)
    np.testing.assert_allclose(back.x, x, atol=1e-8 * float(process.sigma(ends[0])))


def test_error_follows_the_tolerance(x64):
    process, x = EDM(), 80 * jax.random.normal(jax.random.key(0), (8, 2))
    solve = lambda tolerance: decode(process, MIXTURE.denoiser(process), x, rtol=tolerance, atol=tolerance)
    exact = solve(1e-10)
    errors = [float(jnp.abs(solve(tolerance).x - exact.x).max()) for tolerance in (1e-3, 1e-6)]
    assert errors[0] < 0.05
    assert errors[1] < 1e-4
    assert errors[1] < 0.05 * errors[0]


@pytest.mark.parametrize("solver", [diffrax.Tsit5(), diffrax.Heun()], ids=["first same as last", "plain"])
def test_network_calls_are_counted(solver):
    counted = []

    def D(x, t, cond=None):
        jax.debug.callback(lambda: counted.append(1))
        return MIXTURE.denoiser(EDM())(x, t)

    solution = odeint(EDM(), D, jnp.ones((3, 2)), 5.0, 0.05, rtol=1e-3, atol=1e-3, solver=solver)
    jax.effects_barrier()
    assert int(solution.nfe) == len(counted)


def test_stochastic_calls_are_counted_and_cond_arrives():
    counted = []

    def D(x, t, cond):
        jax.debug.callback(lambda: counted.append(1))
        return 0 * x + cond

    solution = sdeint(EDM(), D, jnp.ones((3, 2)), 5.0, 0.05, jax.random.key(0), rtol=1e-1, atol=1e-1, cond=7.0)
    jax.effects_barrier()
    assert int(solution.nfe) == len(counted)
    np.testing.assert_allclose(solution.x, 7.0, atol=0.3)


@pytest.mark.slow
def test_sde_reaches_the_marginal():
    """4096 draws in one dimension, bounds at 4 standard errors: false alarms once in ten thousand keys."""
    process, key = PROCESSES["vp_linear"](), jax.random.key(0)
    t_start, t_end = 0.8, 0.2
    x, _ = process.perturb(key, GAUSSIAN.sample(jax.random.key(1), 4096), t_start)
    D = GAUSSIAN.denoiser(process)
    solution = sdeint(process, D, x, t_start, t_end, jax.random.key(2), rtol=1e-2, atol=1e-2)
    alpha, sigma = float(process.alpha(t_end)), float(process.sigma(t_end))
    assert abs(float(solution.x.mean()) - alpha * MEAN) < 0.04
    np.testing.assert_allclose(float(solution.x.var()), alpha**2 * VARIANCE + sigma**2, rtol=0.09)


def test_sde_follows_one_path_at_any_tolerance_and_the_flow_without_noise():
    process, key = EDM(), jax.random.key(0)
    D, x = MIXTURE.denoiser(process), 3 * jax.random.normal(key, (8, 2))
    solve = lambda key, tolerance, **o: sdeint(process, D, x, 3.0, 0.3, key, rtol=tolerance, atol=tolerance, **o).x
    fine = solve(key, 1e-3)
    assert float(jnp.abs(solve(key, 1e-2) - fine).max()) < 0.03
    assert float(jnp.abs(solve(jax.random.key(1), 1e-2) - fine).max()) > 0.3
    flow = odeint(process, D, x, 3.0, 0.3).x
    np.testing.assert_allclose(solve(key, 1e-3, eta=0.0), flow, atol=2e-3)


def test_pure_noise_is_a_legal_start():
    process = PROCESSES["gvp"]()
    x_T = process.sample_prior(jax.random.key(0), (4, 2))
    solution = decode(process, MIXTURE.denoiser(process), x_T)
    assert np.isfinite(solution.x).all()
    eps = denoiser(lambda params, x, label, cond: x, None, process, "eps")
    with pytest.raises(ValueError, match="does not determine the denoised at t = 0"):
        decode(process, eps, x_T)


def test_bad_arguments_are_refused_in_words():
    x, D = jnp.ones((2, 1)), GAUSSIAN.denoiser(EDM())
    with pytest.raises(ValueError, match=r"sigma above zero; got \[80.0, 0.0\]: stop before the clean end.* t = 0.002"):
        odeint(EDM(), D, x, 80.0, 0.0)
    with pytest.raises(ValueError, match="solver must be an explicit Runge-Kutta method"):
        odeint(EDM(), D, x, 80.0, 0.002, solver=diffrax.Kvaerno3())
    with pytest.raises(ValueError, match="runs from noise to data"):
        sdeint(EDM(), D, x, 0.002, 80.0, jax.random.key(0))
    flow = PROCESSES["rectified_flow"]()
    with pytest.raises(ValueError, match="times with finite lam"):
        sdeint(flow, GAUSSIAN.denoiser(flow), x, 0.0, 0.9, jax.random.key(0))
    with pytest.raises(ValueError, match="eta must be zero or positive"):
        sdeint(EDM(), D, x, 80.0, 0.002, jax.random.key(0), eta=-1.0)
