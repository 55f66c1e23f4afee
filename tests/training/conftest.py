"""The tiny experiment of the system tests, as a value."""

import pathlib

import jax
import numpy as np
import pytest

import gendyn as gd
from gendyn.tree import paths


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
