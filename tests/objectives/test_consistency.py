"""Consistency objectives: the boundary, the exact function of a Gaussian, both pairs, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn.objectives import ConsistencyDistillation, ConsistencyFunction, ConsistencyTraining, curricula
from gendyn.processes import EDM, PFGMPP, PROCESSES, RectifiedFlow
from gendyn.tree import expand

MEAN, VARIANCE = 0.6, 0.4
GAUSSIAN = gd.oracles.GaussianMixture([1.0], [[MEAN]], [[VARIANCE]])
PROCESS = EDM(sigma_min=0.02, sigma_max=10.0)


def exact(params, x, label, cond):
    """F of the exact consistency function of GAUSSIAN, moved by params; the label is log(sigma)/4."""
    sigma = jnp.exp(4 * label)
    c_skip, c_out, c_in = (
        expand(c, x)
        for c in ConsistencyTraining(process=PROCESS, curriculum=curricula.Fixed())
        .denoiser(None, None)
        .boundary.coefficients(sigma)
    )
    y = x / c_in
    f = gd.oracles.consistency_function(GAUSSIAN, PROCESS, 0.02)(y, sigma)
    safe = jnp.where(c_out > 0, c_out, 1.0)
    return jnp.where(c_out > 0, (f - c_skip * y) / safe, 0.0) + params[0] + params[1] * x


def training(n, **options):
    return ConsistencyTraining(process=PROCESS, curriculum=curricula.Fixed(n=n), **({"huber": 1.0} | options))


def distillation(n, **options):
    teacher = GAUSSIAN.denoiser(PROCESS)
    fixed = curricula.Fixed(n=n)
    return ConsistencyDistillation(process=PROCESS, curriculum=fixed, teacher=teacher, **({"huber": 1.0} | options))


def gradient(loss, n=40_000):
    data = GAUSSIAN.sample(jax.random.key(0), n)
    mean = lambda params: loss(exact, params, jax.random.key(1), data, None, step=0)[0].mean()
    return jax.jit(jax.grad(mean))(jnp.zeros(2))


@pytest.mark.parametrize("name", ["edm", "ve", "vp_linear", "mean_reverting"])
def test_the_boundary_is_exact_whatever_the_network(name):
    """f(x, t) = x/alpha at the clean end of the interval, to the last bits that alpha and sigma have in float32."""
    process = PROCESSES[name]()
    f = ConsistencyTraining(process=process, curriculum=curricula.Fixed()).denoiser(
        lambda p, x, l, c: 100 * x + 7, None
    )
    x, t = jnp.linspace(-2, 2, 6)[:, None], process.interval[1]
    tolerance = 0 if name == "edm" else 2e-3
    np.testing.assert_allclose(f(x, t), x / process.alpha(t), rtol=tolerance, atol=tolerance)
    assert jax.tree.leaves(f) == []


def test_training_is_unbiased_at_the_exact_function_only_as_the_levels_get_finer():
    """The gradient at the exact function of a Gaussian is a discretisation error, of first order in 1/N (40,000 draws,
    same random numbers: ratios of 4 in N leave at most half, the Monte-Carlo error being ten times smaller)."""
    coarse, fine, finer = (np.abs(gradient(training(n))).max() for n in (6, 21, 81))
    assert fine < 0.5 * coarse
    assert finer < 0.5 * fine


@pytest.mark.slow
def test_distillation_from_the_exact_teacher_follows_the_trajectory():
    """d(f(x_hi), f(x_lo)) is the solver's local error: of order 3 for Heun, 2 for DDIM (as huber -> 0, |.|)."""
    data = GAUSSIAN.sample(jax.random.key(0), 2000)
    for solver, order in (("heun", 3), ("ddim", 2)):
        errors = []
        for n in (21, 41):
            loss = distillation(n, solver=solver, huber=1e-9)
            with jax.enable_x64(True):
                data64 = jnp.asarray(np.asarray(data), jnp.float64)
                errors.append(
                    float(loss(exact, jnp.zeros(2), jax.random.key(1), data64, None, step=0)[1]["error"].mean())
                )
        assert abs(np.log2(errors[0] / errors[1]) - order) < 0.35


def test_the_gradient_of_distillation_vanishes_faster():
    """With Heun's pairs the gradient at the exact function is of second order in 1/N: four times finer, less than an
    eighth is left; and it starts lower than that of training."""
    coarse, fine = (np.abs(gradient(distillation(n))).max() for n in (11, 41))
    assert fine < coarse / 8
    assert coarse < 0.5 * np.abs(gradient(training(11))).max()


