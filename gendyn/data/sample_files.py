"""Large sets of samples on disk: files of a fixed number of samples, each whole or absent, whoever draws them."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
from etils import epath
from PIL import Image

from gendyn.files import read_json, write_atomic, write_json, write_npz

Kind: TypeAlias = Literal["npz", "zip"]
HEADER = "samples.json"
OLD = (1980, 1, 1, 0, 0, 0)
"""The time stamp in zips: the same samples are the same bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleFiles:
    """`num` samples in a folder, `each` to a file; `samples.json` beside them says how they were made.

    Sample i of a seed is the same whoever draws it, so that the files can be shared out among processes and machines,
    and what is missing after an interruption is drawn by any later one.

    Attributes:
        kind: "npz" (entries samples, label, first), or "zip" of PNG images with the labels in `dataset.json`, as EDM's
            tools lay them out.

    Example:
        >>> import tempfile
        >>> files = SampleFiles(folder=epath.Path(tempfile.mkdtemp()), num=5, each=2)
        >>> files.write(1, np.zeros((2, 4)), None)
        >>> files.missing(), files.missing(part=1, parts=2), files.rows(2)
        ([0, 2], [], range(4, 5))
    """

    folder: epath.Path
    num: int
    each: int
    kind: Kind = "npz"

    def __len__(self) -> int:
        return -(-self.num // self.each)

    def rows(self, index: int) -> range:
        """Which samples lie in a file."""
        return range(index * self.each, min((index + 1) * self.each, self.num))

    def path(self, index: int) -> epath.Path:
        return self.folder / f"samples-{index:05d}-of-{len(self):05d}.{self.kind}"

    def missing(self, part: int = 0, parts: int = 1) -> list[int]:
        """Of the files that are part `part` of `parts` (every `parts`-th), those that are not there yet."""
        present = {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()
        return [i for i in range(part, len(self), parts) if self.path(i).name not in present]

    def begin(self, how: dict[str, Any]) -> None:
        """Write down how the samples are made, or check that those in the folder are made so.

        Raises:
            ValueError: the folder holds other samples, or other files.
        """
        header = json.loads(json.dumps({**how, "num": self.num, "each": self.each, "kind": self.kind}, default=repr))
        path = self.folder / HEADER
        if path.exists():
            found = read_json(path)
            if different := sorted(
                name for name in header.keys() | found.keys() if header.get(name) != found.get(name)
            ):
                name = different[0]
                raise ValueError(
                    f"{self.folder} holds samples that were made otherwise ({name}: {found.get(name)!r} there, "
                    f"{header.get(name)!r} here); choose another --out, or remove it."
                )
        else:
            write_json(path, header)

    def write(self, index: int, samples: np.ndarray, labels: np.ndarray | None) -> None:
        """One file, atomically.

        Raises:
            ValueError: a zip of what are not images of bytes.
        """
        if self.kind == "npz":
            named = {} if labels is None else {"label": labels}
            write_npz(self.path(index), samples=samples, first=np.asarray(self.rows(index).start), **named)
        else:
            write_atomic(self.path(index), _zipped(samples, labels, self.rows(index).start))

    def read(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """(samples, labels) of every file in order; one file in memory at a time.

        Raises:
            ValueError: a file is missing or damaged.
        """
        if absent := self.missing():
            raise ValueError(
                f"{len(absent)} of the {len(self)} files of {self.folder} are missing, first "
                f"{self.path(absent[0]).name}; the command that made the others draws them."
            )
        for index in range(len(self)):
            try:
                yield self._read(index)
            except (zipfile.BadZipFile, KeyError, EOFError, OSError, ValueError) as error:
                raise ValueError(f"{self.path(index)} cannot be read ({error}); remove it and draw it again.") from None

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        stream = io.BytesIO(self.path(index).read_bytes())
        if self.kind == "npz":
            with np.load(stream, allow_pickle=False) as found:
                return found["samples"], found.get("label")
        with zipfile.ZipFile(stream) as archive:
            names = [name for name in archive.namelist() if name.endswith(".png")]
            images = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names]
            labels = json.loads(archive.read("dataset.json"))["labels"]
        pixels = np.stack(images)
        pixels = pixels[..., None] if pixels.ndim == 3 else pixels
        return pixels, None if labels is None else np.array([dict(labels)[name] for name in names], np.int32)


def sample_files(folder: epath.PathLike) -> SampleFiles:
    """The samples that lie in a folder.

    Raises:
        FileNotFoundError: no `samples.json` in it.
        ValueError: one of a single picture and array.
    """
    folder = epath.Path(folder)
    header = read_json(folder / HEADER)
    if not isinstance(header, dict) or "each" not in header:
        raise ValueError(f"{folder} holds no files of samples; make them with `gendyn sample RUN --shard N`.")
    return SampleFiles(folder=folder, num=header["num"], each=header["each"], kind=header["kind"])


def _zipped(images: np.ndarray, labels: np.ndarray | None, first: int) -> bytes:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"a zip holds images of bytes with one or three channels; these samples are {images.dtype} of shape "
            f"{list(images.shape[1:])}. Use npz."
        )
    names = [f"{(first + i) // 1000:05d}/img{first + i:08d}.png" for i in range(len(images))]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, image in zip(names, images):
            content = io.BytesIO()
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, "png")
            archive.writestr(zipfile.ZipInfo(name, OLD), content.getvalue())
        listed = None if labels is None else [[name, int(label)] for name, label in zip(names, labels)]
        archive.writestr(zipfile.ZipInfo("dataset.json", OLD), json.dumps({"labels": listed}))
    return stream.getvalue()
