"""Somebody else's data set in our terms: anything with a length and items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gendyn.data.sources import CorruptData, delivered, required, stored
from gendyn.data.transforms import Batch


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Wrapped:
    """A foreign sequence in our terms; see `wrap`."""

    items: Any
    shape: tuple[int, ...]
    num_classes: int | None = None
    entry: str = "data"

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int, /) -> Batch:
        example = _example(self.items[index], self.entry)
        data = example["data"]
        if data.shape != self.shape:
            shapes = f"item {index} is {list(data.shape)}, item 0 is {list(self.shape)}"
            raise ValueError(f"all items must have one shape: {shapes}; resize them before wrapping")
        if not np.isfinite(data).all():
            raise CorruptData(f"item {index} of the wrapped {type(self.items).__name__} holds NaN or infinity")
        return example

    def __repr__(self) -> str:
        return f"Wrapped({len(self)} of {list(self.shape)}, num_classes={self.num_classes})"


def wrap(items: Any, *, data: str = "data", num_classes: int | None = None) -> Wrapped:
    """A source from any object with `__len__` and `__getitem__`: a list, a torch or Hugging Face data set.

    An item is an array, a tuple (array, label) or a mapping that holds the data under the name `data` and, if
    it has labels, "label"; its other entries travel along. Arrays may be pillow images or torch tensors.
    Items are read when they are asked for; only the first is touched here. `num_classes` is taken from the
    object's `num_classes` or `classes` where it has them.

    >>> wrap([(np.zeros([4, 4, 1], np.uint8), 7)], num_classes=10)[0]["data"].min().item()
    -1.0
    """
    if not len(items):
        raise ValueError(f"a source needs at least one example, got an empty {type(items).__name__}")
    known = getattr(items, "num_classes", None) or len(getattr(items, "classes", ())) or None
    shape = _example(items[0], data)["data"].shape
    return Wrapped(items=items, shape=shape, num_classes=num_classes or known, entry=data)


def _example(item: Any, entry: str) -> Batch:
    """An item of a foreign sequence as our dict."""
    if isinstance(item, tuple) and len(item) == 2:
        item = {entry: item[0], "label": item[1]}
    elif not isinstance(item, Mapping):
        item = {entry: item}
    required(entry, item, "entry in an item of the wrapped object", "data=")
    example = {key: np.asarray(value) for key, value in item.items() if key != entry}
    example["data"] = delivered(stored(_pixels(item[entry])))
    if "label" in example:
        example["label"] = _integer(example["label"])
    return example


def _integer(label: np.ndarray) -> np.ndarray:
    if not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"a label must be an integer, got {label.dtype}; give other conditions another name")
    return label.astype(np.int32)


def _pixels(item: Any) -> np.ndarray:
    """Grey pillow images gain the channel axis they lack; arrays stay as their owner made them."""
    array = np.asarray(item)
    return array[..., None] if hasattr(item, "getbands") and array.ndim == 2 else array
