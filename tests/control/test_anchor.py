"""Plans around a mean per sample: the MR-Sampler's steps, the shift identity, exact solutions, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn import oracles
from gendyn.control import anchored, cfg, restore
from gendyn.processes import MeanReverting, VPLinear
from gendyn.processes.mean_reverting import Linear
from gendyn.samplers import SAMPLERS, ancestral, dpm_solver, dpmpp, grids, run, run_eager, sde_dpmpp

PROCESS = MeanReverting(sigma_inf=0.3)
TIMES = np.array([0.97, 0.8, 0.66, 0.5, 0.41, 0.3])
X_T, MU = np.array([[0.3, -0.7], [1.1, 0.2]]), np.array([[0.5, 0.1], [-0.4, 0.8]])


def model(x, t, cond=None):
    """Some smooth prediction of the data in x-space."""
    return np.tanh(2 * x) + 0.3 * np.sin(5 * t)


# --- The MR-Sampler's four steps, as the paper's authors state them in x (Li et al. 2025) ------------------------


def mr_step(stochastic, prediction, s, e, x, mu, q, z):
    """One step s -> e from the outputs q at s and before (newest first), with D1 = (q0 - q1)/r, r = h_prev/h."""
    (t_s, *before), t_e = s, e
    alpha_s, alpha_e, sigma_s, sigma_e = (f(t) for f in (PROCESS.alpha, PROCESS.sigma) for t in (t_s, t_e))
    h = PROCESS.lam(t_e) - PROCESS.lam(t_s)
    slope = 0.0 if len(q) == 1 else (q[0] - q[1]) * h / (PROCESS.lam(t_s) - PROCESS.lam(before[0]))
    if prediction == "noise":
        factor = 2.0 if stochastic else 1.0
        step = (np.exp(h) - 1) * q[0] + ((np.exp(h) - 1) / h - 1) * slope
        x = alpha_e / alpha_s * x + (1 - alpha_e / alpha_s) * mu - factor * sigma_e * step
        return x + stochastic * sigma_e * np.sqrt(np.exp(2 * h) - 1) * z
    if not stochastic:
        step = (1 - np.exp(-h)) * q[0] + (1 - (1 - np.exp(-h)) / h) * slope
        shift = 1 - sigma_e / sigma_s + sigma_e * alpha_s / sigma_s - alpha_e
        return sigma_e / sigma_s * x + mu * shift + alpha_e * step
    step = (1 - np.exp(-2 * h)) * q[0] + (1 - (1 - np.exp(-2 * h)) / (2 * h)) * slope
    shift = 1 - alpha_e / alpha_s * np.exp(-2 * h) - alpha_e * (1 - np.exp(-2 * h))
    x = sigma_e / sigma_s * np.exp(-h) * x + mu * shift + alpha_e * step
    return x + sigma_e * np.sqrt(1 - np.exp(-2 * h)) * z


def mr_sampler(stochastic, prediction, order, x, mu, noise):
    outputs = []
    for i, t in enumerate(TIMES[:-1]):
        data = model(x, t)
        alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
        outputs.insert(0, data if prediction == "data" else (x - alpha * data - (1 - alpha) * mu) / sigma)
        past = TIMES[max(i - 1, 0) : i + 1][::-1]
        x = mr_step(stochastic, prediction, past, TIMES[i + 1], x, mu, outputs[: min(order, i + 1)], noise[i])
    return x


OURS = {
    (False, "noise"): dpm_solver,
    (False, "data"): dpmpp,
    (True, "noise"): lambda *args, **kw: sde_dpmpp(*args, form="noise", **kw),
    (True, "data"): sde_dpmpp,
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("stochastic", "prediction"), OURS)
def test_the_mr_sampler_is_dpm_solver_around_an_anchor(stochastic, prediction, order):
    grid = grids.explicit(PROCESS, times=TIMES)
    choices = {"rule": "taylor", "lower_order_final": False} if order == 2 else {}
    plan = OURS[stochastic, prediction](PROCESS, grid, order=order, **choices)
    noise = np.random.default_rng(0).standard_normal((len(TIMES) - 1, *X_T.shape))
    ours = MU + run_eager(plan, anchored(model, MU), X_T - MU, noise=noise if stochastic else None)
    theirs = mr_sampler(stochastic, prediction, order, X_T, MU, noise)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


# --- Identities and exact solutions ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpmpp_2m", "heun", "sde_dpmpp_2m", "euler_maruyama", "unipc_3"])
def test_moving_model_anchor_and_start_together_moves_the_result(name, x64):
    """x -> x + c throughout: mean-reverting diffusion has no preferred origin."""
    shift = jnp.array([0.7, -1.3])
    plan = SAMPLERS[name].build(PROCESS, grids.explicit(PROCESS, times=TIMES))
    D = jax.tree_util.Partial(lambda x, t, cond: jnp.tanh(2 * x) + 0.3 * jnp.sin(5 * t))
    moved = jax.tree_util.Partial(lambda x, t, cond: D(x - shift, t, cond) + shift)
    start, mu = jnp.asarray(X_T), jnp.asarray(MU)
    here = restore(plan, D, mu, jax.random.key(0), x_T=start)
    there = restore(plan, moved, mu + shift, jax.random.key(0), x_T=start + shift)
    np.testing.assert_allclose(there, here + shift, atol=1e-12)


def test_no_anchor_and_unit_noise_is_the_variance_preserving_solver(x64):
    vp = VPLinear()
    ours = MeanReverting(sigma_inf=1.0, schedule=Linear(ratio=200.0), terminal=float(vp.alpha(1.0)))
    D = jax.tree_util.Partial(lambda x, t, cond: jnp.tanh(2 * x))
    for name in ("dpmpp_2m", "dpm_2m", "sde_dpmpp_2m"):
        results = []
        for process in (ours, vp):
            plan = SAMPLERS[name].build(process, grids.explicit(process, times=TIMES))
            results.append(restore(plan, D, jnp.zeros((2, 2)), jax.random.key(0), x_T=jnp.asarray(X_T)))
        np.testing.assert_allclose(*results, rtol=1e-11)


def test_probability_flow_of_gaussian_data(x64):
    """x_t = m_t + sqrt(V_t/V_s)(x_s - m_s) and m_t = alpha m + (1 - alpha) mu: twice the steps, a quarter the error."""
    m, v, mu = 0.4, 0.05, jnp.array([[0.9], [-0.2]])
    x_T = mu + jnp.array([[0.2], [-0.3]])

    def moments(t):
        alpha = PROCESS.alpha(t)
        return alpha * m + (1 - alpha) * mu, alpha**2 * v + PROCESS.sigma(t) ** 2

    def D(x, t, cond=None):
        mean, variance = moments(t)
        return m + PROCESS.alpha(t) * v / variance * (x - mean)

    (m_s, v_s), (m_e, v_e) = moments(0.9), moments(0.2)
    exact = m_e + np.sqrt(v_e / v_s) * (x_T - m_s)
    errors = []
    for n in (200, 400):
        plan = dpmpp(PROCESS, grids.uniform_lam(PROCESS, n, t_start=0.9, t_end=0.2))
        errors.append(float(jnp.abs(restore(plan, jax.tree_util.Partial(D), mu, x_T=x_T) - exact).max()))
    assert 3.3 < errors[0] / errors[1] < 4.7
    assert errors[1] < 1e-5


@pytest.mark.parametrize("build", [ancestral, lambda process, grid: sde_dpmpp(process, grid, order=1)])
def test_first_order_with_a_constant_prediction_is_the_posterior(build):
    """q(x_e | x_s, data), by conditioning x_e ~ N(alpha_e data + (1 - alpha_e) mu, sigma_e^2) on x_s, which is
    r x_e + (1 - r) mu and noise of variance sigma_s^2 - r^2 sigma_e^2."""
    t_s, t_e, data = 0.7, 0.45, 0.35
    (plan, D) = build(PROCESS, grids.explicit(PROCESS, times=[t_s, t_e])), lambda x, t: 0 * x + data
    r = PROCESS.alpha(t_s) / PROCESS.alpha(t_e)
    prior_mean = PROCESS.alpha(t_e) * data + (1 - PROCESS.alpha(t_e)) * MU
    prior, forward = PROCESS.sigma(t_e) ** 2, PROCESS.sigma(t_s) ** 2 - (r * PROCESS.sigma(t_e)) ** 2
    variance = 1 / (1 / prior + r**2 / forward)
    mean = variance * (prior_mean / prior + r * (X_T - (1 - r) * MU) / forward)
    for z in (0.0, 1.0):
        noise = np.full((1, *X_T.shape), z)
        ours = MU + run_eager(plan, anchored(lambda x, t, cond=None: D(x, t), MU), X_T - MU, noise=noise)
        np.testing.assert_allclose(ours, mean + z * np.sqrt(variance), rtol=1e-12)


def test_the_path_ends_off_the_stationary_start_by_the_stated_bias():
    """E[x_T] = mu + alpha_T (data - mu): exact in the process, and what `restore` leaves out of its start."""
    process, data = MeanReverting(), np.full((1, 2), 0.8)
    mean = MU[:1] + process.state(jnp.asarray(data - MU[:1]), jnp.zeros((1, 2)), 1.0)
    np.testing.assert_allclose(mean - MU[:1], 0.005 * (data - MU[:1]), rtol=1e-4)


def test_the_start_is_stationary_and_keyed_by_example():
    """4,000 starts, 6 standard errors (fixed key); a sample does not depend on its neighbours."""
    plan = dpmpp(PROCESS, grids.uniform_lam(PROCESS, 3, t_end=0.99))  # stays at the noise end
    keys = jax.random.split(jax.random.key(0), 4000)
    mu = jnp.linspace(-1, 1, 4000)[:, None]
    D = jax.tree_util.Partial(lambda x, t, cond: mu)
    deviation = restore(plan, D, mu, keys) - mu
    assert abs(float(deviation.std()) / 0.3 - 1) < 6 * np.sqrt(0.5 / 4000)
    few = restore(plan, jax.tree_util.Partial(lambda x, t, cond: mu[:3]), mu[:3], keys[:3])
    np.testing.assert_allclose(few, (deviation + mu)[:3], rtol=1e-6)


def test_other_anchors_share_one_program(caplog):
    mixture = oracles.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[0.1], [0.2]])
    D = mixture.denoiser(PROCESS)
    plan = dpmpp(PROCESS, grids.uniform_lam(PROCESS, 4))
    z = jnp.zeros((3, 1))
    mus = jnp.ones((3, 1)), jnp.zeros((3, 1))
    run(plan, anchored(D, mus[0]), z)
    with jax.log_compiles():
        run(plan, anchored(D, mus[1]), z)
    assert "Compiling" not in caplog.text


def test_what_cannot_work_is_refused_in_words():
    D = lambda x, t, cond: x
    plan = dpmpp(PROCESS, grids.uniform_lam(PROCESS, 3))
    with pytest.raises(ValueError, match="one anchor per sample, of shape"):
        cfg(anchored(D, jnp.zeros((2, 1))), 2.0, null=0)(jnp.zeros((2, 1)), 0.5, jnp.array([1, 2]))
    with pytest.raises(ValueError, match="pass key= to draw the start"):
        restore(plan, D, jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match="unknown form 'velocity'; choose one of data, noise"):
        sde_dpmpp(PROCESS, grids.uniform_lam(PROCESS, 3), form="velocity")
