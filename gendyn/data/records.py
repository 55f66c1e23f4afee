"""One example as the bytes of a record, and a batch of records as arrays.

    record = label (int32, where there are labels) | fields | data

all little-endian and of fixed length, except that the data of an encoded image (`encoding="image"`) is the content of
its PNG, JPEG or WebP file and reaches to the end of the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gendyn.data.images import DECODING_ERRORS, decode
from gendyn.data.sources import CorruptData, delivered
from gendyn.data.transforms import Batch, from_uint8

Encoding = Literal["raw", "image"]
DTYPES = ("uint8", "float16", "float32")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What every record of a set holds.

    Attributes:
        encoding: "raw" for the numbers themselves, "image" for encoded files of uint8 pixels.
        shape, dtype: of one example's data, channels last; dtype is one of `DTYPES`.
        labelled: whether each record has a label.
        fields: further arrays of each example: name -> (dtype, shape).
    """

    encoding: Encoding
    shape: tuple[int, ...]
    dtype: str
    labelled: bool
    fields: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)

    @cached_property
    def head(self) -> np.dtype:
        """What stands before the data."""
        label = [("label", "<i4")] if self.labelled else []
        return np.dtype(label + [(name, _little(dtype), shape) for name, (dtype, shape) in self.fields.items()])

    @cached_property
    def row(self) -> np.dtype:
        """A whole record, where its length is fixed."""
        before = [(name, self.head[name]) for name in self.head.names or ()]
        return np.dtype([*before, ("data", _little(self.dtype), self.shape)])

    def pack(self, data: np.ndarray | bytes, label: int | None, fields: Mapping[str, np.ndarray]) -> bytes:
        """One record."""
        head = np.zeros([], self.head)
        for name in self.head.names or ():
            head[name] = label if name == "label" else fields[name]
        content = data if isinstance(data, bytes) else data.astype(_little(self.dtype), copy=False).tobytes()
        return head.tobytes() + content

    def unpack(self, records: Sequence[bytes], called: Callable[[int], str], *, deliver: bool) -> Batch:
        """Records as arrays of one's own, in the dtypes of the layout or as `sources.delivered` makes them.

        Args:
            called: the name of record i, for messages.

        Raises:
            CorruptData: a record of another length, or an image that does not decode to the shape.
        """
        head, row = self.head, self.row
        for i, record in enumerate(records):
            whole = len(record) == row.itemsize if self.encoding == "raw" else len(record) > head.itemsize
            if not whole:
                raise CorruptData(f"{called(i)} is damaged (a record of {len(record)} bytes); copy or pack it again")
        own = _delivered if deliver else _native
        if self.encoding == "raw":
            rows = np.frombuffer(b"".join(records), row)
            return {name: own(rows[name]) for name in row.names or ()}
        heads = np.frombuffer(b"".join([record[: head.itemsize] for record in records]), np.uint8)
        batch = {name: own(heads.view(head)[name]) for name in head.names or ()}
        batch["data"] = np.empty((len(records), *self.shape), np.float32 if deliver else np.uint8)
        for i, record in enumerate(records):  # each while it is in the cache
            pixels = self._image(record[head.itemsize :], called, i)
            if deliver:
                from_uint8(pixels, out=batch["data"][i])
            else:
                batch["data"][i] = pixels
        return batch

    def _image(self, content: bytes, called: Callable[[int], str], i: int) -> np.ndarray:
        try:
            pixels = decode(content, channels=self.shape[-1])  # type: ignore[arg-type]
        except DECODING_ERRORS as error:
            raise CorruptData(f"{called(i)} does not decode ({error}); copy or pack it again") from error
        if pixels.shape != self.shape:
            raise CorruptData(f"{called(i)} is {list(pixels.shape)}, its index says {list(self.shape)}; pack it again")
        return pixels

    def json(self) -> dict[str, Any]:
        """As an index keeps it."""
        fields = {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in self.fields.items()}
        of_data = {"encoding": self.encoding, "shape": list(self.shape), "dtype": self.dtype}
        return {**of_data, "labelled": self.labelled, "fields": fields}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Layout:
        """The inverse of `json`; KeyError, TypeError or ValueError where it is no layout."""
        fields = {name: (_known(f["dtype"]), tuple(map(int, f["shape"]))) for name, f in value["fields"].items()}
        if value["encoding"] not in ("raw", "image"):
            raise ValueError(f"an unknown encoding {value['encoding']!r}")
        return cls(
            encoding=value["encoding"],
            shape=tuple(map(int, value["shape"])),
            dtype=_known(value["dtype"]),
            labelled=bool(value["labelled"]),
            fields=fields,
        )


def _known(dtype: str) -> str:
    if dtype not in DTYPES:
        raise ValueError(f"an unknown dtype {dtype!r}")
    return dtype


def _little(dtype: str) -> np.dtype:
    return np.dtype(dtype).newbyteorder("<")


def _native(values: np.ndarray) -> np.ndarray:
    """A copy in the machine's byte order."""
    return values.astype(values.dtype.newbyteorder("="))


def _delivered(values: np.ndarray) -> np.ndarray:
    """A copy as a network sees it."""
    return delivered(values) if values.dtype in (np.uint8, np.float16) else _native(values)
