"""Mixtures: exact proportions, one order whatever the processes, every example once in each epoch of its source."""

import numpy as np
import pytest

from gendyn.data import Batches, arrays, batches, mix, paired, random_flip


def numbered(n, offset):
    """Example i is offset + i, with its label."""
    return arrays(
        (offset + np.arange(n))[:, None, None, None] + np.zeros([1, 2, 3, 1]), np.arange(n) % 3, num_classes=3
    )


@pytest.fixture
def parts():
    return numbered(10, 0), numbered(7, 100), numbered(4, 200)


def stream(source, n, batch_size=5, **options):
    table = Batches(source=source, batch_size=batch_size, seed=2, **options)
    return np.concatenate([table[k]["data"][:, 0, 0, 0] for k in range(-(-n // batch_size))])[:n].astype(int)


def origin(values):
    return values // 100


@pytest.mark.parametrize(
    ("weights", "counts"), [((5, 3, 2), (5, 3, 2)), ((0.7, 0.2, 0.1), (7, 2, 1)), ((1e-2, 0.5, 2.0), (1, 50, 200))]
)
def test_proportions_are_exact_in_every_pattern_and_close_in_every_prefix(parts, weights, counts):
    period = sum(counts)
    found = origin(stream(mix(dict(zip(parts, weights))), 3 * period, batch_size=50))
    for round in found.reshape(3, period):
        assert tuple(np.bincount(round)) == counts
    ahead = np.arange(1, 3 * period + 1)
    for c, count in enumerate(counts):
        assert np.abs(np.cumsum(found == c) - ahead * count / period).max() <= 1.5


def test_every_epoch_of_every_source_holds_each_of_its_examples_once(parts):
    found = stream(mix(dict(zip(parts, (5, 3, 2)))), 400)
    for c, part in enumerate(parts):
        own = found[origin(found) == c]
        whole = len(own) // len(part)
        assert whole >= 8
        for epoch in own[: whole * len(part)].reshape(whole, len(part)):
            assert sorted(epoch % 100) == list(range(len(part)))


def test_sources_of_one_length_do_not_go_in_step():
    found = stream(mix({numbered(50, 0): 1, numbered(50, 100): 1}), 100)
    assert (found[origin(found) == 0] != found[origin(found) == 1] - 100).mean() > 0.8


@pytest.mark.parametrize("count", [2, 4])
def test_processes_hold_contiguous_rows_of_the_one_batch(parts, count):
    source = mix(dict(zip(parts, (5, 3, 2))))
    options = {"source": source, "batch_size": 8, "seed": 1, "transforms": (random_flip,)}
    for k in (0, 1, 9):
        rows = [Batches(**options, process_index=j, process_count=count)[k] for j in range(count)]
        whole = Batches(**options)[k]
        assert all(np.array_equal(np.concatenate([row[name] for row in rows]), whole[name]) for name in whole)


def test_resume_and_batch_size_do_not_change_the_order(parts):
    source = mix(dict(zip(parts, (1, 1, 3))))
    assert np.array_equal(stream(source, 60, batch_size=3), stream(source, 60, batch_size=20))
    resumed = batches(source, batch_size=4, seed=2, start=7)
    assert np.array_equal(next(resumed)["data"][:, 0, 0, 0], stream(source, 32, batch_size=4)[28:])


def test_labels_go_with_their_examples(parts):
    batch = Batches(source=mix(dict(zip(parts, (5, 3, 2)))), batch_size=40, seed=0)[0]
    assert np.array_equal(batch["label"], batch["data"][:, 0, 0, 0].astype(int) % 100 % 3)


def test_mixtures_of_mixtures(parts):
    inner = mix({parts[1]: 1, parts[2]: 1})
    found = origin(stream(mix({parts[0]: 1, inner: 1}), 80, batch_size=8))
    assert np.bincount(found).tolist() == [40, 20, 20]


def test_pairs_of_a_mixture_keep_its_order(parts):
    mixture = mix(dict(zip(parts, (5, 3, 2))))
    assert np.array_equal(stream(paired(mixture, parts[0]), 50), stream(mixture, 50))


def test_as_a_sequence_a_mixture_is_its_sources_end_to_end(parts):
    source = mix(dict(zip(parts, (5, 3, 2))))
    assert [int(example["data"][0, 0, 0]) // 100 for example in source] == [0] * 10 + [1] * 7 + [2] * 4


def test_far_positions(parts):
    source = mix(dict(zip(parts, (5, 3, 2))))
    far = Batches(source=source, batch_size=10, seed=0)[2**40]["data"][:, 0, 0, 0].astype(int)
    assert np.bincount(origin(far)).tolist() == [5, 3, 2]


def test_refusals(parts):
    with pytest.raises(ValueError, match="at least one source"):
        mix({})
    with pytest.raises(ValueError, match=r"positive and finite, got \[1, 0\]"):
        mix({parts[0]: 1, parts[1]: 0})
    with pytest.raises(ValueError, match="repeat only after 1,000,000,001 positions; round them"):
        mix({parts[0]: 1e9, parts[1]: 1})
    with pytest.raises(ValueError, match="one shape and one number of classes"):
        mix({parts[0]: 1, arrays(np.zeros([3, 2])): 1})
    unlike = mix({arrays(np.zeros([3, 2])): 1, arrays(np.zeros([3, 2]), fields={"base": np.zeros([3, 2])}): 1})
    with pytest.raises(ValueError, match=r"the same entries, got \['data'\] and \['base', 'data'\]"):
        Batches(source=unlike, batch_size=4, seed=0)[0]
