"""Eight host devices and shared fixtures, set up before jax starts."""

import atexit
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile far more than they compute: without LLVM's optimisations the suite takes about a sixth less.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # One cache of compiled programs for this run: its workers and the commands that tests start inherit it.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="gendyn-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1.0"  # writing shorter ones costs more
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

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
