"""The kinds of files that samples are written to: a line in `FORMATS` adds one."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from gendyn.data.records import DTYPES, Layout
from gendyn.data.shard_index import Index, Shard, index_path, sha256
from gendyn.data.shard_writing import shard_writer
from gendyn.files import write_atomic, write_json, write_npz

Samples = tuple[np.ndarray, np.ndarray | None]
"""What one file holds: data [n, *shape] and labels [n], or None where samples have no class."""

OLD = (1980, 1, 1, 0, 0, 0)
"""The time stamp in zips: the same samples are the same bytes."""


def _nothing(*arguments: Any) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of file.

    Attributes:
        write: (path, layout, samples, number of the first one), atomically.
        read: (path, layout) -> samples; ValueError, KeyError, EOFError or OSError where the file is damaged.
        check: (folder, layout): ValueError if such samples cannot be written so, before any is drawn.
        finish: (folder, files, layout, how they were made), once all files are there.
    """

    write: Callable[[epath.Path, Layout, Samples, int], None]
    read: Callable[[epath.Path, Layout], Samples]
    check: Callable[[epath.Path, Layout], None] = _nothing
    finish: Callable[[epath.Path, Sequence[epath.Path], Layout, dict[str, Any]], None] = _nothing


def _write_npz(path: epath.Path, layout: Layout, samples: Samples, first: int) -> None:
    data, labels = samples
    write_npz(path, samples=data, first=np.asarray(first), **({} if labels is None else {"label": labels}))


def _read_npz(path: epath.Path, layout: Layout) -> Samples:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
        return found["samples"], found.get("label")


def _check_zip(folder: epath.Path, layout: Layout) -> None:
    if layout.dtype != "uint8" or len(layout.shape) != 3 or layout.shape[-1] not in (1, 3):
        raise ValueError(
            f"a zip holds images of bytes with one or three channels; these samples are {layout.dtype} of shape "
            f"{list(layout.shape)}. Use npz or array_record."
        )


def _write_zip(path: epath.Path, layout: Layout, samples: Samples, first: int) -> None:
    images, labels = samples
    names = [f"{(first + i) // 1000:05d}/img{first + i:08d}.png" for i in range(len(images))]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, image in zip(names, images):
            content = io.BytesIO()
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, "png")
            archive.writestr(zipfile.ZipInfo(name, OLD), content.getvalue())
        listed = None if labels is None else [[name, int(label)] for name, label in zip(names, labels)]
        archive.writestr(zipfile.ZipInfo("dataset.json", OLD), json.dumps({"labels": listed}))
    write_atomic(path, stream.getvalue())


def _read_zip(path: epath.Path, layout: Layout) -> Samples:
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names]
        labels = json.loads(archive.read("dataset.json"))["labels"]
    pixels = np.stack(images).reshape(len(images), *layout.shape)
    return pixels, None if labels is None else np.array([dict(labels)[name] for name in names], np.int32)


def _check_records(folder: epath.Path, layout: Layout) -> None:
    if "://" in str(folder):
        raise ValueError(f"array_record files are written to a local folder, not to {folder}; use npz or zip there.")
    if layout.dtype not in DTYPES:
        raise ValueError(f"array_record holds {', '.join(DTYPES)}; these samples are {layout.dtype}. Use npz.")


def _write_records(path: epath.Path, layout: Layout, samples: Samples, first: int) -> None:
    data, labels = samples
    with shard_writer(Path(path)) as (writer, temporary):
        for i, one in enumerate(data):
            writer.write(layout.pack(one, None if labels is None else int(labels[i]), {}))
        writer.close()
        temporary.replace(path)


def _read_records(path: epath.Path, layout: Layout) -> Samples:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(path))
        batch = layout.unpack(reader.read(0, reader.num_records()), lambda i: f"record {i}", deliver=False)
    except (RuntimeError, IndexError) as error:
        raise ValueError(str(error)) from None
    return batch["data"], batch.get("label")


def _index_records(folder: epath.Path, files: Sequence[epath.Path], layout: Layout, how: dict[str, Any]) -> None:
    """The index with which the folder is a data set: `gendyn.data.shards(folder, "samples")`."""
    shards = []
    for path in files:
        data, _ = _read_records(path, layout)
        whole = Path(path)
        size, digest = whole.stat().st_size, sha256(whole)
        shards.append(Shard(file=path.name, examples=len(data), bytes=size, sha256=digest))
    index = Index(layout=layout, shards=tuple(shards), num_classes=how.get("num_classes"), made_from=how)
    write_json(index_path(Path(folder), "samples"), index.json())


FORMATS: dict[str, Format] = {
    "npz": Format(write=_write_npz, read=_read_npz),
    "zip": Format(write=_write_zip, read=_read_zip, check=_check_zip),
    "array_record": Format(write=_write_records, read=_read_records, check=_check_records, finish=_index_records),
}
