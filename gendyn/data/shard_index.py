"""The index of a set of shards: one JSON file that is written last, so that a set with an index is a whole one.

FOLDER/train.index.json           what follows
FOLDER/train-00000.array_record   examples 0 ... of the split, one record each
FOLDER/train-00001.array_record   the next ones
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gendyn.data.records import Layout
from gendyn.data.sources import CorruptData, existing
from gendyn.files import read_json

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of records: its name, how many examples and bytes it holds, and the sha256 of those bytes."""

    file: str
    examples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a set of shards holds.

    Attributes:
        layout: of every record.
        shards: in order.
        num_classes, class_names: of the labels, where there are labels.
        made_from: the source and the options of `pack`.
        skipped: names of images that could not be read and were left out.
    """

    layout: Layout
    shards: tuple[Shard, ...]
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    made_from: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    @property
    def examples(self) -> int:
        return sum(shard.examples for shard in self.shards)

    def json(self) -> dict[str, Any]:
        """As the file holds it."""
        return {
            "version": VERSION,
            "examples": self.examples,
            **self.layout.json(),
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "shards": [asdict(shard) for shard in self.shards],
            "made_from": dict(self.made_from),
            "skipped": list(self.skipped),
        }


def index_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.index.json"


def unfinished_path(folder: Path, split: str) -> Path:
    """What `pack` remembers while it works; gone when the index is there."""
    return folder / f".{split}.packing.json"


def splits(folder: Path) -> list[str]:
    """The splits that have an index."""
    return sorted(path.name.removesuffix(".index.json") for path in folder.glob("*.index.json"))


def read_index(folder: str | Path, split: str) -> Index:
    """The index of one split of a folder.

    Raises:
        FileNotFoundError: no such folder, no such split (with those that are there), or one whose packing never ended.
        ValueError: an index of a later version; CorruptData where it is no index at all.
    """
    folder = existing(folder)
    path = index_path(folder, split)
    if unfinished_path(folder, split).exists() and not path.exists():
        raise FileNotFoundError(f"{path} is missing, since packing did not finish; run the same gendyn pack again")
    if not path.exists():
        raise FileNotFoundError(
            f"no shards of split {split!r} in {folder.absolute()}: no {path.name}, found the splits "
            f"{splits(folder) or 'none at all'}; `gendyn pack SOURCE --out {folder} --split {split}` makes them"
        )
    value = read_json(path)
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise ValueError(f"{path} has format version {version}, this gendyn reads up to {VERSION}; update gendyn")
    try:
        return Index(
            layout=Layout.from_json(value),
            shards=tuple(Shard(**shard) for shard in value["shards"]),
            num_classes=value["num_classes"],
            class_names=tuple(value["class_names"]),
            made_from=value["made_from"],
            skipped=tuple(value["skipped"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptData(f"{path} is no index of shards ({error!r}); copy it again, or pack again") from error


def verify(folder: str | Path, split: str) -> Iterator[tuple[Shard, str]]:
    """Every shard of a split with what is wrong with it, "" if nothing: all bytes are read, and checksums compared."""
    for shard in read_index(folder, split).shards:
        yield shard, _fault(Path(folder).expanduser() / shard.file, shard)


def _fault(path: Path, shard: Shard) -> str:
    if not path.exists():
        return "is missing"
    if path.stat().st_size != shard.bytes:
        return f"has {path.stat().st_size:,} bytes instead of {shard.bytes:,}"
    return "" if sha256(path) == shard.sha256 else "has another checksum"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
