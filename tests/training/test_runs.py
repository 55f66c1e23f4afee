"""Run directories: loaded anywhere, without data, with any averaged weights; another config is another run."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn.training import differences, fit, load, open_run, read_config, sample


@pytest.fixture(scope="module")
def trained(Tiny, tiny_file, one, tmp_path_factory):
    """A finished run of 20 steps with checkpoints 9, 18, 20 and snapshots 4, 8, 12, 16, 20; to be read, not written."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = Tiny(snapshot_every=4)
    open_run(folder, config, tiny_file, one, override=False)
    fit(config.experiment(), folder, mesh=one)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy, to be spoiled."""
    return shutil.copytree(trained, tmp_path / "run")


def weights(model):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(model.denoiser)])


def test_run_describes_itself(trained, Tiny, tiny_file):
    described = json.loads((trained / "config.json").read_text())
    assert described["config"]["snapshot_every"] == 4
    assert described["versions"]["jax"] == jax.__version__
    assert (trained / "experiment.py").read_text() == tiny_file.read_text()
    config = read_config(trained)
    assert differences(vars(config), vars(Tiny(snapshot_every=4))) == []


def test_load_needs_no_training_data(trained, monkeypatch):
    monkeypatch.setenv("TINY_NO_DATA", "1")
    model = load(trained)
    assert (model.shape, model.num_classes, model.step) == ((2,), 3, 20)
    assert model.denoiser(jnp.ones((4, 2)), 1.0, jnp.zeros(4, jnp.int32)).shape == (4, 2)


def test_loaded_model_gives_the_same_samples_on_one_and_eight_devices(trained, one):
    """Trained on one device; `run` itself also takes a batch that is cut over eight."""
    model, plan = load(trained), gd.plan("ddim", gd.processes.EDM(), nfe=4)
    labels = np.arange(20) % 3
    eight = gd.distributed.data_mesh()
    a, b = (sample(model.denoiser, plan, (2,), num=20, labels=labels, mesh=mesh) for mesh in (one, eight))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    x_T = jax.device_put(model.process.sample_prior(jax.random.key(0), (16, 2)), gd.distributed.split(eight))
    assert gd.samplers.run(plan, model.denoiser, x_T).shape == (16, 2)


def test_weights_that_can_be_asked_for_differ(trained):
    found = {load(trained, ema=width).weights: weights(load(trained, ema=width)) for width in (None, 0, 0.1, 0.07)}
    assert list(found) == [
        "EMA of relative width 0.05",
        "raw parameters",
        "EMA of relative width 0.1",
        "post-hoc EMA of relative width 0.07",
    ]
    narrow, raw, wide, between = found.values()
    assert np.linalg.norm(narrow - raw) < np.linalg.norm(wide - raw)
    assert np.linalg.norm(narrow - raw) < np.linalg.norm(between - raw) < np.linalg.norm(wide - raw)


def test_post_hoc_width_equals_the_tracked_one(trained, Tiny, one, tmp_path):
    """The same run that did track 0.07 beside its own widths is the truth, at a step that is no snapshot too."""
    experiment = dataclasses.replace(Tiny(snapshot_every=4).experiment(), ema=(0.05, 0.10, 0.07))
    fit(experiment, tmp_path, mesh=one)
    for step in (18, 20):
        name, abstract = "0.07", jax.eval_shape(experiment.network.init, jax.random.key(0))
        tracked = {f"{std:g}": abstract for std in experiment.ema}
        store = gd.training.Checkpoints(tmp_path / "checkpoints", read_only=True)
        truth = store.item(step, "ema", tracked, gd.distributed.replicated(one))
        truth = {key: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for key, tree in truth.items()}
        made = weights(load(trained, ema=0.07, step=step))
        error, nearest = (np.linalg.norm(a - truth[name]) for a in (made, truth["0.05"]))
        assert error < nearest / 10


def test_damaged_checkpoint_is_passed_over_with_a_warning(run):
    shutil.rmtree(run / "checkpoints" / "20" / "ema")
    with pytest.warns(UserWarning, match="checkpoint 20 .* cannot be read"):
        assert load(run).step == 18
    with pytest.warns(UserWarning, match="checkpoint 20 .* cannot be read"):
        assert load(run, ema=0.07).step == 18


def test_damaged_snapshot_is_passed_over_with_a_warning(run):
    shutil.rmtree(run / "ema" / "8" / "ema")
    with pytest.warns(UserWarning, match="snapshot 8 in .* is passed over"):
        assert load(run, ema=0.07).step == 20


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"step": 7}, "no checkpoint at step 7; it has 9, 18, 20"),
        ({"ema": 0.4}, "fraction of the run between 0 and 0.289; got 0.4"),
        ({"ema": -0.1}, "fraction of the run"),
    ],
)
def test_weights_that_cannot_be_had_are_refused(trained, asked, message):
    with pytest.raises(ValueError, match=message):
        load(trained, **asked)


def test_width_without_snapshots_is_refused(run):
    shutil.rmtree(run / "ema")
    with pytest.raises(ValueError, match=r"no snapshots .*set snapshot_every .* tracked widths: 0\.05, 0\.1"):
        load(run, ema=0.07)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{ half", "config.json is not valid JSON"),
        ("[]", "has no entry 'config'"),
        ('{"config": {"depth": 3}}', "fields its experiment.py does not know: depth"),
    ],
)
def test_damaged_config_is_one_sentence(run, content, message):
    (run / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(run)


def test_what_is_no_run_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run directory: it does not exist"):
        load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"it has no config\.json"):
        load(tmp_path)


def test_run_without_checkpoints_says_so(run):
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet; train it first"):
        load(run)


def test_another_config_needs_override(run, Tiny, tiny_file, one):
    before = (run / "config.json").read_text()
    with pytest.raises(ValueError, match=r"steps: 20 -> 30\nPass --override"):
        open_run(run, Tiny(snapshot_every=4, steps=30), tiny_file, one, override=False)
    assert (run / "config.json").read_text() == before
    open_run(run, Tiny(snapshot_every=4, steps=30), tiny_file, one, override=True)
    assert read_config(run).steps == 30


def test_override_cannot_change_the_model(run, Tiny, tiny_file, one):
    """Refused before the run's own description is overwritten: it stays loadable."""
    with pytest.raises(ValueError, match="of another model"):
        open_run(run, Tiny(snapshot_every=4, width=32), tiny_file, one, override=True)
    assert read_config(run).width == 16


@pytest.mark.parametrize("text", ["", "Config = 3", "class Config: pass"])
def test_experiment_file_without_a_config_says_so(tmp_path, text):
    (tmp_path / "empty.py").write_text(text)
    with pytest.raises(ValueError, match="must define a frozen dataclass Config with a method experiment"):
        gd.training.load_config_class(tmp_path / "empty.py")
