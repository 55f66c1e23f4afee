"""The executor: random tables against a plain interpreter of the row equations, and how a run behaves as a program."""

import contextlib
import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gendyn import denoiser, oracles, processes
from gendyn.samplers import SAMPLERS, SamplerPlan, grids, plan, run, run_eager, stack
from gendyn.samplers.run import _execute

EDM = processes.EDM()
MIXTURE = oracles.GaussianMixture([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [[0.1, 0.2], [0.3, 0.05]])


# --- Random tables ---------------------------------------------------------------------------------------------


def random_plan(seed, rows, window, draws, shape=()):
    """A table of random numbers: no solver, so nothing is zero by accident."""
    random = np.random.default_rng(seed)

    def number(*size):
        return random.uniform(-0.6, 0.6, size + shape)

    return SamplerPlan(
        t=random.uniform(0.1, 1.0, rows),
        call=random.random(rows) < 0.7,
        clock=np.zeros((rows, 2)),
        **{name: number(rows) for name in ("ex", "ec", "oy", "om", "sx", "sc")},
        **{name: number(rows, window) for name in ("em", "sm")},
        **{name: number(rows, draws) for name in ("en", "sn")},
    )


def interpret(plan, D, x, noise):
    """The row equations, literally; outputs and draws live in growing lists, absent ones being zero."""
    outputs, drawn, states = [], [], []
    for i in range(len(plan.t)):
        if noise is not None:
            drawn.insert(0, noise[i])
        if plan.call[i]:
            y = plan.ex[i] * x + weighted(plan.em[i], outputs) + weighted(plan.en[i], drawn) + plan.ec[i]
            outputs.insert(0, plan.oy[i] * y + plan.om[i] * D(y, plan.t[i]))
        x = plan.sx[i] * x + weighted(plan.sm[i], outputs) + weighted(plan.sn[i], drawn) + plan.sc[i]
        states.append(x)
    return x, states


def weighted(coefficients, values):
    return sum(c * v for c, v in zip(coefficients, values))  # the shorter of the two decides: absent is zero


def bounded(x, t, cond=None):
    """A nonlinear stand-in for a network, for numpy and jax."""
    xp = jnp if isinstance(x, jax.Array) else np
    return xp.tanh(2 * x) * xp.cos(3 * t)


BOUNDED = jax.tree_util.Partial(bounded)


SHAPES = strategies.tuples(
    strategies.integers(1, 7),
    strategies.integers(1, 4),
    strategies.integers(0, 3),
    strategies.sampled_from([(), (3, 2)]),
)


@hypothesis.settings(max_examples=80, deadline=None, derandomize=True)
@hypothesis.given(SHAPES, strategies.integers(0, 2**32 - 1))
def test_run_eager_follows_the_row_equations(sizes, seed):
    rows, window, draws, shape = sizes
    table = random_plan(seed, rows, window, draws, shape)
    x_T, noise = np.random.default_rng(seed + 1).standard_normal((2, rows, 4, 3, 2))
    x, states = interpret(table, bounded, x_T[0], noise if draws else None)
    ours, observed = run_eager(table, bounded, x_T[0], noise=noise, observe=lambda i, x, denoised: x)
    np.testing.assert_allclose(ours, x, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(observed, states, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "sizes", [(1, 1, 0, ()), (5, 2, 0, (3, 2)), (6, 3, 1, ()), (7, 1, 3, (3, 2)), (4, 4, 2, ())], ids=str
)
def test_run_follows_the_row_equations(sizes, x64):
    """Several random tables of each shape, through one compiled program."""
    rows, window, draws, shape = sizes
    for seed in range(8):
        table = random_plan(seed, rows, window, draws, shape)
        x_T, noise = np.random.default_rng(seed + 1).standard_normal((2, rows, 4, 3, 2))
        x, _ = interpret(table, bounded, x_T[0], noise if draws else None)
        ours = run(table, BOUNDED, jnp.asarray(x_T[0]), noise=noise if draws else None)
        np.testing.assert_allclose(ours, x, rtol=1e-12, atol=1e-13)


# --- Every sampler through both executors ----------------------------------------------------------------------


def shortest(name, least=6):
    """The named plan with `least` calls or the next number that it can make."""
    for nfe in range(least, least + 6):
        with contextlib.suppress(ValueError):
            return plan(name, EDM, nfe)
    raise AssertionError(f"{name} cannot make {least} to {least + 5} calls")


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_compiled_and_eager_runs_agree_and_calls_are_counted(name):
    table = shortest(name)
    x_T = np.asarray(EDM.sample_prior(jax.random.key(0), (5, 2)), np.float64)
    noise = np.random.default_rng(0).standard_normal((table.rows, 5, 2))
    calls = []

    def counting(x, t):
        calls.append(t)
        return MIXTURE.denoiser(EDM)(x, t)

    eager = run_eager(table, counting, x_T, noise=noise)
    assert len(calls) == table.nfe
    compiled = run(table, MIXTURE.denoiser(EDM), jnp.asarray(x_T, jnp.float32), noise=noise)
    np.testing.assert_allclose(compiled, eager, rtol=2e-3, atol=2e-4)


def test_float32_and_bfloat16_states():
    """The state is float32 inside: bfloat16 costs its rounding at the network's door and at the end, no more."""
    table = plan("heun", EDM, nfe=11)
    x_T = EDM.sample_prior(jax.random.key(0), (6, 2))
    double = run_eager(table, MIXTURE.denoiser(EDM), np.asarray(x_T, np.float64))
    single = run(table, MIXTURE.denoiser(EDM), x_T)
    half = run(table, MIXTURE.denoiser(EDM), x_T.astype(jnp.bfloat16))
    assert (single.dtype, half.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(single, double, atol=1e-4)

    def rounding(x, t):
        return MIXTURE.denoiser(EDM)(x.astype(jnp.bfloat16).astype(float), t)

    rounded = run_eager(table, rounding, np.asarray(x_T.astype(jnp.bfloat16), np.float64))
    np.testing.assert_allclose(half.astype(float), rounded, rtol=2**-8, atol=1e-3)


def test_the_network_sees_the_dtype_of_the_state():
    seen = []

    def D(x, t, cond):
        seen.append((x.dtype, t.dtype, t.shape))
        return x

    run(plan("ddim", EDM, nfe=2), D, jnp.ones((2, 1), jnp.bfloat16))
    assert seen[0] == (jnp.bfloat16, jnp.float32, ())


def test_vmap_over_stacked_plans_equals_a_loop():
    tables = [plan("ddim", EDM, nfe=4), plan("heun", EDM, nfe=7), plan("ancestral", EDM, nfe=3)]
    x_T, key, D = EDM.sample_prior(jax.random.key(0), (3, 2)), jax.random.key(1), BOUNDED
    together = jax.vmap(lambda table: run(table, D, x_T, key=key))(stack(tables))
    alone = jnp.stack([run(table, D, x_T, key=key) for table in tables])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_gradients_equal_differences(x64):
    """With respect to weights, the first state, and the plan's own coefficients."""
    table = plan("heun", EDM, nfe=5)
    x_T = jnp.array([[1.0, -2.0]])

    def loss(weight, x, sx):
        D = jax.tree_util.Partial(lambda w, x, t, cond: jnp.tanh(w * x) * jnp.exp(-0.1 * t), weight)
        return (run(dataclasses.replace(table, sx=sx), D, x) ** 2).sum()

    arguments = (jnp.float64(0.8), x_T, jnp.asarray(table.sx))
    for i, gradient in enumerate(jax.grad(loss, argnums=(0, 1, 2))(*arguments)):
        for index in np.ndindex(gradient.shape):

            def nudged(step, i=i, index=index):
                return loss(*[a.at[index].add(step) if j == i else a for j, a in enumerate(arguments)])

            difference = (nudged(1e-6) - nudged(-1e-6)) / 2e-6
            np.testing.assert_allclose(gradient[index], difference, rtol=1e-5, atol=1e-7)


def test_a_batch_sharded_over_eight_devices_gives_the_same_samples():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    table, D = plan("ancestral", EDM, nfe=4), BOUNDED
    x_T, key = EDM.sample_prior(jax.random.key(0), (16, 2)), jax.random.key(1)
    sharded = run(table, D, jax.device_put(x_T, NamedSharding(mesh, PartitionSpec("data"))), key=key)
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(sharded, run(table, D, x_T, key=key), rtol=1e-6, atol=1e-6)


def test_nothing_compiles_again_for_other_weights_solvers_grids_or_padded_lengths():
    traces = []

    def apply(params, x, label, cond):
        traces.append(x.shape)
        return params * x

    def samples(table, weight):
        run(table, denoiser(apply, jnp.float32(weight), EDM, "denoised"), jnp.ones((2, 3)))
        return len(traces), _execute._cache_size()

    first = samples(plan("ddim", EDM, nfe=5), 0.1)
    assert samples(plan("ddim", EDM, nfe=5), 0.2) == first, "other weights"
    assert samples(plan("euler", EDM, nfe=5), 0.1) == first, "another solver of the same shape"
    assert samples(plan("ddim", EDM, nfe=5, grid="uniform_lam"), 0.1) == first, "another grid"
    assert samples(plan("ddim", EDM, nfe=3).pad(rows=5), 0.1) == first, "another number of calls, padded"
    assert samples(plan("ddim", EDM, nfe=3), 0.1) != first, "the counter does count"


def test_padded_rows_do_not_call_the_network():
    calls = []
    table = plan("ddim", EDM, nfe=3).pad(rows=7, window=2, draws=1)

    def counted(x, t, cond):
        jax.debug.callback(lambda: calls.append(1))
        return 0.5 * x

    x_T = jnp.ones((2, 1))
    padded = jax.block_until_ready(run(table, counted, x_T, key=jax.random.key(0)))
    jax.effects_barrier()
    assert len(calls) == table.nfe == 3
    np.testing.assert_allclose(padded, run(plan("ddim", EDM, nfe=3), lambda x, t, cond: 0.5 * x, x_T), rtol=1e-6)


# --- Noise, conditions, observations ---------------------------------------------------------------------------


def test_a_key_is_the_same_as_its_draws_given_explicitly():
    table, D = plan("ancestral", EDM, nfe=4), BOUNDED
    x_T, key = EDM.sample_prior(jax.random.key(0), (3, 2)), jax.random.key(1)
    noise = jnp.stack([jax.random.normal(jax.random.fold_in(key, i), x_T.shape) for i in range(table.rows)])
    by_key, by_noise = run(table, D, x_T, key=key), run(table, D, x_T, noise=noise)
    np.testing.assert_allclose(by_key, by_noise, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(run_eager(table, D, x_T, key=key), by_key, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run_eager(table, D, x_T, noise=lambda i: noise[i]), by_key, rtol=1e-4, atol=1e-5)
    assert not np.allclose(run(table, D, x_T, key=jax.random.key(2)), by_key, atol=1e-2)


def test_one_key_per_example_makes_samples_independent_of_their_neighbours():
    table, D = plan("ancestral", EDM, nfe=4), BOUNDED
    x_T, keys = EDM.sample_prior(jax.random.key(0), (4, 2)), jax.random.split(jax.random.key(1), 4)
    together = run(table, D, x_T, key=keys)
    order = np.array([2, 0])
    np.testing.assert_allclose(run(table, D, x_T[order], key=keys[order]), together[order], rtol=1e-6, atol=1e-6)


def test_observations_are_the_states_and_denoised_of_every_row():
    table, D = plan("heun", EDM, nfe=5), MIXTURE.denoiser(EDM)
    x_T = EDM.sample_prior(jax.random.key(0), (3, 2))

    def observe(row, x, denoised):
        return row, x, denoised

    x, (rows, states, denoised) = run(table, D, x_T, observe=observe)
    assert rows.tolist() == list(range(table.rows))
    assert states.shape == denoised.shape == (table.rows, 3, 2)
    np.testing.assert_array_equal(states[-1], x)
    np.testing.assert_allclose(denoised[0], D(x_T, jnp.float32(80.0)), rtol=1e-5)
    _, eager = run_eager(table, D, x_T, observe=observe)
    for i, expected in enumerate((states, denoised)):
        np.testing.assert_allclose(jnp.stack([o[1 + i] for o in eager]), expected, rtol=1e-4, atol=1e-4)


def test_cond_reaches_the_network():
    table, x_T, cond = plan("ddim", EDM, nfe=2), jnp.ones((3, 2)), {"class": jnp.array([1.0, 2.0, 3.0])}

    def D(x, t, cond):
        return jnp.broadcast_to(cond["class"][:, None], x.shape)

    for execute in (run, run_eager):
        np.testing.assert_allclose(execute(table, D, x_T, cond=cond)[:, 0], [1.0, 2.0, 3.0], rtol=1e-6)


# --- Refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execute", [run, run_eager])
def test_bad_arguments_are_refused_in_words(execute):
    x_T, D = jnp.ones((2, 3)), lambda x, t, cond=None: x
    with pytest.raises(ValueError, match="this plan draws noise: pass key="):
        execute(plan("ancestral", EDM, nfe=3), D, x_T)
    with pytest.raises(ValueError, match=r"noise must have shape \(3, 2, 3\)"):
        execute(plan("ancestral", EDM, nfe=3), D, x_T, noise=np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match=r"coefficients are for data of shape \(4,\)"):
        execute(random_plan(0, 2, 1, 0, (4,)), D, x_T)


@pytest.mark.parametrize("execute", [run, run_eager])
@pytest.mark.parametrize("name", ["rectified_flow", "gvp"])
def test_eps_networks_are_refused_at_pure_noise_and_others_are_not(execute, name):
    process = processes.PROCESSES[name]()

    def apply(params, x, label, cond):
        return 0.0 * x

    table = plan("ddim", process, nfe=4, grid="uniform_t")
    assert process.alpha(table.t[0]) == 0
    with pytest.raises(ValueError, match=r"does not determine the denoised at t = 0 .*t_start="):
        execute(table, denoiser(apply, None, process, "eps"), jnp.ones((2, 3)))
    for kind in ("velocity", "v", "denoised"):
        assert np.isfinite(execute(table, denoiser(apply, None, process, kind), jnp.ones((2, 3)))).all()
    inside = plan("ddim", process, nfe=4, grid="uniform_t", grid_options={"t_start": 0.01, "t_end": 0.99})
    assert np.isfinite(execute(inside, denoiser(apply, None, process, "eps"), jnp.ones((2, 3)))).all()


def test_a_wrapped_network_that_cannot_start_is_refused_before_compiling():
    process = processes.RectifiedFlow()
    D = denoiser(lambda *_: pytest.fail("the network was called"), None, process, "eps")
    with pytest.raises(ValueError, match="use a network that predicts velocity or denoised"):
        run(plan("ddim", process, nfe=2, grid=grids.uniform_t), D, jnp.ones((2, 3)))
