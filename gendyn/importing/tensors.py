"""Tensors of PyTorch files, described before they are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from gendyn.importing.limits import Refused
from gendyn.importing.values import Name

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
"""PyTorch's storage type -> the numpy dtype of its elements."""

DIMENSIONS = 8


@dataclass(eq=False)
class Storage:
    """A run of elements somewhere in the file. `read` is set once it is known where."""

    dtype: np.dtype
    count: int
    read: Callable[[], bytes] | None = None

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Tensor:
    """A strided view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def array(self) -> np.ndarray:
        """The elements, as an array of its own."""
        if self.storage.read is None:
            raise Refused("a tensor's elements are not in the file.")
        data = self.storage.read()
        if len(data) != self.storage.nbytes:
            raise Refused(f"the file is cut short: {self.storage.nbytes} bytes were declared, {len(data)} are there.")
        flat = np.frombuffer(data, self.storage.dtype)[self.offset :]
        strides = tuple(stride * flat.itemsize for stride in self.strides)
        # Bounds were checked when the tensor was described.
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False).copy()


def tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> Tensor:
    """A tensor from the arguments that a file gives for it, if they stay inside the storage."""
    if not isinstance(storage, Storage):
        raise Refused(f"the file makes a tensor of a {type(storage).__name__}, which holds no elements.")
    if not (isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= DIMENSIONS):
        raise Refused("a tensor's shape and strides do not match.")
    if not all(_natural(n) for n in (offset, *shape, *strides)):
        raise Refused("a tensor's offset, shape or strides are not natural numbers.")
    if math.prod(shape) > storage.count:
        raise Refused(f"a tensor of shape {list(shape)} is larger than its storage of {storage.count} elements.")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
    if math.prod(shape) and last >= storage.count:
        raise Refused(f"a tensor reaches beyond its storage of {storage.count} elements.")
    return Tensor(storage, offset, shape, strides)


def parameter(data: Any, *more: Any) -> Tensor:
    """A parameter is its tensor."""
    if not isinstance(data, Tensor):
        raise Refused(f"the file makes a parameter of a {type(data).__name__}, which is no tensor.")
    return data


def storage(identifier: Any) -> tuple[str, Storage]:
    """Key and storage from PyTorch's persistent identifier ("storage", type, key, device, elements, ...)."""
    if not (isinstance(identifier, tuple) and 5 <= len(identifier) <= 6 and identifier[0] == "storage"):
        raise Refused("the file refers to something outside itself that is no storage of elements.")
    kind, key, count = identifier[1], identifier[2], identifier[4]
    if len(identifier) == 6 and identifier[5] is not None:
        raise Refused("the file has views of storages, an old layout that is not supported.")
    if not isinstance(kind, Name) or kind.last not in STORAGES:
        raise Refused(f"the file has elements of an unknown kind ({getattr(kind, 'full', type(kind).__name__)}).")
    if not (isinstance(key, str) and _natural(count)):
        raise Refused("a storage's key or number of elements is not in order.")
    return key, Storage(np.dtype(STORAGES[kind.last]), count)


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48