def seen_by(loss, cond=None, step=0):
    """Arguments of both calls of a network in one evaluation of a loss."""
    calls = []

    def train(params, x, label, cond, key):
        calls.append((x, label, cond, key))
        return params * x

    network = gd.networks.Network(init=lambda key: None, apply=lambda p, x, l, c: p * x, train=train)
    data = jax.random.normal(jax.random.key(5), (64, 3))
    loss(network, jnp.float32(0.1), jax.random.key(2), data, cond, step=step)
    return calls, data


def test_both_calls_share_noise_dropout_key_and_dropped_labels():
    calls, data = seen_by(training(21, drop=0.5, null=10), cond=jnp.arange(64) % 10)
    (low, label_low, cond_low, key_low), (high, label_high, cond_high, key_high) = calls
    assert (jax.random.key_data(key_low) == jax.random.key_data(key_high)).all()
    np.testing.assert_array_equal(cond_low, cond_high)
    assert 0 < (cond_low == 10).sum() < 64
    assert (label_low < label_high).all()
    noises = []
    for x, label in ((low, label_low), (high, label_high)):
        sigma = jnp.exp(4 * label)[:, None]
        noises.append((x * jnp.sqrt(sigma**2 + 0.25) - data) / sigma)
    np.testing.assert_allclose(*noises, rtol=1e-2, atol=2e-3)


def test_the_target_carries_no_gradient():
    """d/dp of d(p, stop(p)) with an x-independent F: only the noisier call moves."""
    loss, data = training(11), jnp.zeros((32, 1))
    F = lambda params, x, label, cond: params + 0 * x
    value = lambda a, b: (
        loss(lambda p, x, l, c: F(p, x, l, c), a, jax.random.key(0), data, None, step=0)[0].sum() + 0 * b
    )
    slope = float(jax.grad(value)(0.3, 0.0))
    numeric = float(value(0.3 + 1e-2, 0.0) - value(0.3 - 1e-2, 0.0)) / 2e-2
    assert abs(slope - numeric) > 0.05 * abs(numeric)


def test_one_program_serves_the_whole_curriculum():
    loss = ConsistencyTraining(process=PROCESS, curriculum=curricula.Doubling(s0=2, s1=64, steps=60))
    seen = []

    @jax.jit
    def step(k):
        seen.append(k)
        each, aux = loss(lambda p, x, l, c: 0.3 * x, None, jax.random.key(0), jnp.ones((256, 1)), None, step=k)
        return each / aux["error"]

    widest = [1 / float(step(k).min()) for k in (0, 20, 59)]
    assert len(seen) == 1
    assert widest[0] > 1.9 * widest[1] > 3.6 * widest[2]


def test_steps_are_reported_to_the_training_loop():
    assert training(5).needs == ("step",)
    assert distillation(5).needs == ("step",)


def test_misuse_is_refused_in_words():
    with pytest.raises(ValueError, match="need Gaussian noise"):
        ConsistencyTraining(process=PFGMPP(D=128), curriculum=curricula.Fixed())
    with pytest.raises(ValueError, match="a sampling interval inside the clock"):
        ConsistencyTraining(process=RectifiedFlow(), curriculum=curricula.Fixed()).denoiser(None, None)
    with pytest.raises(ValueError, match="distillation needs its teacher"):
        ConsistencyDistillation(process=PROCESS)(
            exact, jnp.zeros(2), jax.random.key(0), jnp.zeros((4, 1)), None, step=0
        )
    with pytest.raises(ValueError, match="solver must be one of heun, ddim; got 'euler'"):
        distillation(5, solver="euler")
    teacher = gd.denoiser(exact, jnp.zeros(2), gd.processes.VPLinear(), "denoised")
    with pytest.raises(ValueError, match="another path than EDM"):
        ConsistencyDistillation(process=PROCESS, teacher=teacher)
    with pytest.raises(ValueError, match="grows from s0 >= 1 to s1 >= s0"):
        curricula.Doubling(s0=20, s1=10, steps=5)
    with pytest.raises(ValueError, match="two noise levels; got n = 1"):
        curricula.Fixed(n=1)


def test_a_jump_is_refused_by_solvers_and_run_by_its_own_plan():
    f = training(5).denoiser(lambda params, x, label, cond: params * x, jnp.float32(0.1))
    assert isinstance(f, ConsistencyFunction)
    x = jnp.ones((2, 1))
    with pytest.raises(ValueError, match="ConsistencyFunction returns a jump"):
        gd.samplers.run(gd.plan("dpmpp_2m", PROCESS, nfe=4), f, x)
    assert gd.samplers.run(gd.plan("consistency", PROCESS, nfe=2), f, x, key=jax.random.key(0)).shape == (2, 1)
