"""Samplers of interpolants: orders, marginals that do not depend on the noise, both directions, refusals."""

import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import gendyn as gd
from gendyn import samplers
from gendyn.oracles import GaussianMixture, TwoSided
from gendyn.processes import INTERPOLANTS, Interpolant, fields
from gendyn.processes.interpolants import Bridge
from gendyn.samplers import FLOW_SAMPLERS, clock, times

BASE = GaussianMixture([0.5, 0.5], [[-1.5, 0.0], [-0.5, 1.0]], [[0.2, 0.1], [0.1, 0.3]])
DATA = GaussianMixture([0.3, 0.7], [[1.0, -0.5], [0.5, 1.0]], [[0.1, 0.2], [0.3, 0.05]])
EXACT = TwoSided(base=BASE, data=DATA)
PROCESS = INTERPOLANTS["linear_bridge"]()
ODE = [name for name in FLOW_SAMPLERS if name.startswith("flow")]
SDE = [name for name in FLOW_SAMPLERS if name.startswith("interpolant")]


def uneven(n, start=0.15, end=0.85):
    u = np.linspace(0, 1, n + 1)
    return times(PROCESS, start + (end - start) * (u + 0.1 * np.sin(2 * np.pi * u)))


@pytest.fixture(scope="module")
def reference():
    start = np.random.default_rng(0).standard_normal((40, 2))
    field = lambda t, x: EXACT.fields(PROCESS)(x.reshape(40, 2), t).ravel()
    end = solve_ivp(field, (0.15, 0.85), start.ravel(), method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    return start, end.reshape(40, 2)


@pytest.mark.parametrize("name", ODE)
def test_order_of_convergence(name, reference):
    """Multistep rules start at low order, which costs at most the order of start-up plus one: AB3 is left 2.7."""
    start, exact = reference
    errors = []
    for n in (40, 80, 160):
        plan = FLOW_SAMPLERS[name].build(PROCESS, uneven(n))
        x = samplers.run_eager(plan, EXACT.fields(PROCESS), start)
        errors.append(np.sqrt(np.mean((x - exact) ** 2)))
    order = np.log2(errors[0] / errors[-1]) / 2
    print(name, order)
    assert order > min(plan.order, 2 if name == "flow_ab3" else 9) - 0.3


@pytest.mark.parametrize("name", ODE)
def test_backwards_undoes_forwards_and_straight_lines_are_exact(name):
    process = INTERPOLANTS["linear"]()
    point = TwoSided(
        base=GaussianMixture([1.0], [[-1.0, 2.0]], [[1.0, 1.0]]),
        data=GaussianMixture([1.0], [[3.0, 0.5]], [[1.0, 1.0]]),
    )
    x = np.random.default_rng(0).standard_normal((5, 2))
    there = samplers.run_eager(FLOW_SAMPLERS[name].build(process, clock(process, 64)), point.fields(process), x)
    back = FLOW_SAMPLERS[name].build(process, clock(process, 64, t_start=1.0, t_end=0.0))
    returned = samplers.run_eager(back, point.fields(process), there)
    np.testing.assert_allclose(returned, x, atol=0.5 if back.order == 1 else 0.02)
    shift = gd.processes.fields.Fields(both=lambda x, t, cond: (np.array([4.0, -1.5]) + 0 * x, None), process=process)
    plan = FLOW_SAMPLERS[name].build(process, clock(process, 3))
    np.testing.assert_allclose(samplers.run_eager(plan, shift, x), x + np.array([4.0, -1.5]), rtol=1e-12)


@pytest.mark.parametrize("name", FLOW_SAMPLERS)
def test_calls_are_counted(name):
    calls = []
    plan = gd.plan(name, PROCESS, 12)
    samplers.run_eager(plan, lambda x, t: calls.append(t) or 0 * x, np.ones((1, 2)), noise=np.zeros((plan.rows, 1, 2)))
    assert plan.nfe == len(calls) == 12


# --- SDEs --------------------------------------------------------------------------------------------------------

GAUSSIAN = TwoSided(base=GaussianMixture([1.0], [[-1.0]], [[0.5]]), data=GaussianMixture([1.0], [[0.7]], [[0.3]]))
NOISES = {"of_gamma": fields.OfGamma(scale=1.0), "sine": fields.Sine(scale=2.0), "constant": fields.Constant(value=0.5)}


def moments(process, plan, diffusion, direction, mean, variance):
    """Mean and variance of the last state on Gaussian ends, by the affine recursion; no sampling.

    The drift of Gaussian ends is affine in x, so it maps (constant, start, draws ...) coefficients linearly.
    """
    drift = GAUSSIAN.drift(process, diffusion, direction)

    def apply(t, y):
        at_zero, at_one = (float(drift(np.array([[v]]), t)[0, 0]) for v in (0.0, 1.0))
        return (at_one - at_zero) * y + at_zero * np.eye(len(y))[0]

    basis = np.eye(2 + plan.rows)
    x = mean * basis[0] + np.sqrt(variance) * basis[1]
    history, draws = [0 * x] * plan.window, [0 * x] * plan.draws
    dot = lambda c, w: sum(a * b for a, b in zip(c, w))
    for i in range(plan.rows):
        draws = [basis[2 + i], *draws][: plan.draws]
        y = plan.ex[i] * x + dot(plan.em[i], history) + dot(plan.en[i], draws)
        history = [apply(plan.t[i], y), *history[:-1]]
        x = plan.sx[i] * x + dot(plan.sm[i], history) + dot(plan.sn[i], draws)
    return np.array([x[0], x[1:] @ x[1:]])


def marginal(process, t):
    a, b, g = process.a(t), process.b(t), process.gamma(t)
    return np.array([-1.0 * a + 0.7 * b, 0.5 * a**2 + 0.3 * b**2 + g**2])


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("name", SDE)
def test_weak_order_against_exact_marginals(name, noise, direction):
    errors, ends = [], (0.1, 0.9) if direction == "forward" else (0.9, 0.1)
    for n in (40, 80, 160):
        plan = FLOW_SAMPLERS[name].build(
            PROCESS, clock(PROCESS, n, t_start=ends[0], t_end=ends[1]), diffusion=NOISES[noise]
        )
        ours = moments(PROCESS, plan, NOISES[noise], direction, *marginal(PROCESS, ends[0]))
        errors.append(np.abs(ours - marginal(PROCESS, ends[1])).max())
    assert np.log2(errors[0] / errors[-1]) / 2 > plan.order - 0.15


@pytest.mark.parametrize("noise", ["of_gamma", "sine", "constant"])
def test_ode_and_sde_have_the_same_marginals(noise):
    """Mixture to mixture, 1500 samples, end to end: means, covariances and sliced W2 beside two fresh sets of data.

    False alarms: eight moments at 5 standard errors (5e-6), and W2 at twice the largest of 20 floors (< 1e-3).
    """
    diffusion = NOISES[noise]
    inside = {"t_start": 0.005, "t_end": 0.995} if noise == "constant" else {}
    grid = clock(PROCESS, 150, ends=1.5, **inside)
    start = BASE.sample(jax.random.key(1), 1500)
    if noise == "constant":  # the exact state a little inside: from both ends and the noise
        start, _ = PROCESS.perturb(jax.random.key(2), start, DATA.sample(jax.random.key(3), 1500), 0.005)
    model = EXACT.fields(PROCESS)
    plan = samplers.interpolant_heun(PROCESS, grid, diffusion=diffusion)
    sde = np.asarray(samplers.run(plan, model.drift(diffusion), start, key=jax.random.key(0)), np.float64)
    ode = np.asarray(samplers.run(samplers.flow_rk(PROCESS, grid), model, start), np.float64)
    fresh = [np.asarray(DATA.sample(jax.random.key(10 + i), 1500), np.float64) for i in range(8)]
    floor = max(gd.metrics.sliced_wasserstein(a, b).value for a in fresh[:4] for b in fresh[4:])
    for x in (sde, ode):
        error = np.abs(x.mean(0) - fresh[0].mean(0)) / (np.std(x, axis=0) * np.sqrt(2 / 1500))
        assert error.max() < 5
        spread = np.abs(np.cov(x.T) - np.cov(fresh[0].T)).max()
        assert spread < 5 * np.sqrt(2 * 2 / 1500) * np.cov(fresh[0].T).max()
        assert gd.metrics.sliced_wasserstein(x, fresh[0]).value < 2 * floor


def test_one_seed_is_one_path_on_every_grid():
    """Strong order: with draws from the Brownian clock the end points of refined grids approach one another."""
    start, diffusion = BASE.sample(jax.random.key(1), 200), fields.OfGamma()
    ends = []
    for n in (16, 64, 256):
        plan = samplers.interpolant_heun(PROCESS, clock(PROCESS, n, t_start=0.02, t_end=0.98), diffusion=diffusion)
        noise = samplers.brownian(plan, jax.random.key(5), start.shape)
        ends.append(np.asarray(samplers.run(plan, EXACT.fields(PROCESS).drift(diffusion), start, noise=noise)))
    coarse, fine = (np.sqrt(np.mean((a - ends[-1]) ** 2)) for a in ends[:2])
    assert fine < coarse / 2.5
    assert fine < 0.05


def test_refusals_name_the_remedy():
    process, grid = PROCESS, clock(PROCESS, 8)
    with pytest.raises(ValueError, match=r"not bounded at t = 0.*t_start=.*OfGamma"):
        samplers.interpolant_em(process, grid, diffusion=fields.Constant())
    straight = Interpolant()
    with pytest.raises(ValueError, match=r"no latent.*flow sampler"):
        samplers.interpolant_em(straight, clock(straight, 4), diffusion=fields.Sine())
    with pytest.raises(ValueError, match=r"heun does not run on Interpolant.*flow_euler"):
        gd.plan("heun", process, 9)
    with pytest.raises(ValueError, match=r"flow_heun does not run on EDM.*ddim"):
        gd.plan("flow_heun", gd.processes.EDM(), 10)
    with pytest.raises(ValueError, match="two different times"):
        clock(process, 5, t_end=1.5)
    with pytest.raises(ValueError, match="strictly one way"):
        times(process, [0.0, 0.5, 0.4])
    with pytest.raises(ValueError, match="scale of a bridge"):
        Bridge(scale=0.0)


def test_flow_samplers_run_on_gaussian_paths_too():
    process = gd.processes.RectifiedFlow()
    D = DATA.denoiser(process)
    plan = samplers.flow_rk(process, clock(process, 20, t_start=0.0, t_end=0.99), method="rk4")
    x_T = process.sample_prior(jax.random.key(0), (64, 2))
    ours = samplers.run(plan, gd.predictions.velocity(D, process), x_T)
    theirs = samplers.run(samplers.heun(process, samplers.grids.uniform_t(process, 400, t_end=0.99)), D, x_T)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_plans_of_interpolants_are_saved_with_what_they_call(tmp_path):
    plan = gd.plan("interpolant_heun", PROCESS, 8)
    samplers.save(tmp_path / "plan.npz", plan)
    assert samplers.load(tmp_path / "plan.npz").info == plan.info
