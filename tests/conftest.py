"""Eight host devices and shared fixtures, set up before jax starts."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared():
    """Parity and image data that accompany the repository; tests that need them skip where they are absent."""
    folder = pathlib.Path(os.environ.get("GENDYN_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared data folder beside the repository (set GENDYN_SHARED)")
    return folder


@pytest.fixture
def x64():
    """Double precision inside one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)
