"""The published DDPM++ of the EDM release, imported: its outputs within 1e-5 of the stored float32 ones.

`edm_ddpmpp_open.md` beside the arrays describes them.
"""

import json

import jax
import numpy as np
import pytest

import gendyn as gd
from gendyn.importing import adopt, export, read

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def stored(request):
    return np.load(request.getfixturevalue("shared") / "parity" / "edm_ddpmpp_open.npz")


@pytest.fixture(scope="module")
def run(request, tmp_path_factory):
    """The file, imported as a user would."""
    folder = tmp_path_factory.mktemp("edm") / "run"
    adopt(read(request.getfixturevalue("shared") / "parity" / "edm_ddpmpp_open.npz"), folder)
    return folder


@pytest.fixture(scope="module")
def model(run):
    return gd.load(run)


def last(x):
    """Channels last."""
    return np.moveaxis(x, 1, -1)


def relative(found, expected):
    """Per example, of the example's largest entry."""
    axes = tuple(range(1, expected.ndim))
    return np.max(np.abs(found - expected), axes) / np.max(np.abs(expected), axes)


def test_network_outputs(model, stored):
    apply = jax.jit(model.denoiser.apply)
    F = apply(model.denoiser.params, last(stored["c_in_x"]), stored["c_noise"], None)
    assert relative(F, last(stored["F"])).max() < TOLERANCE
    assert relative(F, last(stored["F_float64"])).max() < TOLERANCE


def test_denoiser_outputs(model, stored):
    D = jax.jit(lambda D, x, t: D(x, t))(model.denoiser, last(stored["x"]), stored["sigma"])
    assert relative(D, last(stored["D"])).max() < TOLERANCE


def test_architecture_is_as_stored(model, stored):
    kwargs = json.loads(str(stored["config_json"]))["kwargs"]
    config = model.config
    assert (config.resolution, config.channels, config.width) == (16, 3, kwargs["model_channels"])
    assert list(config.multipliers) == kwargs["channel_mult"]
    assert config.dropout == kwargs["dropout"]


def test_exported_state_dict_is_the_stored_one(run, stored, tmp_path):
    exported = export(run, tmp_path / "again.safetensors")
    named = {name.removeprefix("sd/"): stored[name] for name in stored.files if name.startswith("sd/")}
    assert exported.keys() == named.keys()
    assert all((exported[name] == named[name]).all() for name in named)
