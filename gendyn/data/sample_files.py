"""Large sets of samples on disk: files of a fixed number of samples, each whole or absent, whoever draws them."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
from etils import epath

from gendyn.data.records import Layout
from gendyn.data.sample_formats import FORMATS, Samples
from gendyn.files import read_json, write_json

Kind: TypeAlias = Literal["npz", "zip", "array_record"]
HEADER = "samples.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleFiles:
    """`num` samples in a folder, `each` to a file; `samples.json` beside them says how they were made.

    Sample i of a seed is the same whoever draws it, so that the files can be shared out among processes and machines,
    and what is missing after an interruption is drawn by any later one.

    Attributes:
        layout: of every sample: shape, dtype, whether it has a label.
        kind: "npz" (entries samples, label, first); "zip" of PNG images with the labels in `dataset.json`, as EDM's
            tools lay them out; "array_record", which with the index that `finish` writes is a data set:
            `gendyn.data.shards(folder, "samples")`.

    Example:
        >>> import tempfile
        >>> layout = Layout(encoding="raw", shape=(4,), dtype="float32", labelled=False)
        >>> files = SampleFiles(folder=epath.Path(tempfile.mkdtemp()), num=5, each=2, layout=layout)
        >>> files.write(1, np.zeros((2, 4), np.float32), None)
        >>> files.missing(), files.missing(part=1, parts=2), files.rows(2)
        ([0, 2], [], range(4, 5))
    """

    folder: epath.Path
    num: int
    each: int
    layout: Layout
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
            ValueError: samples that files of this kind cannot hold; a folder that holds other samples.
        """
        FORMATS[self.kind].check(self.folder, self.layout)
        own = {"num": self.num, "each": self.each, "kind": self.kind, "layout": self.layout.json()}
        header = json.loads(json.dumps(how | own, default=repr))
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

    def write(self, index: int, data: np.ndarray, labels: np.ndarray | None) -> None:
        """One file, atomically."""
        FORMATS[self.kind].write(self.path(index), self.layout, (data, labels), self.rows(index).start)

    def finish(self) -> None:
        """What completes the set, if no file is missing any more; any of those who draw may call it."""
        if not self.missing():
            paths = [self.path(index) for index in range(len(self))]
            FORMATS[self.kind].finish(self.folder, paths, self.layout, read_json(self.folder / HEADER))

    def read(self) -> Iterator[Samples]:
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
                yield FORMATS[self.kind].read(self.path(index), self.layout)
            except (zipfile.BadZipFile, KeyError, EOFError, OSError, ValueError) as error:
                raise ValueError(f"{self.path(index)} cannot be read ({error}); remove it and draw it again.") from None


def sample_files(folder: epath.PathLike) -> SampleFiles:
    """The samples that lie in a folder.

    Raises:
        FileNotFoundError: no `samples.json` in it.
        ValueError: one of a single picture and array.
    """
    folder = epath.Path(folder)
    header = read_json(folder / HEADER)
    if not isinstance(header, dict) or not {"each", "layout"} <= header.keys():
        raise ValueError(f"{folder} holds no files of samples; make them with `gendyn sample RUN --shard N`.")
    layout = Layout.from_json(header["layout"])
    return SampleFiles(folder=folder, num=header["num"], each=header["each"], kind=header["kind"], layout=layout)
