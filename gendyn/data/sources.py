"""Sources: what a data set is, and the ones that start from arrays.

A source is a sequence of examples. It has a length, and `source[i]` is a dict of numpy values:

    {"data": float32 [*shape], "label": int32 []}        # the label only where there is one

and whatever else belongs to the example, under its own name ("base": the other end of a stored pair).

Data is channels last. Two dtypes are understood wherever arrays enter, and no other, so that no scale is
ever guessed: floating data is taken as it is; `uint8` means pixels 0..255 and leaves as float32 in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from zipfile import BadZipFile, is_zipfile
from zlib import error as ZlibError

import numpy as np
from jaxtyping import Float, Int, UInt8

from gendyn.data.transforms import Batch, from_uint8


class CorruptData(ValueError):
    """A file or an example cannot be read: the message says which and how many."""


@runtime_checkable
class Source(Protocol):
    """A sequence of examples. Three more methods are optional, and used where present:

    * `take(indices)`: a whole batch at once, because a Python call per example takes two to four times as long
      (measured, 32x32x3);
    * `stored(indices)`: the same before `delivered`, pixels still `uint8`, so that flips move a quarter of the bytes;
    * `example_at(positions, seed=)`: which example stands where in a run, if not the permutations of its epochs.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example's data, channels last."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None where there are no labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, np.ndarray]: ...


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Arrays:
    """A source in memory. Build it with `arrays`, which checks; pixels stay `uint8` until they are taken."""

    data: Float[np.ndarray, "n *data"] | UInt8[np.ndarray, "n *data"]
    labels: Int[np.ndarray, " n"] | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape[1:]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int, /) -> Batch:
        return {key: value[0] for key, value in self.take(np.asarray([index])).items()}

    def take(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """The examples at `indices`, stacked: {"data": [batch, *shape], "label": [batch], and the fields}."""
        return {name: delivered(values) for name, values in self.stored(indices).items()}

    def stored(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """As `take`, in the dtypes that are kept."""
        batch = {"data": self.data[indices]} | {name: values[indices] for name, values in self.fields.items()}
        return batch if self.labels is None else {**batch, "label": self.labels[indices]}

    def __repr__(self) -> str:
        return f"Arrays({len(self)} of {list(self.shape)}, {self.data.dtype}, num_classes={self.num_classes})"


def arrays(
    data: Any,
    labels: Any = None,
    *,
    num_classes: int | None = None,
    fields: Mapping[str, Any] | None = None,
    **extra: Any,
) -> Arrays:
    """A source from arrays: data [n, *shape] floating or uint8, labels [n] integers 0, 1, ...

    `num_classes` is max(labels) + 1 unless given. `fields` are further arrays [n, ...], floating or uint8, that go
    with the examples under their names. `extra`: `class_names`, `skipped`, for those who know them. Nothing is
    copied unless the dtype must change (floats become float32). Raises ValueError where the data is empty, not
    finite or of another dtype, or where labels or fields do not fit.

    >>> source = arrays(np.zeros([6, 2]), labels=[0, 1, 2, 0, 1, 2])
    >>> source.shape, source.num_classes, source[4]["label"].item()
    ((2,), 3, 1)
    """
    data = _checked_data(np.asarray(data))
    extra |= {"fields": {name: _checked_field(name, np.asarray(v), len(data)) for name, v in (fields or {}).items()}}
    if labels is None:
        return Arrays(data=data, **extra)
    labels = np.asarray(labels)
    classes = _checked_classes(labels, len(data), num_classes)
    return Arrays(data=data, labels=labels.astype(np.int32), num_classes=classes, **extra)


def npz(
    path: str | Path,
    *,
    data: str = "data",
    label: str | None = "label",
    fields: Sequence[str] = (),
    num_classes: int | None = None,
) -> Arrays:
    """A source from the entries of an `.npz` file, or of all those in a folder, end to end in order of name.

    No entry "label": no labels; label=None ignores it. `fields` are further entries that go with the examples, such
    as "base", the other end of stored pairs. `num_classes` as in `arrays`. All of it is held in memory.
    """
    path = existing(path)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"no .npz files in {path.absolute()}: check the path")
    parts = [_entries(file, data, label, fields) for file in files]
    if len({frozenset(part) for part in parts}) > 1:
        raise ValueError(f"some .npz files in {path} have labels and others none; pass label=None, or complete them")
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    values, labels = whole.pop("data"), whole.pop("label", None)
    return arrays(values, labels, num_classes=num_classes, fields=whole)


def _entries(path: Path, data: str, label: str | None, fields: Sequence[str]) -> dict[str, np.ndarray]:
    """The asked entries of one file, under the names that a source gives them."""
    if not is_zipfile(path):
        raise CorruptData(f"{path} is not a complete .npz file; write it again with np.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            what = f"entry in {path}"
            found = {"data": file[required(data, file.files, what, "data=")]}
            if (name := optional(label, file.files, what, "label=")) is not None:
                found["label"] = file[name]
            return found | {field: file[required(field, file.files, what, "fields=")] for field in fields}
    except (BadZipFile, ZlibError, EOFError, OSError) as error:
        raise CorruptData(f"{path} is damaged ({error}); write it again with np.savez") from error


def existing(path: str | Path) -> Path:
    """The path, if something is there."""
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no data at {path.absolute()}: check the path, or download the data set to it")
    return path


def required(name: str, found: Any, what: str, remedy: str) -> str:
    """`name`, if it is among those found; otherwise the error that lists them."""
    if name in found:
        return name
    raise ValueError(f"no {name!r} {what}, found {sorted(found)}; pass {remedy} with one of these names")


def optional(name: str | None, found: Any, what: str, remedy: str) -> str | None:
    """As `required`, but the customary name "label" may be absent: it was assumed, not asked for."""
    if name is None or (name == "label" and name not in found):
        return None
    return required(name, found, what, remedy)


def delivered(array: np.ndarray) -> np.ndarray:
    """The data as a network sees it: uint8 as pixels in [-1, 1], float16 as float32, others as they are."""
    if array.dtype == np.uint8:
        return from_uint8(array)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _checked_data(data: np.ndarray) -> np.ndarray:
    if data.ndim == 0 or not len(data):
        raise ValueError(f"a source needs at least one example, got data of shape {list(data.shape)}")
    data = stored(data)
    if not np.isfinite(data).all():
        bad = np.flatnonzero(~np.isfinite(data.reshape(len(data), -1)).all(axis=1))
        raise CorruptData(f"{len(bad)} of {len(data)} examples hold NaN or infinity, the first is number {bad[0]}")
    return data


def _checked_field(name: str, values: np.ndarray, n: int) -> np.ndarray:
    if name in ("data", "label"):
        raise ValueError(f"a field may not be called {name!r}, the name of an example's own entry; rename it")
    if len(values) != n:
        raise ValueError(f"field {name!r} must have one row for each of the {n} examples, got {len(values)}")
    return _checked_data(values)


def stored(data: np.ndarray) -> np.ndarray:
    """The data as it is kept: float32 or uint8."""
    if data.dtype == np.uint8:
        return data
    if np.issubdtype(data.dtype, np.floating):
        return data.astype(np.float32, copy=False)
    raise ValueError(
        f"data must be floating (taken as it is) or uint8 (pixels, mapped to [-1, 1]), got {data.dtype}; "
        "convert it, so that its scale is your decision"
    )


def _checked_classes(labels: np.ndarray, n: int, num_classes: int | None) -> int:
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be {n} integers, got {labels.dtype} of shape {list(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    classes = high + 1 if num_classes is None else num_classes
    if low < 0:
        raise ValueError(f"labels must not be negative, got {low}; leave them out if that means unlabelled")
    if high >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {high}; raise num_classes")
    return classes
