"""What `gendyn pack` reads: folders of images, zips, tars, parquet files and npz files, one item after another.

Nothing is unpacked to disk, and only what belongs to the current items is in memory (npz files are read whole).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from zlib import error as ZlibError

import numpy as np

from gendyn.data.images import SUFFIXES, Picture, folder_pictures
from gendyn.data.parquet import parquet_pictures
from gendyn.data.sources import CorruptData, existing, npz

LARGEST = 2**28
"""Bytes that one encoded image in a zip or tar may have: more is damage, or a trap."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One example before decoding: a name for messages; an encoded image (file or bytes, None in an empty row) or an
    array; its label and its further arrays."""

    name: str
    content: Path | bytes | np.ndarray | None
    label: int | None = None
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A data set to be packed.

    Attributes:
        kind: "folder", "zip", "webdataset", "parquet" or "npz".
        examples: how many items there are.
        listing: a digest of the names and sizes of everything in it, by which it is known again.
        items: number of the first one -> the items from there on.
        num_classes, class_names: where it says so itself.
    """

    kind: str
    path: Path
    examples: int
    listing: str
    items: Callable[[int], Iterator[Item]]
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()


def incoming(path: str | Path, *, split: str = "train", fields: Sequence[str] = ()) -> Incoming:
    """The data set at `path`, recognised by what is there.

    Args:
        path: a folder of images whose sub-folders are classes; a zip as `dataset_tool.py` of the StyleGAN and EDM
            releases writes it (labels in dataset.json); a tar in the webdataset convention, or a folder of them; a
            parquet file of images, or a folder of them; an .npz file, or a folder of them.
        split: which parquet files of a folder.
        fields: further entries of npz files.

    Raises:
        FileNotFoundError: nothing there, or nothing that is understood.
        CorruptData: an archive that cannot be read, by name.
        ValueError: a folder of several kinds.
    """
    path = existing(path)
    kind = _kind(path)
    if fields and kind != "npz":
        raise ValueError(f"fields are entries of .npz files, {path} is a data set of kind {kind!r}; leave them out")
    if kind == "npz":
        return _npz(path, fields)
    if kind == "parquet":
        return _parquet(path, split)
    return {"folder": _folder, "zip": _zip, "webdataset": _webdataset}[kind](path)


KINDS = {".zip": "zip", ".tar": "webdataset", ".parquet": "parquet", ".npz": "npz"}


def _kind(path: Path) -> str:
    if path.is_file():
        if path.suffix not in KINDS:
            raise ValueError(f"{path} is none of {', '.join(KINDS)} and no folder; unpack or convert it first")
        return KINDS[path.suffix]
    inside = {"webdataset": path.glob("*.tar"), "parquet": path.rglob("*.parquet"), "npz": path.glob("*.npz")}
    found = [kind for kind, files in inside.items() if any(True for _ in files)]
    if len(found) > 1:
        raise ValueError(f"{path} holds data sets of several kinds ({', '.join(found)}); name the files of one")
    return found[0] if found else "folder"


def _folder(root: Path) -> Incoming:
    pictures, classes = folder_pictures(root)
    return Incoming(
        kind="folder",
        path=root,
        examples=len(pictures),
        listing=_digest((p.name, p.content.stat().st_size) for p in pictures),  # type: ignore[union-attr]
        items=lambda first: map(_item, pictures[first:]),
        num_classes=len(classes) or None,
        class_names=classes,
    )


def _parquet(path: Path, split: str) -> Incoming:
    rows = parquet_pictures(path, split)
    return Incoming(
        kind="parquet",
        path=path,
        examples=rows.count,
        listing=_digest((file.name, file.stat().st_size) for file in rows.files),
        items=lambda first: map(_item, itertools.islice(rows.pictures(), first, None)),
        num_classes=rows.num_classes,
        class_names=rows.class_names,
    )


def _item(picture: Picture) -> Item:
    return Item(name=picture.name, content=picture.content, label=picture.label)


def _npz(path: Path, fields: Sequence[str]) -> Incoming:
    source = npz(path, fields=fields)
    labels = source.labels

    def items(first: int) -> Iterator[Item]:
        for i in range(first, len(source)):
            extra = {name: values[i] for name, values in source.fields.items()}
            label = None if labels is None else int(labels[i])
            yield Item(name=f"example {i}", content=source.data[i], label=label, fields=extra)

    arrays = {"data": source.data, **({} if labels is None else {"label": labels}), **source.fields}
    listing = _digest((name, hashlib.sha256(values.tobytes()).hexdigest()) for name, values in arrays.items())
    count, classes = len(source), source.num_classes
    return Incoming(kind="npz", path=path, examples=count, listing=listing, items=items, num_classes=classes)


