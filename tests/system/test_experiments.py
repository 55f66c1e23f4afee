"""Every file in experiments/ runs: built directly for a few steps, and through the command line, at toy size."""

import dataclasses
import itertools
import pathlib

import numpy as np
import pytest

from gendyn.training import build, load_config_class, read_metrics

pytestmark = pytest.mark.system
FOLDER = pathlib.Path(__file__).parents[2] / "experiments"
FILES = sorted(path for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))

TOY = {"width": 16, "depth": 1, "blocks": 1, "heads": 2, "multipliers": (1, 2), "batch_size": 8, "steps": 3}
"""Toy values of the usual sizes; an experiment takes those it knows."""
SHARED = {"mnist_flow": "data/mnist", "cifar10_edm": "data/cifar10"}
"""Experiments that read images, and where the tests find them."""


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment_trains(path, request, gendyn, tmp_path):
    """Three finite steps through `build`; then the command, which logs, saves, draws a picture and can be sampled."""
    config = toy(path, request)
    state, step, batches = build(config)
    for batch in itertools.islice(batches, 3):
        state, metrics = step(state, batch)
        assert np.isfinite(float(metrics["loss"]))
    result = gendyn("train", path, "--out", tmp_path / "run", *options(config))
    assert result.status == 0, result.err
    assert read_metrics(tmp_path / "run")[-1]["step"] == 3
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    drawn = gendyn("sample", tmp_path / "run", "--num", 4, "--sampler", "ddim", "--nfe", 2, "--out", tmp_path / "drawn")
    assert drawn.status == 0, drawn.err
    with np.load(tmp_path / "drawn" / "samples.npz") as found:
        assert found["samples"].shape == (4, *config.experiment().shape)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment_says_what_it_asks_and_how_to_run_it(path, gendyn):
    """The docstring asks a question and gives the command; the help lists every option."""
    text = load_config_class(path).__module__
    import sys

    head = sys.modules[text].__doc__
    assert f"gendyn train {path.stem}" in head
    result = gendyn("train", path.stem, "--help")
    assert result.status == 0
    for field in dataclasses.fields(load_config_class(path)):
        assert f"--{field.name.replace('_', '-')}" in result.out
