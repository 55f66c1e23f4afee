"""The state, the compiled step and `build`: devices, donation, accumulation, foreign networks, bad data."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gendyn as gd
from gendyn.training import build, init_state

STEPS = 5


@dataclasses.dataclass(frozen=True)
class Autoencoding:
    """A loss without randomness: whatever differs between two runs of it is the training step's doing."""

    process: gd.processes.Process = dataclasses.field(default_factory=gd.processes.EDM)

    def __call__(self, network, params, key, data, cond):
        return jnp.mean((network.apply(params, data, 0.5, cond) - data) ** 2, axis=1), {}


def losses(experiment, mesh, steps=STEPS):
    """(loss of every step, last state)."""
    state, step, batches = build(experiment, mesh=mesh)
    found = []
    for batch in itertools.islice(batches, steps):
        state, metrics = step(state, batch)
        found.append(float(metrics["loss"]))
    return np.array(found), state


@pytest.fixture(scope="module")
def eight():
    return gd.distributed.data_mesh()


@pytest.fixture(scope="module")
def autoencoding(Tiny):
    return dataclasses.replace(Tiny(batch_size=32).experiment(), objective=Autoencoding())


@pytest.fixture(scope="module")
def full_batch(autoencoding, one):
    return losses(autoencoding, one)


def test_one_and_eight_devices_give_the_same_losses(Tiny, one, eight, bits):
    """The noise belongs to the global batch; only the order of float32 sums differs (and Adam magnifies that where a
    gradient is near zero, so parameters are compared on the scale of its step, 1e-2)."""
    (a, state_a), (b, state_b) = losses(Tiny(), one), losses(Tiny(), eight)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state_b)} == {8}
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for name, leaf in bits(state_a.params).items():
        np.testing.assert_allclose(bits(state_b.params)[name], leaf, atol=2e-4, err_msg=name)


def test_first_state_is_the_same_on_any_mesh(Tiny, one, eight, bits):
    a, b = (bits(init_state(Tiny().experiment(), mesh)) for mesh in (one, eight))
    for name, leaf in a.items():
        np.testing.assert_array_equal(b[name], leaf, err_msg=name)


def test_averages_start_at_the_parameters(Tiny, one, bits):
    state = init_state(Tiny().experiment(), one)
    for average in state.ema:
        for name, leaf in bits(average).items():
            np.testing.assert_array_equal(leaf, bits(state.params)[name])


@pytest.mark.parametrize("n", [2, 4])
def test_accumulation_equals_the_full_batch(autoencoding, full_batch, n, one, bits):
    (a, state_a), (b, state_b) = full_batch, losses(dataclasses.replace(autoencoding, accumulate=n), one)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for name, leaf in bits(state_a.params).items():
        np.testing.assert_allclose(bits(state_b.params)[name], leaf, atol=2e-4, err_msg=name)


def test_state_is_donated_and_stays_on_the_devices(Tiny, eight, caplog):
    """The compiled step reuses the state's memory; from the second step on nothing is compiled, and no step moves
    anything between host and devices behind our back."""
    state, step, batches = build(Tiny(), mesh=eight)
    first, *others = itertools.islice(batches, STEPS)
    memory = (state.params, state.opt_state, state.ema)
    aliased = step.lower(state, first).compile().memory_analysis().alias_size_in_bytes
    assert aliased >= sum(leaf.nbytes for leaf in jax.tree.leaves(memory))
    with jax.transfer_guard("disallow"):
        state, _ = step(state, first)
        with jax.log_compiles():
            for batch in others:
                state, _ = step(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(memory))
    assert "Compiling" not in caplog.text
    assert int(state.step) == STEPS


def distilled(Tiny, teacher_width, seed=0):
    """The tiny experiment with a consistency objective whose teacher is an MLP of that width."""
    experiment = Tiny(batch_size=16).experiment()
    network = gd.networks.functional(functools.partial(gd.networks.MLP, 2, width=teacher_width, depth=1, num_classes=3))
    process = gd.processes.EDM(sigma_min=0.02, sigma_max=10.0)
    params = jax.tree.map(lambda a: a + 0.1 * (seed + 1), gd.networks.initialise(network, jax.random.key(seed)))
    teacher = gd.denoiser(network.apply, params, process, "F", precondition=gd.predictions.EDMPreconditioner())
    return dataclasses.replace(
        experiment, objective=gd.objectives.ConsistencyDistillation(process=process, teacher=teacher)
    )


