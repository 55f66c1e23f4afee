"""The tiny experiment of the system tests, as a value."""

import pathlib

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import gendyn as gd
from gendyn.tree import paths


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Tests that train the same network share one compilation, through jax's persistent cache."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    compilation_cache.reset_cache()
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def tiny_file():
    return pathlib.Path(__file__).parent.parent / "system" / "tiny.py"


@pytest.fixture(scope="session")
def Tiny(tiny_file):
    """The Config class of tests/system/tiny.py."""
    return gd.training.load_config_class(tiny_file)


@pytest.fixture(scope="session")
def one():
    """A mesh of one device, beside the default one of eight."""
    return gd.distributed.data_mesh(jax.devices()[:1])


@pytest.fixture(scope="session")
def bits():
    """A tree as {name: numpy array}, keys as their words: for comparisons bit by bit."""

    def words(leaf):
        return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    return lambda tree: {name: np.array(words(leaf)) for name, leaf in paths(tree)}
