"""The loader: batch k of a run is a pure function of (seed, k).

The examples of a run form one endless line, the permutations of its epochs end to end:

    position   0 1 2 ... n-1 | n n+1 ... 2n-1 | 2n ...
    example    permutation 0 |  permutation 1 | ...

Batch k is the positions k B .. (k+1) B - 1, across the ends of epochs, so nothing is dropped and nothing is
padded; process j of J holds rows j B/J .. (j+1) B/J - 1 of it. Everything random is keyed by position. The
only state of a loader is therefore the step, and the same run on another number of processes, or after a
restart, sees the same examples in the same order with the same augmentation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from gendyn.data.sources import Batch, Source, delivered
from gendyn.data.transforms import Positional, Transform, philox

if TYPE_CHECKING:
    from grain import DatasetIterator

ENDLESS = 2**48  # batches: grain wants a length


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    transforms: Sequence[Transform] = (),
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
) -> DatasetIterator:
    """An endless iterator over batches of `source`, from step `start`, read ahead by `num_threads` threads.

    `batch_size` is the *global* batch; what comes is this process's share, a dict of numpy arrays {"data":
    [batch_size / process_count, *shape], "label": [...]}. A batch may be larger than the data, which then
    repeats within it. `num_threads=0` reads in the calling thread. The iterator's `get_state()` is plain
    JSON that holds nothing but the step, `set_state` goes there; `start=step` does the same.

    Cost: two batches per thread are held in memory, and one permutation (8 bytes an example) per epoch in
    view.

    >>> from gendyn.data import digits
    >>> steps = batches(digits(), batch_size=128, seed=0)
    >>> next(steps)["data"].shape
    (128, 8, 8, 1)
    """
    import grain  # here: it costs a second, and a source is useful without it

    table = Batches(
        source=source,
        batch_size=batch_size,
        seed=seed,
        transforms=tuple(transforms),
        process_index=process_index,
        process_count=process_count,
    )
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    iterator = iter(grain.MapDataset.source(table).to_iter_dataset(options))
    iterator.set_state({"next_index": start})
    return iterator


@dataclass(frozen=True, kw_only=True, eq=False)
class Batches:
    """The run's batches as a sequence: `table[k]` is this process's rows of batch k. See `batches`."""

    source: Source
    batch_size: int
    seed: int
    transforms: tuple[Transform, ...] = ()
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        if not len(self.source):
            raise ValueError("a loader needs at least one example, got an empty source")
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise ValueError(
                "batch_size is the global batch and must be a positive multiple of the number of processes, "
                f"got {self.batch_size} for {self.process_count}; the next that fits is {self._next_size()}"
            )
        if not 0 <= self.process_index < self.process_count:
            raise ValueError(f"process_index must lie in 0..{self.process_count - 1}, got {self.process_index}")

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, k: int, /) -> Batch:
        positions = self.positions(k)
        indices = example_at(self.source, positions, seed=self.seed)
        rng = Positional(seed=self.seed, first=int(positions[0]))
        movers = tuple(itertools.takewhile(lambda transform: hasattr(transform, "rearranges"), self.transforms))
        if not movers or not hasattr(self.source, "stored"):
            return transformed(take(self.source, indices), self.transforms, rng)
        batch = transformed(self.source.stored(indices), movers, rng)
        batch = {name: delivered(values) for name, values in batch.items()}
        return transformed(batch, self.transforms[len(movers) :], rng)

    def positions(self, k: int) -> Int[np.ndarray, " rows"]:
        """The positions in the run of this process's rows of batch k."""
        rows = self.batch_size // self.process_count
        return k * self.batch_size + self.process_index * rows + np.arange(rows)

    def _next_size(self) -> int:
        return max(-(-self.batch_size // self.process_count), 1) * self.process_count


def transformed(batch: Batch, transforms: Sequence[Transform], rng: Positional) -> Batch:
    """The batch after the transforms, in order."""
    for transform in transforms:
        batch = transform(batch, rng)
    return batch


def example_at(source: Source, positions: Int[np.ndarray, " rows"], *, seed: int) -> Int[np.ndarray, " rows"]:
    """Which example stands at each position of the run (positions ascend): the source's own order if it has one, else
    the permutations of its epochs."""
    if hasattr(source, "example_at"):
        return source.example_at(positions, seed=seed)
    order = _orders(len(source), seed)
    epochs, places = np.divmod(positions, len(source))
    turns = range(int(epochs[0]), int(epochs[-1]) + 1)
    return np.concatenate([order(epoch)[places[epochs == epoch]] for epoch in turns])


@lru_cache(maxsize=64)
def _orders(n: int, seed: int) -> Callable[[int], Int[np.ndarray, " n"]]:
    """The permutations of one run, by epoch. The last two stay in memory: batches lie across the ends of epochs."""
    return lru_cache(maxsize=2)(partial(permutation, n, seed))


def permutation(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """The order of one epoch: the one that sorts n random 64-bit numbers.

    Not `Generator.permutation`, whose algorithm numpy may change; raw Philox output is promised to stay, so
    a run resumed years later continues in the same order.
    """
    order = np.argsort(philox(seed, stream=0, counter=epoch * n).random_raw(n), kind="stable")
    order.flags.writeable = False  # it is shared through the cache
    return order


def take(source: Source, indices: Int[np.ndarray, " rows"]) -> Batch:
    """The examples at `indices`, stacked: at once if the source can, else one by one."""
    if hasattr(source, "take"):
        return source.take(indices)
    examples = [source[int(i)] for i in indices]
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}