@pytest.mark.slow
def test_a_teachers_weights_are_arguments_of_the_step(Tiny, one):
    """The program's text is hardly longer for many times the weights, and the same for two teachers."""
    texts = {}
    for width, seed in ((32, 0), (32, 1), (512, 0)):
        experiment = distilled(Tiny, width, seed)
        state, step, batches = build(experiment, mesh=one)
        texts[width, seed] = step.lower(state, next(batches)).as_text()
    weights = sum(leaf.size for leaf in jax.tree.leaves(experiment.objective))
    assert texts[32, 0] == texts[32, 1]
    assert len(texts[512, 0]) < len(texts[32, 0]) + 0.01 * 8 * weights  # a constant takes 8 digits a number


def test_another_teacher_reuses_the_compiled_step(Tiny, one, caplog):
    """Its weights run in the first one's program, without a compilation, and give the loss that its own step gives."""
    metrics, steps = [], []
    for seed in (0, 1):
        state, step, batches = build(distilled(Tiny, 16, seed), mesh=one)
        batch = next(batches)
        metrics.append(step(state, batch)[1])
        steps.append(step)
    state, _, _ = build(distilled(Tiny, 16, 0), mesh=one)
    with jax.log_compiles():
        swapped = dataclasses.replace(steps[0], weights=steps[1].weights)(state, batch)[1]
    assert "Compiling jit(step)" not in caplog.text
    for name in ("loss", "grad_norm"):
        assert float(swapped[name]) == float(metrics[1][name]) != float(metrics[0][name])


@pytest.mark.slow
def test_a_teacher_is_replicated_and_not_donated(Tiny, eight):
    state, step, batches = build(distilled(Tiny, 16), mesh=eight)
    for batch in itertools.islice(batches, 2):
        state, metrics = step(state, batch)
    assert np.isfinite(float(metrics["loss"]))
    assert {len(leaf.sharding.device_set) for leaf in step.weights} == {8}
    assert not any(leaf.is_deleted() for leaf in step.weights)


def test_batches_start_where_asked(Tiny, one):
    from_zero = list(itertools.islice(build(Tiny(), mesh=one)[2], 4))
    third = next(build(Tiny(), mesh=one, start=3)[2])
    np.testing.assert_array_equal(third["data"], from_zero[3]["data"])


def test_foreign_network_trains_like_a_built_in(Tiny, one):
    """An (init, apply) pair of plain functions; the data is nearly a point per class, so its loss must fall."""

    def init(key):
        return {"w": jax.random.normal(key, (2, 2)), "classes": jnp.zeros((4, 2))}

    def apply(params, x, label, cond):
        return x @ params["w"] + params["classes"][cond]

    experiment = dataclasses.replace(
        Tiny(batch_size=64, steps=60).experiment(),
        network=gd.networks.Network(init=init, apply=apply),
        optimizer=optax.adam(0.1),
    )
    found, state = losses(experiment, one, steps=60)
    assert found[-10:].mean() < 0.5 * found[:5].mean()
    denoised = experiment.objective.denoiser(apply, state.params)(jnp.ones((8, 2)), 1.0, jnp.zeros(8, jnp.int32))
    assert denoised.shape == (8, 2)


def test_batch_must_divide_over_devices(Tiny):
    with pytest.raises(ValueError, match=r"batch_size 20 does not divide over 8 devices; use 16 or 24"):
        build(Tiny(batch_size=20))


def test_micro_batches_must_divide_over_devices(Tiny):
    with pytest.raises(ValueError, match=r"batch_size 24 .* 8 devices x 2 micro-batches; use 16 or 32"):
        build(Tiny(batch_size=24, accumulate=2))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: gd.data.arrays(np.zeros((8, 3)), np.arange(8) % 3), r"shape \(2,\), but the source has \(3,\)"),
        (lambda: gd.data.arrays(np.zeros((8, 2))), "3 classes, but the source has no labels"),
        (lambda: gd.data.arrays(np.zeros((8, 2)), np.arange(8)), "3 classes, but the source has 8 classes"),
        (lambda: [np.zeros(2)] * 8, r"source is a list.*gendyn\.data\.wrap"),
    ],
    ids=["shape", "unlabelled", "classes", "foreign"],
)
def test_data_other_than_declared_is_refused(Tiny, source, message):
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(Tiny().experiment(), source=source))


def test_empty_source_is_refused(Tiny):
    class Nothing(type(Tiny().experiment().source())):
        def __len__(self):
            return 0

    with pytest.raises(ValueError, match="empty; training needs at least one example"):
        build(Tiny(), source=Nothing())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"snapshot_every": 0}, "snapshot_every must be at least 1, or None"),
        ({"accumulate": 3}, "batch_size 16 does not split into accumulate = 3"),
        ({"ema": (0.05, 0.4)}, "EMA width"),
    ],
)
def test_impossible_experiments_are_refused(Tiny, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Tiny().experiment(), **change)
