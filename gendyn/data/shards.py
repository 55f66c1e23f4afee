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
from gendyn.data.sources import CorruptData, delivered
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
        return {name: delivered(values) for name, values in self.stored(indices).items()}

    def stored(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """As `take`, in the dtypes that are kept: pixels as uint8."""
        indices = np.asarray(indices)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"indices must lie in 0..{len(self) - 1}, got {indices.min()} to {indices.max()}")
        numbers = np.searchsorted(self._ends, indices, side="right")
        places = indices - self._ends[numbers] + self._counts[numbers]
        where = list(zip(numbers.tolist(), places.tolist()))
        records = [self.record(number, place) for number, place in where]
        return self.index.layout.unpack(records, called=lambda i: f"{self._path(where[i][0])}, example {where[i][1]},")

    def record(self, number: int, place: int) -> bytes:
        """The bytes of one record: shard `number`, example `place` in it."""
        path = self._path(number)
        reader = _reader(path, self.index.shards[number], os.getpid())
        try:
            return reader.read(place, place + 1)[0]
        except (RuntimeError, IndexError) as error:
            raise CorruptData(f"{path} is damaged at example {place} ({error}); copy it or pack it again") from error

    def __repr__(self) -> str:
        layout = self.index.layout
        what = f"{len(self)} of {list(self.shape)}, {layout.encoding} {layout.dtype}, num_classes={self.num_classes}"
        return f"Shards({what}, {len(self.index.shards)} files)"

    def _path(self, number: int) -> str:
        return str(self.folder / self.index.shards[number].file)

    @cached_property
    def _counts(self) -> np.ndarray:
        return np.array([shard.examples for shard in self.index.shards])

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self._counts)


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
