"""Batch k is a function of (seed, k): order, resume, number of processes, augmentation."""

import json

import numpy as np
import pytest

from gendyn.data import Arrays, Batches, RandomCrop, arrays, batches, random_flip, wrap
from gendyn.data.loader import permutation


def numbered(n):
    """Example i is the image [[i, -i]]: it shows both who it is and whether it was flipped."""
    return arrays(np.arange(n)[:, None, None, None] * np.array([1.0, -1.0])[None, None, :, None] + 0.0)


def who(batch):
    return np.abs(batch["data"][:, 0, 0, 0]).astype(int)


def table(n=10, **kwargs):
    return Batches(source=numbered(n), **{"batch_size": 4, "seed": 0, **kwargs})


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 10, 25])
def test_every_epoch_holds_each_example_once(batch_size):
    stream = np.concatenate([who(table(batch_size=batch_size)[k]) for k in range(40 // batch_size + 1)])
    for epoch in stream[:40].reshape(4, 10):
        assert sorted(epoch) == list(range(10))


def test_batch_size_does_not_change_the_order():
    small = [who(table(batch_size=3)[k]) for k in range(20)]
    large = [who(table(batch_size=20)[k]) for k in range(3)]
    assert np.array_equal(np.concatenate(small), np.concatenate(large))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [tuple(permutation(50, seed, epoch)) for seed in range(5) for epoch in range(5)]
    assert len(set(orders)) == 25
    assert not any(np.array_equal(order, np.arange(50)) for order in orders)


def test_permutations_are_uniform():
    """Each example is at each place equally often: chi-square of 5x5 counts, 16 degrees of freedom.
    Fixed seeds; the bound is the 99.9 % point."""
    orders = np.array([permutation(5, 0, epoch) for epoch in range(5_000)])
    counts = np.array([[np.sum(orders[:, place] == who) for who in range(5)] for place in range(5)])
    assert ((counts - 1000) ** 2 / 1000).sum() < 39.3


@pytest.mark.parametrize("count", [2, 4])
def test_processes_hold_contiguous_rows_of_the_one_batch(count):
    options = {"batch_size": 8, "transforms": (random_flip, random_flip)}
    for k in (0, 1, 7):
        parts = [table(process_index=j, process_count=count, **options)[k] for j in range(count)]
        together = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        assert same(together, table(**options)[k])


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_resume_at_any_step_gives_the_identical_next_batch(num_threads):
    options = {"batch_size": 4, "seed": 1, "transforms": [random_flip], "num_threads": num_threads}
    run = batches(numbered(10), **options)
    whole = [next(run) for _ in range(9)]
    for start in range(9):
        resumed = batches(numbered(10), **options, start=start)
        assert same(next(resumed), whole[start])


def test_resume_on_another_number_of_processes():
    options = {"batch_size": 4, "seed": 1, "transforms": [random_flip]}
    expected = Batches(source=numbered(10), batch_size=4, seed=1, transforms=(random_flip,))[5]
    halves = [next(batches(numbered(10), **options, start=5, process_index=j, process_count=2)) for j in (0, 1)]
    assert same({"data": np.concatenate([half["data"] for half in halves])}, expected)


def test_the_state_is_the_step_and_survives_json():
    run = batches(numbered(10), batch_size=4, seed=0, transforms=[random_flip])
    for _ in range(5):
        next(run)
    state = json.loads(json.dumps(run.get_state()))
    assert state == {"next_index": 5}
    expected = [next(run) for _ in range(3)]
    other = batches(numbered(10), batch_size=4, seed=0, transforms=[random_flip])
    next(other)  # a restored iterator must forget what it has read ahead
    other.set_state(state)
    assert all(same(next(other), batch) for batch in expected)


def test_flips_are_not_the_same_in_every_epoch_and_about_half():
    epochs = table(999, batch_size=999, transforms=(random_flip,))
    by_example = []
    for k in range(4):
        batch = epochs[k]
        by_example.append(batch["data"][np.argsort(who(batch))][1:, 0, 0, 0] < 0)  # 0 cannot tell
    assert all(0.42 < mirrored.mean() < 0.58 for mirrored in by_example)  # 5 sigma for 998 coins
    assert not np.array_equal(by_example[0], by_example[1])


def test_two_transforms_draw_different_numbers():
    """Were the second flip to reuse the first one's numbers, it would undo it."""
    plain, twice = table(64, batch_size=64)[0], table(64, batch_size=64, transforms=(random_flip,) * 2)[0]
    changed = (plain["data"] != twice["data"]).any(axis=(1, 2, 3)).mean()
    assert 0.2 < changed < 0.8


def test_sources_without_take_give_the_same_batches():
    one_by_one = wrap([{"data": row} for row in numbered(10).data])
    for k in range(4):
        assert same(Batches(source=one_by_one, batch_size=4, seed=3)[k], table(seed=3)[k])


def test_pixels_that_are_moved_before_they_become_floats_are_the_same(rng):
    """A source that keeps uint8 lets leading flips and crops work on it; one that does not moves floats."""
    pixels = rng.integers(0, 256, [10, 6, 5, 3], dtype=np.uint8)
    by_half = lambda batch, rng: {**batch, "data": batch["data"] / 2 + rng.random((len(batch["data"]), 1, 1, 1))}
    options = {"batch_size": 4, "seed": 3, "transforms": (random_flip, RandomCrop((4, 3)), by_half, random_flip)}
    one_by_one = wrap([{"data": image} for image in pixels])
    for k in range(4):
        assert same(Batches(source=one_by_one, **options)[k], Batches(source=arrays(pixels), **options)[k])


def test_a_batch_may_be_larger_than_the_data():
    counts = np.bincount(who(table(3, batch_size=9)[0]))
    assert counts.tolist() == [3, 3, 3]


def test_far_steps_do_not_overflow():
    assert sorted(who(table(10, batch_size=10)[2**40])) == list(range(10))


@pytest.mark.parametrize("size", [0, 7])
def test_a_batch_that_does_not_divide_names_the_next_that_does(size):
    with pytest.raises(ValueError, match=r"got \d for 4; the next that fits is (4|8)$"):
        table(batch_size=size, process_count=4)


def test_a_process_out_of_range():
    with pytest.raises(ValueError, match=r"process_index must lie in 0\.\.1, got 2"):
        table(process_index=2, process_count=2)


def test_an_empty_source():
    with pytest.raises(ValueError, match="empty source"):
        Batches(source=Arrays(data=np.zeros([0, 2], np.float32)), batch_size=1, seed=0)