def _zip(path: Path) -> Incoming:
    """Images in order of their names; labels, integers, from dataset.json, without which there are none."""
    try:
        archive = zipfile.ZipFile(path)
        members = sorted((m for m in archive.infolist() if _is_image(m.filename)), key=lambda m: m.filename)
        labels = _zip_labels(archive, path)
    except (zipfile.BadZipFile, ZlibError, EOFError) as error:
        raise CorruptData(f"{path} is damaged ({error}); download it again") from error
    if not members:
        raise FileNotFoundError(f"no images in {path}: looked for files ending in {sorted(SUFFIXES)}")
    if labels is not None and (bare := [m.filename for m in members if m.filename not in labels]):
        raise ValueError(f"{path}: dataset.json has no label for {bare[0]} and {len(bare) - 1} more; complete it")
    for member in members:
        _check_size(path, member.filename, member.file_size)

    def items(first: int) -> Iterator[Item]:
        for member in members[first:]:
            try:
                content = archive.read(member)
            except (zipfile.BadZipFile, ZlibError, EOFError, RuntimeError, NotImplementedError) as error:
                raise CorruptData(f"{path}: {member.filename} cannot be read ({error}); download it again") from error
            yield Item(name=member.filename, content=content, label=None if labels is None else labels[member.filename])

    return Incoming(
        kind="zip",
        path=path,
        examples=len(members),
        listing=_digest((m.filename, m.file_size, m.CRC) for m in members),
        items=items,
        num_classes=None if labels is None else 1 + max(labels.values()),
    )


def _zip_labels(archive: zipfile.ZipFile, path: Path) -> dict[str, int] | None:
    if "dataset.json" not in archive.namelist():
        return None
    try:
        pairs = json.loads(archive.read("dataset.json"))["labels"]
        labels = None if pairs is None else dict(pairs)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptData(f"{path}: dataset.json holds no list of [name, label] under 'labels' ({error!r})") from error
    if labels and not all(isinstance(label, int) for label in labels.values()):
        raise ValueError(f"{path}: labels in dataset.json must be integers; pack classes, or leave dataset.json out")
    return labels or None


@dataclass(frozen=True)
class _Member:
    """Where a file lies in a tar."""

    tar: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise CorruptData(f"{self.tar} ends too early; download it again")
        return content


def _webdataset(path: Path) -> Incoming:
    """Files of one name up to its first dot are one example: an image, its label in .cls, or under "label" in .json."""
    tars = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    examples = [(key, parts) for tar in tars for key, parts in _keys(tar).items() if _image_of(parts)]
    if not examples:
        raise FileNotFoundError(f"no images in {tars[0]}: looked for files ending in {sorted(SUFFIXES)}")

    def items(first: int) -> Iterator[Item]:
        for key, parts in examples[first:]:
            image = parts[_image_of(parts)]  # type: ignore[index]
            yield Item(name=f"{image.tar.name}: {key}", content=image.read(), label=_tar_label(key, parts))

    listing = _digest((key, *sorted((e, m.size) for e, m in parts.items())) for key, parts in examples)
    return Incoming(kind="webdataset", path=path, examples=len(examples), listing=listing, items=items)


def _keys(tar: Path) -> dict[str, dict[str, _Member]]:
    """The examples of a tar: key -> ending -> where."""
    found: dict[str, dict[str, _Member]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if member.isreg():
                    _check_size(tar, member.name, member.size)
                    folder, _, name = member.name.rpartition("/")
                    stem, _, ending = name.partition(".")
                    place = _Member(tar, member.offset_data, member.size)
                    found.setdefault(f"{folder}/{stem}" if folder else stem, {})[ending.lower()] = place
            end = _Member(tar, archive.offset, tarfile.BLOCKSIZE).read()
        if any(end):
            raise tarfile.ReadError("no block of zeros at its end")
    except (tarfile.TarError, EOFError) as error:
        raise CorruptData(f"{tar} is no complete, uncompressed tar ({error}); unpack .gz first") from error
    return found


def _image_of(parts: Mapping[str, Any]) -> str | None:
    """The ending of the example's image."""
    return next((ending for ending in parts if f".{ending}" in SUFFIXES), None)


def _tar_label(key: str, parts: Mapping[str, _Member]) -> int | None:
    try:
        if "cls" in parts:
            return int(parts["cls"].read())
        label = json.loads(parts["json"].read()).get("label") if "json" in parts else None
        return None if label is None else int(label)
    except (ValueError, TypeError, AttributeError) as error:
        tar = next(iter(parts.values())).tar
        raise CorruptData(f"{tar}: the label of {key} is no integer ({error}); mend it") from error


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and "__MACOSX" not in path.parts


def _check_size(archive: Path, name: str, size: int) -> None:
    if size > LARGEST:
        raise CorruptData(f"{archive}: {name} has {size:,} bytes, more than an image may ({LARGEST:,}); remove it")


def _digest(rows: Iterable[tuple[Any, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode() + b"\n")
    return digest.hexdigest()
