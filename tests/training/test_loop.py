"""`fit`: exact continuation, every step logged once, and a run that diverges."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gendyn as gd
from gendyn.data.loader import permutation
from gendyn.training import Checkpoints, Diverged, costs, read_metrics

PLAIN = {"checkpoint_every": 100, "log_every": 5}


def poisoned(step, batch_size=16):
    """An example that the run (seed 0, 512 examples) meets at optimiser step `step`, from 1, and not before."""
    return int(permutation(512, 0, epoch=0)[(step - 1) * batch_size])


@pytest.fixture
def fit(one):
    """`fit` on one device, which compiles fastest."""
    return partial(gd.training.fit, mesh=one)


def same(a, b):
    assert a.keys() == b.keys()
    for name, leaf in a.items():
        np.testing.assert_array_equal(leaf, b[name], err_msg=name)


def test_stopped_at_eleven_and_continued_is_the_same_run(Tiny, fit, tmp_path, bits):
    """Every leaf bit by bit: parameters, optimiser, averages, step and key."""
    whole = fit(Tiny(**PLAIN).experiment(), tmp_path / "whole")
    first = fit(Tiny(**PLAIN).experiment(), tmp_path / "parts", stop_at=11)
    assert (first.step, first.finished) == (11, False)
    second = fit(Tiny(**PLAIN).experiment(), tmp_path / "parts")
    assert (second.step, second.finished) == (20, True)
    same(bits(second.state), bits(whole.state))
    assert [row["step"] for row in read_metrics(tmp_path / "whole")] == [5, 10, 15, 20]
    assert [row["step"] for row in read_metrics(tmp_path / "parts")] == [5, 10, 11, 15, 20]


def test_finished_run_is_left_alone(Tiny, fit, tmp_path, bits):
    called = []
    experiment = Tiny(**PLAIN, steps=3).experiment()
    first = fit(experiment, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    second = fit(experiment, tmp_path, callbacks=[lambda *given: called.append(given)])
    assert second.finished
    assert not called
    assert (tmp_path / "metrics.jsonl").read_text() == before
    same(bits(first.state), bits(second.state))


def test_damaged_checkpoint_is_said_and_the_run_ends_the_same(Tiny, fit, tmp_path, bits, capsys):
    experiment = Tiny(steps=12, checkpoint_every=5).experiment()
    whole = fit(experiment, tmp_path)
    for step in (10, 12):
        (tmp_path / "checkpoints" / str(step) / "params" / "_METADATA").write_text("{")
    capsys.readouterr()
    again = fit(experiment, tmp_path)
    said = capsys.readouterr().err
    assert "checkpoint 12 cannot be read" in said
    assert "continuing from step 5" in said
    same(bits(again.state), bits(whole.state))
    assert [row["step"] for row in read_metrics(tmp_path)] == [5, 10, 12]


def test_losses_are_fetched_only_when_logged(Tiny, fit, tmp_path, monkeypatch):
    """The loop never waits for a step: metrics stay on the device until a row is written."""
    fetched, real = [], jax.device_get
    monkeypatch.setattr("gendyn.training.loop.jax.device_get", lambda tree: fetched.append(len(tree)) or real(tree))
    fit(Tiny(checkpoint_every=100, log_every=10).experiment(), tmp_path)
    assert fetched == [10, 10]


def test_rows_hold_means_over_their_steps(Tiny, fit, tmp_path):
    config = {"steps": 4, "checkpoint_every": 100}
    fit(Tiny(**config, log_every=1).experiment(), tmp_path / "each")
    fit(Tiny(**config, log_every=4).experiment(), tmp_path / "all")
    each, (row,) = read_metrics(tmp_path / "each"), read_metrics(tmp_path / "all")
    assert [r["step"] for r in each] == [1, 2, 3, 4]
    for name in ("loss", "grad_norm", "param_norm", "learning_rate"):
        assert row[name] == pytest.approx(np.mean([r[name] for r in each]), rel=1e-6)


def test_callbacks_see_step_state_and_denoiser(Tiny, fit, tmp_path):
    seen = []

    def look(step, state, denoiser):
        seen.append((step, int(state.step), denoiser(jnp.ones((4, 2)), 1.0, jnp.zeros(4, jnp.int32)).shape))

    fit(Tiny(**PLAIN, steps=5, sample_every=2).experiment(), tmp_path, callbacks=[look])
    assert seen == [(2, 2, (4, 2)), (4, 4, (4, 2)), (5, 5, (4, 2))]


def finite(folder, bits):
    """Steps on disk, after checking that every number of every checkpoint is finite."""
    store = Checkpoints(folder / "checkpoints", read_only=True)
    for step in store.steps():
        items = store.manager.restore(step)
        for name, leaf in bits({name: items[name] for name in ("params", "ema", "rest")}).items():
            assert np.isfinite(leaf).all(), (step, name)
    return store.steps()


@pytest.mark.parametrize(
    ("options", "step", "kept"),
    [
        ({"checkpoint_every": 3, "log_every": 5}, 8, [3, 6]),
        ({"checkpoint_every": 4, "log_every": 100}, 8, [4]),
        ({"checkpoint_every": 100, "log_every": 100}, 20, []),
    ],
    ids=["misaligned", "at a checkpoint", "at the end"],
)
def test_nan_loss_names_its_step_and_is_never_saved(Tiny, fit, tmp_path, options, step, kept, bits):
    last = f"last good checkpoint is step {kept[-1]}" if kept else "there is no checkpoint yet"
    with pytest.raises(Diverged, match=rf"not finite at step {step}: .*loss.*; (the )?{last}"):
        fit(Tiny(**options, poison=poisoned(step), snapshot_every=7).experiment(), tmp_path)
    assert finite(tmp_path, bits) == kept
    for row in read_metrics(tmp_path):
        assert np.isfinite(row["loss"])


def test_nan_made_by_the_optimiser_is_never_saved(Tiny, fit, tmp_path, bits):
    """Loss and gradient of step 6 are fine; its update is not, and step 6 is a checkpoint."""

    def spoil(updates, count, params=None):
        return jax.tree.map(lambda u: jnp.where(count == 5, jnp.nan, u), updates), count + 1

    broken = optax.chain(optax.sgd(1e-2), optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), spoil))
    experiment = dataclasses.replace(Tiny(checkpoint_every=3, log_every=100).experiment(), optimizer=broken)
    with pytest.raises(Diverged, match="not finite at step 6: param_norm; the last good checkpoint is step 3"):
        fit(experiment, tmp_path)
    assert finite(tmp_path, bits) == [3]


def test_logged_rows_survive_a_line_cut_short(Tiny, fit, tmp_path):
    fit(Tiny(**PLAIN).experiment(), tmp_path, stop_at=10)
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write(json.dumps({"step": 15, "loss": 1.0}) + '\n{"step": 20, "lo')  # beyond the last checkpoint
    fit(Tiny(**PLAIN).experiment(), tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path)] == [5, 10, 15, 20]
    assert read_metrics(tmp_path)[2]["loss"] != 1.0


def test_given_parameters_start_a_fresh_run_and_no_other(Tiny, tmp_path, one, bits):
    """The first step leaves from them (learning rate 0 keeps them), they survive donation, and a checkpoint goes before
    them; those of another network are refused by name."""
    experiment = dataclasses.replace(Tiny(steps=2).experiment(), optimizer=optax.sgd(0.0))
    given = jax.tree.map(lambda a: a + 1.0, experiment.network.init(jax.random.key(5)))
    outcome = gd.training.fit(experiment, tmp_path, mesh=one, init=given, stop_at=1)
    for name, leaf in bits(given).items():
        np.testing.assert_array_equal(bits(outcome.state.params)[name], leaf)
    other = jax.tree.map(lambda a: a + 1.0, given)
    outcome = gd.training.fit(experiment, tmp_path, mesh=one, init=other)
    assert outcome.finished
    for name, leaf in bits(given).items():
        np.testing.assert_array_equal(bits(outcome.state.params)[name], leaf)
    wrong = given | {"stem": {"kernel": np.zeros((3, 16)), "bias": np.zeros(16)}}
    with pytest.raises(ValueError, match=r"another network: stem/kernel is \[3, 16\] there and \[2, 16\] here"):
        gd.training.build(experiment, mesh=one, init=wrong)


def test_a_trace_of_some_steps_and_the_time_spent_waiting(Tiny, fit, tmp_path):
    """Steps 2 and 3 of a run of two leave a trace too: it is closed at the end."""
    fit(Tiny(steps=2, checkpoint_every=100, log_every=1).experiment(), tmp_path, profile=(2, 3))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert all(0.0 <= row["data_wait"] <= 1.0 for row in read_metrics(tmp_path))
    assert not any("mfu" in row for row in read_metrics(tmp_path))  # a CPU has no peak that is known


def test_utilisation_is_the_models_flops_over_the_peak_of_all_devices(Tiny, fit, tmp_path, monkeypatch):
    """With a peak of as many FLOPs per second as a step has, mfu is the steps per second."""
    experiment = Tiny(steps=2, checkpoint_every=100, log_every=1).experiment()
    kind = jax.devices()[0].device_kind
    monkeypatch.setitem(costs.PEAKS, kind, float(costs.step_flops(experiment)))
    fit(experiment, tmp_path)
    row = read_metrics(tmp_path)[-1]
    assert row["mfu"] == pytest.approx(row["images_per_second"] / experiment.batch_size)
