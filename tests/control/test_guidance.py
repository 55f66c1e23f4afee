"""Guidance: its limits, its batches, its interval, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn import control, denoiser, oracles, processes
from gendyn.samplers import plan, run, run_eager

EDM = processes.EDM()
X = jnp.array([[0.3, -0.4], [1.0, 2.0], [-3.0, 0.1]])
CLASSES = jnp.array([1, 2, 0])
NULL = 3


def conditional(x, t, cond):
    """A stand-in whose answer depends on everything; `t` is a scalar or [batch]."""
    t = jnp.broadcast_to(t, x.shape[:1])
    return jnp.tanh(x * (1.0 + cond[:, None])) + t[:, None]


D = jax.tree_util.Partial(conditional)
NULLS = jnp.full(3, NULL)


def counting():
    """The same denoiser, counting the examples of every executed call."""
    calls = []

    def counted(x, t, cond):
        jax.debug.callback(lambda n=x.shape[0]: calls.append(n))
        return conditional(x, t, cond)

    return jax.tree_util.Partial(counted), calls


def test_weight_one_is_conditional_and_zero_unconditional():
    np.testing.assert_allclose(control.cfg(D, 1.0, NULL)(X, 0.5, CLASSES), conditional(X, 0.5, CLASSES), rtol=1e-6)
    np.testing.assert_allclose(control.cfg(D, 0.0, NULL)(X, 0.5, CLASSES), conditional(X, 0.5, NULLS), rtol=1e-6)


def test_guidance_is_linear_in_its_weight():
    def at(w):
        return control.cfg(D, w, NULL)(X, 0.5, CLASSES)

    np.testing.assert_allclose(at(3.5), at(0.0) + 3.5 * (at(1.0) - at(0.0)), rtol=1e-5)


def test_a_weight_per_sample():
    weights = jnp.array([0.0, 1.0, 2.5])
    together = control.cfg(D, weights, NULL)(X, 0.5, CLASSES)
    for i, w in enumerate(weights):
        np.testing.assert_allclose(together[i], control.cfg(D, w, NULL)(X, 0.5, CLASSES)[i], rtol=1e-5)


def test_both_branches_go_in_one_batch():
    counted, calls = counting()
    jax.block_until_ready(control.cfg(counted, 2.0, NULL)(X, 0.5, CLASSES))
    jax.effects_barrier()
    assert calls == [6]


def test_conditions_may_be_trees():
    tree = jax.tree_util.Partial(lambda x, t, cond: x * cond["class"][:, None] + cond["text"])
    cond = {"class": jnp.array([1.0, 2.0, 3.0]), "text": jnp.ones((3, 2))}
    null = {"class": 0.0, "text": jnp.zeros(2)}
    guided = control.cfg(tree, 2.0, null)(X, 0.5, cond)
    np.testing.assert_allclose(guided, 2 * tree(X, 0.5, cond), rtol=1e-6)  # the null branch is zero


def test_times_may_differ_per_example():
    t = jnp.array([0.1, 0.5, 2.0])
    together = control.cfg(D, 2.0, NULL)(X, t, CLASSES)
    for i in range(3):
        alone = control.cfg(D, 2.0, NULL)(X[i : i + 1], t[i], CLASSES[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-5)


# --- Interval --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.5, 2.0, 2.1, 10.0])
def test_outside_the_interval_the_model_is_called_alone_and_once(sigma):
    counted, calls = counting()
    guided = control.cfg(counted, 3.0, NULL, interval=(0.2, 2.0), process=EDM)
    value = jax.block_until_ready(jax.jit(lambda D, t: D(X, t, CLASSES))(guided, jnp.float32(sigma)))
    jax.effects_barrier()
    inside = 0.2 < sigma <= 2.0
    assert calls == ([6] if inside else [3])
    expected = control.cfg(D, 3.0 if inside else 1.0, NULL)(X, sigma, CLASSES)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(processes.PROCESSES))
def test_the_interval_is_in_noise_levels_on_every_clock(name):
    process = processes.PROCESSES[name]()
    guided = control.cfg(D, 3.0, NULL, interval=(0.5, 2.0), process=process)
    for level in (0.45, 0.55, 1.9, 2.2):
        t = jnp.float32(process.t_of_lam(-np.log(level)))
        weight = 3.0 if 0.5 < level <= 2.0 else 1.0
        np.testing.assert_allclose(guided(X, t, CLASSES), control.cfg(D, weight, NULL)(X, t, CLASSES), rtol=1e-5)


def test_the_interval_decides_per_example_when_times_differ():
    t = jnp.array([0.1, 0.5, 5.0])
    together = control.cfg(D, 3.0, NULL, interval=(0.2, 2.0), process=EDM)(X, t, CLASSES)
    for i, weight in enumerate((1.0, 3.0, 1.0)):
        np.testing.assert_allclose(together[i], control.cfg(D, weight, NULL)(X, t, CLASSES)[i], rtol=1e-5)


# --- Autoguidance ----------------------------------------------------------------------------------------------


def test_autoguidance_moves_from_the_reference_through_the_model():
    reference = jax.tree_util.Partial(lambda x, t, cond: 0.5 * conditional(x, t, cond))
    value, worse = D(X, 0.5, CLASSES), reference(X, 0.5, CLASSES)
    for w in (0.0, 1.0, 2.0):
        guided = control.autoguidance(D, reference, w)(X, 0.5, CLASSES)
        np.testing.assert_allclose(guided, worse + w * (value - worse), rtol=1e-5)


def test_autoguidance_needs_no_condition_and_takes_plain_functions():
    guided = control.autoguidance(lambda x, t, cond: 2 * x, lambda x, t, cond: x, 3.0)
    np.testing.assert_allclose(guided(X, 0.5), 4 * X, rtol=1e-6)


# --- In a sampler ----------------------------------------------------------------------------------------------


def test_sweeping_weight_and_interval_does_not_compile_again():
    traces = []

    def apply(params, x, label, cond):
        traces.append(x.shape)
        return params * x * cond[:, None]

    model = denoiser(apply, jnp.float32(0.1), EDM, "denoised")
    table, results = plan("ddim", EDM, nfe=4), []
    for weight in (0.5, 1.0, 3.0):
        guided = control.cfg(model, weight, NULL, interval=(0.1 * weight, 5.0))
        results.append(np.asarray(run(table, guided, X, cond=CLASSES)))
        first = first if results[1:] else len(traces)
    assert len(traces) == first
    assert not np.allclose(results[0], results[2])


def test_guided_sampling_compiled_eager_and_unguided_limits():
    classes = oracles.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [[0.05, 0.05], [0.05, 0.05]])
    one = oracles.GaussianMixture([1.0], [[1.0, 0.0]], [[0.05, 0.05]])

    def class_or_all(x, t, cond):
        both = classes.denoiser(EDM)(x, t), one.denoiser(EDM)(x, t)
        return jnp.where((cond == 1)[:, None], both[1], both[0])

    model, table = jax.tree_util.Partial(class_or_all), plan("heun", EDM, nfe=21)
    x_T, cond = EDM.sample_prior(jax.random.key(0), (16, 2)), jnp.ones(16, int)

    def sample(w):
        return run(table, control.cfg(model, w, 0), x_T, cond=cond)

    np.testing.assert_allclose(sample(1.0), run(table, one.denoiser(EDM), x_T), atol=1e-3)
    np.testing.assert_allclose(sample(0.0), run(table, classes.denoiser(EDM), x_T), atol=1e-3)
    assert (sample(1.0)[:, 0] > 0).all()
    eager = run_eager(table, control.cfg(model, 2.0, 0), x_T, cond=cond)
    np.testing.assert_allclose(sample(2.0), eager, atol=1e-3)


def test_guided_models_are_still_checked_against_the_plan():
    process = processes.RectifiedFlow()
    model = denoiser(lambda params, x, label, cond: x, None, process, "eps")
    with pytest.raises(ValueError, match="does not determine the denoised"):
        run(plan("ddim", process, nfe=3, grid="uniform_t"), control.cfg(model, 2.0, NULL), X, cond=CLASSES)


def test_guidance_composes_with_itself():
    inner = control.cfg(D, 2.0, NULL)
    outer = control.autoguidance(inner, D, 1.5)
    expected = D(X, 0.5, CLASSES) + 1.5 * (inner(X, 0.5, CLASSES) - D(X, 0.5, CLASSES))
    np.testing.assert_allclose(outer(X, 0.5, CLASSES), expected, rtol=1e-5)


# --- Refusals --------------------------------------------------------------------------------------------------


def test_refusals():
    with pytest.raises(ValueError, match="not both"):
        control.cfg(D, 2.0)
    with pytest.raises(ValueError, match="not both"):
        control.cfg(D, 2.0, NULL, reference=D)
    with pytest.raises(ValueError, match="pass process="):
        control.cfg(D, 2.0, NULL, interval=(0.1, 1.0))
    with pytest.raises(ValueError, match="low < high"):
        control.cfg(D, 2.0, NULL, interval=(1.0, 0.1), process=EDM)
    with pytest.raises(ValueError, match="needs cond="):
        control.cfg(D, 2.0, NULL)(X, 0.5)
