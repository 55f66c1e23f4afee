"""Writing shards: from what others keep to files of which every process can read any example at once.

A shard is written under a temporary name, closed, and renamed; after each, what has been done is noted; the index comes
last. Killed anywhere, the same call goes on after the last whole shard and ends in the same bytes.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gendyn.data.incoming import Incoming, Item, incoming
from gendyn.data.making import Encoder, Example, Packing, Unreadable, latents, make
from gendyn.data.records import Layout
from gendyn.data.shard_index import Index, Shard, index_path, read_index, sha256, unfinished_path
from gendyn.data.shard_writing import shard_writer
from gendyn.data.sources import CorruptData
from gendyn.files import read_json, write_json

CHUNK = 64
"""Items decoded, encoded and written at once; a shard ends between two chunks."""
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What has been packed so far: all that a later call needs to go on.

    Attributes:
        items: of the source, that are in the shards or were skipped.
        highest: of the labels.
    """

    request: dict[str, Any]
    layout: Layout | None = None
    shards: tuple[Shard, ...] = ()
    items: int = 0
    skipped: tuple[str, ...] = ()
    highest: int = -1

    def json(self) -> dict[str, Any]:
        return asdict(self) | {"layout": self.layout and self.layout.json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Progress:
        layout, shards = value["layout"], tuple(Shard(**shard) for shard in value["shards"])
        known = {"layout": layout and Layout.from_json(layout), "shards": shards, "skipped": tuple(value["skipped"])}
        return cls(**{**value, **known})


def pack(
    source: str | Path | Incoming,
    out: str | Path,
    packing: Packing | None = None,
    *,
    encoder: Encoder | None = None,
    threads: int = 2,
    report: Callable[[int], None] = lambda items: None,
) -> Index:
    """Write a data set as shards, for `gendyn.data.shards`, in the order of the source; what was packed before stays.

    Args:
        source: a path as in `incoming`, or its result.
        out: a folder, made if need be; several splits may share it.
        packing: options.
        encoder: pixels uint8 [batch, height, width, channels], at most `CHUNK` images, to latents [batch, *shape] of
            floats, which are stored in their place as float16 or float32.
        threads: that decode images.
        report: is told how many items of the source are done.

    Raises:
        FileNotFoundError, CorruptData: as in `incoming`; an image that does not decode, by name.
        ValueError: images of several shapes; labels that do not fit; a folder that holds this split of another source
            or of other options.
        OSError: storage that is full or cannot be written, with the name of the file.
    """
    packing = packing or Packing()
    if encoder is not None and packing.encoding != "raw":
        raise ValueError(f"latents are stored raw, got encoding {packing.encoding!r} beside an encoder; leave it out")
    source = source if isinstance(source, Incoming) else incoming(source, split=packing.split)
    out = Path(out).expanduser()
    request = _request(source, packing, encoder)
    path, note = index_path(out, packing.split), unfinished_path(out, packing.split)
    if path.exists():
        finished = read_index(out, packing.split)
        _check_same(finished.made_from, request, path)
        return finished
    progress = _begin(note, request)
    total = min(source.examples, packing.limit or source.examples)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        chunks = _Chunks(source=source, packing=packing, encoder=encoder, pool=pool)
        while progress.items < total:
            progress = _next_shard(out, progress, chunks, total, report)
            _write_json(note, progress.json())
    index = _index(progress, source, packing)
    _write_json(path, index.json())
    note.unlink()
    return index


def _request(source: Incoming, packing: Packing, encoder: Encoder | None) -> dict[str, Any]:
    """What makes two packings the same, and where it came from."""
    made_from = {"kind": source.kind, "name": source.path.name, "examples": source.examples, "listing": source.listing}
    return {**made_from, **asdict(packing), "encoder": encoder and _provenance(encoder)}


def _provenance(encoder: Encoder) -> dict[str, str | None]:
    """The name of a function and the sha256 of its file."""
    file = inspect.getsourcefile(encoder) if inspect.isroutine(encoder) else None
    name = f"{getattr(encoder, '__module__', None)}:{getattr(encoder, '__qualname__', type(encoder).__qualname__)}"
    return {"function": name, "sha256": sha256(Path(file)) if file and Path(file).exists() else None}


def _check_same(made_from: Any, request: dict[str, Any], path: Path, but: tuple[str, ...] = ("name",)) -> None:
    """Refuse to mix two data sets. Names may change, since data sets move; contents and options may not."""
    differ = [key for key in request if key not in but and made_from.get(key) != request[key]]
    if differ:
        text = ", ".join(f"{key} {made_from.get(key)!r} there, {request[key]!r} now" for key in differ)
        raise ValueError(f"{path} belongs to another packing ({text}); choose another folder, or remove that one")


def _begin(note: Path, request: dict[str, Any]) -> Progress:
    """Where an earlier call stopped, or the beginning; shows, before any work, that the folder can be written.

    What stopped it may call for another answer: options that the shards so far do not depend on may change.
    """
    progress = Progress(request=request)
    if note.exists() and (earlier := _noted(note)).shards:
        _check_same(earlier.request, request, note, but=("name", "skip_unreadable", "num_classes"))
        progress = replace(earlier, request=request)
    _write_json(note, progress.json())
    return progress


def _noted(note: Path) -> Progress:
    try:
        return Progress.from_json(read_json(note))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{note} is no note of this version of gendyn ({error!r}); remove it to start again"
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Chunks:
    """The examples of a source, a chunk of items at a time."""

    source: Incoming
    packing: Packing
    encoder: Encoder | None
    pool: Executor

    def __call__(self, first: int, end: int) -> Iterator[list[Example | Unreadable]]:
        """Items first .. end - 1, in order."""
        items = self.source.items(first)
        for done in range(first, end, CHUNK):
            chunk = list(itertools.islice(items, min(CHUNK, end - done)))
            if len(chunk) < min(CHUNK, end - done):
                raise CorruptData(
                    f"{self.source.path} ends after {done + len(chunk)} of {self.source.examples} examples"
                )
            yield self._made(chunk)

    def _made(self, items: list[Item]) -> list[Example | Unreadable]:
        made = list(self.pool.map(lambda item: make(item, self.packing), items))
        bad = next((one for one in made if isinstance(one, Unreadable)), None)
        if bad is not None and not self.packing.skip_unreadable:
            raise CorruptData(
                f"{self.source.path}: {bad.name} does not decode ({bad.why}); mend it, or leave such images out "
                "with --skip-unreadable (skip_unreadable=True)"
            )
        return made if self.encoder is None else latents(made, self.encoder)


def _next_shard(out: Path, progress: Progress, chunks: _Chunks, total: int, report: Callable[[int], None]) -> Progress:
    """One more shard, and what has been done with it. A shard without a readable item is not written."""
    packing, number = chunks.packing, len(progress.shards)
    end = total if packing.shards is None else _end(progress.items, total, packing.shards)
    layout, highest, skipped = progress.layout, progress.highest, list(progress.skipped)
    items, examples, size = progress.items, 0, 0
    path = out / f"{packing.split}-{number:05d}.array_record"
    with shard_writer(path) as (writer, temporary):
        for chunk in chunks(items, end):
            for example in chunk:
                if isinstance(example, Unreadable):
                    skipped.append(example.name)
                    continue
                layout = layout or example.layout
                record = _record(example, layout, packing.num_classes or chunks.source.num_classes)
                writer.write(record)
                examples, size = examples + 1, size + len(record)
                highest = max(highest, -1 if example.label is None else example.label)
            items += len(chunk)
            report(items)
            if packing.shards is None and size >= packing.shard_mb * MIB:
                break
        writer.close()
        shards = progress.shards
        if examples:
            digest = sha256(temporary)
            shards += (Shard(file=path.name, examples=examples, bytes=temporary.stat().st_size, sha256=digest),)
            temporary.replace(path)
    return replace(progress, layout=layout, shards=shards, items=items, skipped=tuple(skipped), highest=highest)


def _end(items: int, total: int, shards: int) -> int:
    """Where the shard that begins at `items` ends, of `shards` of equal length but for one item."""
    return next(end for k in range(1, shards + 1) if (end := total * k // shards) > items)


def _record(example: Example, layout: Layout, num_classes: int | None) -> bytes:
    """The example's record, if it fits among the others."""
    found, label = example.layout, example.label
    if found.shape != layout.shape:
        raise ValueError(
            f"all examples must have one shape: {example.name} is {list(found.shape)}, those before it are "
            f"{list(layout.shape)}; pass --resolution (resolution=) to crop and resize, --channels for grey or colour"
        )
    if found != layout:
        before, here = layout.json(), found.json()
        text = ", ".join(
            f"{key} is {here[key]} here and {before[key]} before" for key in here if here[key] != before[key]
        )
        raise ValueError(
            f"all examples must be alike, but of {example.name} {text}; mend it, or leave out labels with --no-labels "
            "(labels=False)"
        )
    if label is not None and not 0 <= label < (num_classes or 2**31):
        raise ValueError(f"{example.name} has the label {label}, labels must lie in 0..{(num_classes or 2**31) - 1}")
    return layout.pack(example.data, label, example.fields)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """As `files.write_json`, with the name of the file in every error of the disk."""
    try:
        write_json(path, value)
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from error


def _index(progress: Progress, source: Incoming, packing: Packing) -> Index:
    if progress.layout is None:
        raise CorruptData(f"{source.path}: none of {progress.items} images decodes; nothing was packed")
    classes = (packing.num_classes or source.num_classes or progress.highest + 1) if progress.layout.labelled else None
    return Index(
        layout=progress.layout,
        shards=progress.shards,
        num_classes=classes,
        class_names=source.class_names if classes else (),
        made_from=progress.request,
        skipped=progress.skipped,
    )
