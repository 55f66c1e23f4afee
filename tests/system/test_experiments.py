"""Every file in experiments/ runs through the command line at toy size."""

import dataclasses
import inspect
import pathlib

import numpy as np
import pytest

from gendyn.training import load, load_config_class, read_metrics

pytestmark = pytest.mark.system
FOLDER = pathlib.Path(__file__).parents[2] / "experiments"
FILES = sorted(path for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))

TOY = {"width": 16, "depth": 1, "blocks": 1, "heads": 2, "multipliers": (1, 2), "batch_size": 8, "steps": 3}
"""Toy values of the usual sizes; an experiment takes those it knows."""
SHARED = {
    "mnist_flow": "data/mnist",
    "interpolant_two_sets": "data/mnist",
    "reflow_mnist": "data/mnist",
    "restoration_mnist": "data/mnist",
    "cifar10_edm": "data/cifar10",
    "transfer_dit_mnist": "data/mnist",
    "transfer_unet_mnist": "data/mnist",
}
"""Experiments that read images, and where the tests find them."""


LONG = ("cifar10_edm", "digits_dynamics", "mnist_flow", "reflow_mnist", "weight_decay_rules")
LONG += ("transfer_depth", "transfer_dit_mnist", "transfer_unet_mnist")


def marks(path):
    """Long to compile, or another experiment's network with little changed."""
    return [pytest.mark.slow] if path.stem in LONG else []


def toy(path, request):
    """A Config of the file at toy size."""
    cls = load_config_class(path)
    known = {field.name for field in dataclasses.fields(cls)}
    sizes = {name: value for name, value in TOY.items() if name in known}
    if path.stem in SHARED:
        data = request.getfixturevalue("shared") / SHARED[path.stem]
        sizes |= {"data": str(data), "limit": 32}
    return cls(**sizes)


def options(config):
    """The same config as command-line options."""
    changed = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    flat = []
    for name, value in changed.items():
        if name in TOY or name in ("data", "limit"):
            flat += [f"--{name.replace('_', '-')}", *(value if isinstance(value, tuple) else (value,))]
    return flat


@pytest.mark.parametrize("path", [pytest.param(path, marks=marks(path)) for path in FILES], ids=lambda path: path.stem)
def test_experiment_trains(path, request, gendyn, tmp_path, monkeypatch):
    """Three finite steps by the command, which calls `build`, logs, saves and draws; the run then loads. On one device:
    partitioning a network for eight doubles the compiler's work, and the tests of training do that."""
    monkeypatch.setattr("gendyn.cli.train.PICTURES", 4)
    config = toy(path, request)
    result = gendyn("train", path, "--out", tmp_path, "--devices", 1, *options(config))
    assert result.status == 0, result.err
    rows = read_metrics(tmp_path)
    assert rows[-1]["step"] == 3
    assert np.isfinite([row["loss"] for row in rows]).all()
    assert list((tmp_path / "samples").glob("*.png"))
    model = load(tmp_path)
    assert (model.step, model.shape) == (3, config.experiment().shape)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment_gives_its_command_and_options(path, gendyn):
    """The head of the file gives its command; the help of that command lists every option."""
    cls = load_config_class(path)
    assert f"gendyn train {path.stem}" in inspect.getmodule(cls).__doc__
    result = gendyn("train", path.stem, "--help")
    assert result.status == 0
    for field in dataclasses.fields(cls):
        assert f"--{field.name.replace('_', '-')}" in result.out


@pytest.mark.slow
def test_a_restoration_run_samples_from_test_examples(shared, gendyn, tmp_path):
    """`gendyn sample` restores the first test images of the class asked for; guidance has no meaning and says so."""
    path = FOLDER / "restoration_mnist.py"
    config = load_config_class(path)(data=str(shared / "data/mnist"), limit=32, width=16, depth=1, heads=2, steps=1)
    sizes = ["--limit", 32, "--width", 16, "--depth", 1, "--heads", 2, "--batch-size", 8, "--steps", 1]
    command = ("train", path, "--out", tmp_path, "--devices", 1, "--data", config.data, *sizes)
    assert gendyn(*command).status == 0
    assert gendyn("sample", tmp_path, "--num", 5, "--nfe", 2, "--out", tmp_path / "drawn").status == 0
    restored = np.load(tmp_path / "drawn" / "samples.npz")["samples"]
    assert restored.shape == (5, 28, 28, 1)
    # The untrained network predicts no deviation beyond c_skip's share: what comes out is near mu, image by image.
    mu = np.stack([config.experiment().test()[i]["mu"] for i in range(5)])
    pixels = restored / 127.5 - 1
    distances = np.sqrt(np.mean((pixels[:, None] - mu[None]) ** 2, axis=(2, 3, 4)))
    assert (distances.argmin(1) == np.arange(5)).all()
    refused = gendyn("sample", tmp_path, "--num", 5, "--guidance", 2)
    assert refused.status != 0
    assert "restoration model, which has no null condition" in refused.err


@pytest.mark.slow
def test_a_student_is_distilled_from_a_run(gendyn, tmp_path):
    """`--teacher RUN` names a digits_edm run; the student is sampled in two calls, also when the teacher is gone, and
    no solver of a flow accepts it."""
    sizes = ["--width", 16, "--depth", 1, "--batch-size", 8, "--steps", 1, "--devices", 1]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert gendyn("train", "digits_edm", "--out", teacher, *sizes).status == 0
    result = gendyn("train", "consistency_digits", "--teacher", teacher, "--out", student, *sizes)
    assert result.status == 0, result.err
    teacher.rename(tmp_path / "gone")
    drawn = ["sample", student, "--num", 4, "--out", tmp_path / "drawn"]
    assert gendyn(*drawn, "--sampler", "consistency", "--nfe", 2).status == 0
    assert np.load(tmp_path / "drawn" / "samples.npz")["samples"].shape == (4, 8, 8, 1)
    refused = gendyn(*drawn, "--sampler", "ddim", "--nfe", 4)
    assert refused.status != 0
    assert "returns a jump" in refused.err
