"""Shards: a data set in a few large files, of which each process reads its own examples and nothing else.

ArrayRecord files (github.com/google/array_record) give any record in one read, so shuffling costs no buffer: the
loader's permutation is over the whole set, whatever its size.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from gendyn.data.shard_index import Index, Shard, read_index
from gendyn.data.sources import CorruptData
from gendyn.data.transforms import Batch

if TYPE_CHECKING:
    from array_record.python.array_record_module import ArrayRecordReader

# One record at a time through a small buffer: half the time of the list reads and large buffers that are the library's
# default (measured, records of 3 and of 30 kB in the page cache).
READING = {"options": "readahead_buffer_size:0,max_parallelism:0", "file_reader_buffer_size": 8192}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Shards:
    """A source over shards; see `shards`. Files are opened when first read from, anew in every process."""

    folder: Path
    index: Index

    @property
    def shape(self) -> tuple[int, ...]:
        return self.index.layout.shape

    @property
    def num_classes(self) -> int | None:
        return self.index.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.index.class_names

    def __len__(self) -> int:
        return self.index.examples

    def __getitem__(self, index: int, /) -> Batch:
        return {name: value[0] for name, value in self.take(np.asarray([index])).items()}

    def take(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """The examples at `indices`, stacked: {"data": [batch, *shape], "label": [batch], and the fields}."""
        return self._unpacked(indices, deliver=True)

    def stored(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """As `take`, in the dtypes that are kept: pixels as uint8."""
        return self._unpacked(indices, deliver=False)

    def records(self, indices: Int[np.ndarray, " batch"]) -> list[bytes]:
        """The records of the examples at `indices`, as `gendyn.data.records` describes them."""
        where = self._places(indices)
        readers = {number: _reader(self._paths[number], self.index.shards[number], os.getpid()) for number, _ in where}
        try:
            return [readers[number].read(place, place + 1)[0] for number, place in where]
        except (RuntimeError, IndexError) as error:
            raise CorruptData(f"{self._first_fault(where)} is damaged ({error}); copy or pack it again") from error

    def _unpacked(self, indices: Int[np.ndarray, " batch"], *, deliver: bool) -> Batch:
        records = self.records(indices)
        return self.index.layout.unpack(records, lambda i: self._called(*self._places(indices)[i]), deliver=deliver)

    def _places(self, indices: Int[np.ndarray, " batch"]) -> list[tuple[int, int]]:
        """In which shard each example is, and where in it."""
        indices = np.asarray(indices)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"indices must lie in 0..{len(self) - 1}, got {indices.min()} to {indices.max()}")
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        return list(zip(numbers.tolist(), (indices - self._starts[numbers]).tolist()))

    def _called(self, number: int, place: int) -> str:
        return f"{self._paths[number]}, example {place},"

    def _first_fault(self, where: list[tuple[int, int]]) -> str:
        """The name of the first example that cannot be read."""
        for number, place in where:
            try:
                _reader(self._paths[number], self.index.shards[number], os.getpid()).read(place, place + 1)
            except RuntimeError:
                break
        return self._called(number, place)

    def __repr__(self) -> str:
        layout = self.index.layout
        what = f"{len(self)} of {list(self.shape)}, {layout.encoding} {layout.dtype}, num_classes={self.num_classes}"
        return f"Shards({what}, {len(self.index.shards)} files)"

    @cached_property
    def _paths(self) -> list[str]:
        return [str(self.folder / shard.file) for shard in self.index.shards]

    @cached_property
    def _starts(self) -> Int[np.ndarray, " shards"]:
        """The number of each shard's first example."""
        return np.cumsum([0, *(shard.examples for shard in self.index.shards[:-1])])


def shards(folder: str | Path, split: str = "train") -> Shards:
    """A source from a folder that `gendyn pack` (`gendyn.data.pack`) wrote: images or latents of any number.

    Opening reads the index alone. An example costs one read of its own bytes, from any process and thread, and so a
    process of several reads its rows of each batch only. Images are decoded when they are read; the loader's threads
    do so in parallel.

    Raises:
        FileNotFoundError: no such folder or split; packing that did not finish; a shard that is missing, when read.
        CorruptData: an index or a shard that is damaged, with the name of the file, when it is read.
        ValueError: a folder that a later version wrote.
    """
    return Shards(folder=Path(folder).expanduser(), index=read_index(folder, split))


@lru_cache(maxsize=512)
def _reader(path: str, shard: Shard, process: int) -> ArrayRecordReader:
    """An open shard; safe to share among threads, not with a forked process, hence its number."""
    from array_record.python.array_record_module import ArrayRecordReader

    with open(path, "rb") as file:  # errors of the system, with their names
        size = os.fstat(file.fileno()).st_size
    if size != shard.bytes:
        raise CorruptData(f"{path} has {size:,} bytes, its index says {shard.bytes:,}; copy it or pack it again")
    reader = ArrayRecordReader(path, **READING)
    if not reader.ok() or reader.num_records() != shard.examples:
        raise CorruptData(f"{path} is damaged (its list of records cannot be read); copy it or pack it again")
    return reader
