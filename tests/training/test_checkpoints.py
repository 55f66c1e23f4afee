"""Checkpoints: round trips between meshes, what is kept, and every way of being damaged."""

import dataclasses
import itertools
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn.training import Checkpoints, abstract_state, build


@pytest.fixture(scope="module")
def experiment(Tiny):
    return Tiny().experiment()


@pytest.fixture(scope="module")
def state(experiment):
    """A state after three steps on eight devices: averages and moments differ from their start."""
    state, step, batches = build(experiment)
    for batch in itertools.islice(batches, 3):
        state, _ = step(state, batch)
    return state


def at(state, step):
    """The state as if it were at another step."""
    return dataclasses.replace(state, step=jnp.full_like(state.step, step))


def fill(folder, experiment, state, steps, **options):
    store = Checkpoints(folder, **options)
    for step in steps:
        store.save(at(state, step), experiment.ema, {"step": step})
    store.wait()
    return store


@pytest.fixture(scope="module")
def saved(tmp_path_factory, experiment, state):
    """A folder with checkpoints 3 and 6, to be copied."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    fill(folder, experiment, state, (3, 6)).close()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def restore(folder, experiment, mesh=None):
    """(state or None, what was said)."""
    said = []
    sharding = gd.distributed.replicated(mesh or gd.distributed.data_mesh())
    found = Checkpoints(folder).restore(abstract_state(experiment), experiment.ema, sharding, report=said.append)
    return found, said


def test_restored_on_another_mesh_every_leaf_is_the_same(folder, experiment, state, one, bits):
    found, said = restore(folder, experiment, one)
    wanted = bits(at(state, 6))
    assert bits(found).keys() == wanted.keys()
    for name, leaf in bits(found).items():
        assert leaf.dtype == wanted[name].dtype
        np.testing.assert_array_equal(leaf, wanted[name], err_msg=name)
    assert {leaf.sharding.device_set == {jax.devices()[0]} for leaf in jax.tree.leaves(found)} == {True}
    assert not said


def test_restored_state_takes_the_next_step(folder, experiment, one):
    found, _ = restore(folder, experiment, one)
    _, step, batches = build(experiment, mesh=one, start=6)
    after, metrics = step(found, next(batches))
    assert int(after.step) == 7
    assert np.isfinite(float(metrics["loss"]))


def test_what_is_saved_is_the_state_of_that_moment(tmp_path, experiment, one, bits):
    """Saving is asynchronous and the step overwrites its donated input: the copy must have been made by then."""
    state, step, batches = build(experiment, mesh=one)
    store, wanted = Checkpoints(tmp_path, keep_last=None), {}
    for batch in itertools.islice(batches, 4):
        state, _ = step(state, batch)
        wanted[int(state.step)] = bits(state.params)
        store.save(state, experiment.ema, {})
    store.wait()
    abstract, whole = abstract_state(experiment).params, gd.distributed.replicated(one)
    for k, params in wanted.items():
        for name, leaf in bits(store.item(k, "params", abstract, whole)).items():
            np.testing.assert_array_equal(leaf, params[name], err_msg=f"{k} {name}")


def test_last_and_every_nth_are_kept(tmp_path, experiment, state):
    store = fill(tmp_path, experiment, state, (2, 4, 5, 6, 7), keep_last=2, keep_every=4)
    assert store.steps() == [4, 6, 7]
    assert store.meta(7) == {"step": 7}


def test_half_written_checkpoint_does_not_count(folder, experiment):
    """What a crash leaves behind carries a temporary name until it is complete; writing that step again works."""
    (folder / "6").rename(folder / "6.orbax-checkpoint-tmp")
    found, _ = restore(folder, experiment)
    assert int(found.step) == 3
    fill(folder, experiment, found, (6,))
    assert int(restore(folder, experiment)[0].step) == 6


def cut_short(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def flipped(folder):
    for path in folder.glob("params/**/d/*"):
        path.write_bytes(bytes(byte ^ 255 for byte in path.read_bytes()))


DAMAGE = {
    "cut short": cut_short,
    "params cut short": lambda folder: cut_short(folder / "params"),
    "without params": lambda folder: shutil.rmtree(folder / "params"),
    "without optimiser": lambda folder: shutil.rmtree(folder / "rest"),
    "without averages": lambda folder: shutil.rmtree(folder / "ema"),
    "empty": emptied,
    "bits flipped": flipped,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_newest_falls_back_and_says_so(folder, experiment, damage):
    damage(folder / "6")
    found, said = restore(folder, experiment)
    assert int(found.step) == 3
    assert len(said) == 1
    assert said[0].startswith("checkpoint 6 cannot be read")
    assert "\n" not in said[0]
    assert str(folder / "unreadable" / "6") in said[0]
    assert (folder / "unreadable" / "6").is_dir()


def test_step_set_aside_can_be_written_again(folder, experiment):
    cut_short(folder / "6")
    found, _ = restore(folder, experiment)
    fill(folder, experiment, found, (6,)).close()
    found, said = restore(folder, experiment)
    assert int(found.step) == 6
    assert not said


def test_all_damaged_starts_anew_and_deletes_nothing(folder, experiment):
    for step in (3, 6):
        cut_short(folder / str(step))
    found, said = restore(folder, experiment)
    assert found is None
    assert len(said) == 2
    assert "starting from step 0" in said[-1]
    assert sorted(path.name for path in (folder / "unreadable").iterdir()) == ["3", "6"]


@pytest.mark.parametrize("change", [{"width": 32}, {"classes": None}])
def test_another_model_is_refused_and_nothing_moves(folder, Tiny, change):
    with pytest.raises(ValueError, match=r"checkpoint 6 .* of another model: .* there and .* here; undo the change"):
        restore(folder, Tiny(**change).experiment())
    assert Checkpoints(folder).steps() == [3, 6]


def test_other_averages_are_refused(folder, experiment):
    with pytest.raises(ValueError, match=r"ema/0\.1/.* absent here"):
        restore(folder, dataclasses.replace(experiment, ema=(0.05,)))
    assert Checkpoints(folder).steps() == [3, 6]


def test_forget_removes_what_lies_beyond(folder):
    store = Checkpoints(folder)
    store.forget(after=3)
    assert store.steps() == [3]


def test_a_full_disk_is_said_before_anything_is_written(experiment, state, tmp_path, monkeypatch):
    store = fill(tmp_path, experiment, state, [3])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(OSError, match=r"is full: the checkpoint of step 4 takes .* and 0\.0 MiB are free.*from step 3"):
        store.save(at(state, 4), experiment.ema, {})
    assert store.steps() == [3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3"]
