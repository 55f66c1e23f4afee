"""The mesh and where arrays go on it."""

import jax
import numpy as np
import pytest

from gendyn.distributed import (
    DATA,
    FSDP,
    SEQUENCE,
    TENSOR,
    check_divisible,
    data_mesh,
    make_mesh,
    parse_mesh,
    place,
    replicated,
    split,
)


def test_by_default_all_devices_or_those_given_hold_copies():
    assert dict(data_mesh().shape) == {DATA: jax.device_count(), FSDP: 1, TENSOR: 1, SEQUENCE: 1}
    assert dict(data_mesh(jax.devices()[:2]).shape) == {DATA: 2, FSDP: 1, TENSOR: 1, SEQUENCE: 1}


def test_split_cuts_rows_and_replicated_copies():
    mesh, x = data_mesh(jax.devices()[:4]), np.arange(8.0)
    cut, whole = jax.device_put(x, split(mesh)), jax.device_put(x, replicated(mesh))
    assert [shard.data.tolist() for shard in cut.addressable_shards] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [shard.data.shape for shard in whole.addressable_shards] == [(8,)] * 4


def test_a_mesh_is_a_block_whose_batch_is_cut_over_data_and_fsdp():
    mesh = make_mesh(fsdp=2, tensor=2)
    assert tuple(mesh.shape.values()) == (2, 2, 2, 1)
    assert jax.device_put(np.arange(8.0), split(mesh)).addressable_shards[0].data.shape == (2,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fsdp=3", "data=2 x fsdp=3 x tensor=1 x sequence=1 does not fit 8 devices"),
        ("data=2,fsdp=2", "data=2 x fsdp=2 x tensor=1 x sequence=1 does not fit 8 devices"),
        ("fdsp=2", "sizes of data, fsdp, tensor, sequence, as fsdp=4,tensor=2; got 'fdsp=2'"),
        ("fsdp=0", "got 'fsdp=0'"),
        ("fsdp", "got 'fsdp'"),
        ("fsdp=2,fsdp=4", "got 'fsdp=4'"),
    ],
)
def test_meshes_that_do_not_fit_are_refused_in_words(text, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**parse_mesh(text))


@pytest.mark.parametrize(
    ("batch", "accumulate", "message"),
    [
        (20, 1, "batch_size 20 does not divide over 8 devices; use 16 or 24, or fewer devices"),
        (5, 1, "does not divide over 8 devices; use 8, or fewer devices"),
        (24, 2, "batch_size 24 does not divide over 8 devices x 2 micro-batches; use 16 or 32"),
    ],
)
def test_uneven_batches_are_refused_with_the_nearest_that_fit(batch, accumulate, message):
    with pytest.raises(ValueError, match=message):
        check_divisible(batch, data_mesh(), accumulate)


def test_even_batches_pass():
    check_divisible(32, data_mesh(), 2)


def test_place_keeps_order_and_ends_with_its_source():
    mesh = data_mesh()
    source = ({"data": np.full((8, 2), k), "label": np.arange(8)} for k in range(3))
    batches = list(place(source, mesh))
    assert [int(batch["data"][0, 0]) for batch in batches] == [0, 1, 2]
    assert {leaf.sharding for batch in batches for leaf in jax.tree.leaves(batch)} == {split(mesh)}


def test_place_reads_one_batch_ahead():
    taken = []

    def source():
        for k in range(5):
            taken.append(k)
            yield {"data": np.zeros(8)}

    batches = place(source(), data_mesh())
    next(batches)
    assert taken == [0, 1]


def test_place_of_nothing_is_nothing():
    assert list(place(iter(()), data_mesh())) == []
