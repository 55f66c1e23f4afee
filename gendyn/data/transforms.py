"""Transforms: what happens to a batch between the source and the network.

A transform is a function `(batch, rng) -> batch` of a whole batch, a dict of stacked numpy arrays. It draws
with `rng.random((batch, ...))`, example axis first, and keeps nothing. In the loader `rng` is `Positional`:
its numbers belong to the *position* of an example in the run, not to a process or to a call, so that one,
two or four processes, and a run that was resumed, flip the same images. A `np.random.Generator` serves as
well, by hand.

A transform that only rearranges pixels says so (`rearranges`). It commutes with the map of pixels to [-1, 1], so the
loader lets it work on `uint8`, a quarter of the bytes, where a source keeps that; the result is the same bit by bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Num, UInt8

Batch = dict[str, np.ndarray]


@runtime_checkable
class Random(Protocol):
    """Anything that draws uniforms in [0, 1) of a given shape, the example axis first."""

    def random(self, size: tuple[int, ...], /) -> np.ndarray: ...


Transform = Callable[[Batch, Random], Batch]


def rearranges(transform: Transform) -> Transform:
    """Mark a transform that moves or drops pixels and changes none, whatever the dtype of the data."""
    transform.rearranges = True  # type: ignore[attr-defined]
    return transform


@rearranges
def random_flip(batch: Batch, rng: Random) -> Batch:
    """Mirror left and right, each example with probability one half. Data [batch, ..., width, channels].

    >>> flipped = random_flip({"data": np.arange(4.0).reshape(1, 1, 4, 1)}, np.random.default_rng(1))
    >>> flipped["data"].ravel().tolist() in ([0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0])
    True
    """
    data = batch["data"]
    if data.ndim < 3:
        raise ValueError(f"random_flip needs data [batch, ..., width, channels], got shape {list(data.shape)}")
    mirrored = np.flatnonzero(rng.random((len(data),)) < 0.5)
    flipped = data.copy()
    for channel in range(data.shape[-1]):  # three times as fast as all channels at once (measured, 32x32x3)
        flipped[..., channel][mirrored] = data[..., channel][mirrored][..., ::-1]
    return {**batch, "data": flipped}


@dataclass(frozen=True)
class RandomCrop:
    """A window of `side` x `side` pixels, or (height, width), at a place drawn anew for each example.

    Data [batch, height, width, channels]; every place is equally likely. Images smaller than the window are refused.

    >>> RandomCrop(4)({"data": np.zeros([2, 6, 5, 3])}, np.random.default_rng(0))["data"].shape
    (2, 4, 4, 3)
    """

    side: int | tuple[int, int]
    rearranges: ClassVar[bool] = True

    def __call__(self, batch: Batch, rng: Random) -> Batch:
        data = batch["data"]
        sides = (self.side, self.side) if isinstance(self.side, int) else self.side
        if data.ndim != 4 or data.shape[1] < sides[0] or data.shape[2] < sides[1]:
            raise ValueError(
                f"a crop to {sides[0]}x{sides[1]} needs data [batch, height, width, channels] at least as large, "
                f"got shape {list(data.shape)}"
            )
        spare = np.subtract(data.shape[1:3], sides) + 1
        corners = np.floor(rng.random((len(data), 2)) * spare).astype(int)
        windows = [image[y : y + sides[0], x : x + sides[1]] for image, (y, x) in zip(data, corners)]
        return {**batch, "data": np.stack(windows)}


def from_uint8(
    pixels: UInt8[np.ndarray, "*data"], *, out: Float[np.ndarray, "*data"] | None = None
) -> Float[np.ndarray, "*data"]:
    """Pixels 0..255 to float32 in [-1, 1]: x = u / 127.5 - 1, into `out` if given. Inverse of `to_uint8`, exactly.

    >>> from_uint8(np.array([0, 255], np.uint8)).tolist()
    [-1.0, 1.0]
    """
    values = np.divide(pixels, np.float32(127.5), out=out, dtype=np.float32)
    return np.subtract(values, np.float32(1.0), out=values)


def to_uint8(x: Num[Any, "*data"]) -> UInt8[np.ndarray, "*data"]:
    """Values in [-1, 1] to the nearest pixel: u = floor(127.5 x + 128), clipped to 0..255.

    That is rounding with halves up, as in the published EDM code (Karras et al. 2022, arXiv:2206.00364,
    `generate.py`); plain truncation would darken every image by half a level. Accepts jax arrays.

    >>> to_uint8(np.array([-2.0, -1.0, 0.0, 1.0])).tolist()
    [0, 0, 128, 255]
    """
    return np.clip(np.floor(np.asarray(x, np.float32) * 127.5 + 128.0), 0, 255).astype(np.uint8)


class Positional:
    """Uniforms that belong to positions: row i of any draw is a function of (seed, first + i) and of how many
    draws were made before, never of the number of rows.

    Philox is a counter-based generator (Salmon et al. 2011): its output at counter c costs nothing to reach.
    A counter holds four numbers, so a draw of n per example gives each position c = ceil(n / 4) counters,
    position p those from c p on, in a stream of its own. Processes that hold neighbouring rows thus agree
    without talking, and a resumed run need not replay. Only raw output is used, which numpy promises to keep.

    >>> whole, tail = Positional(seed=0, first=0), Positional(seed=0, first=6)
    >>> bool((whole.random((8, 3))[6:] == tail.random((2, 3))).all())
    True
    """

    def __init__(self, *, seed: int, first: int) -> None:
        self._seed, self._first, self._draws = seed, first, itertools.count(1)

    def random(self, size: tuple[int, ...], /) -> Float[np.ndarray, "batch *shape"]:
        """Uniforms in [0, 1), float64, 53 bits each. `size` starts with the number of examples."""
        rows, *shape = size
        per_example = math.prod(shape)
        counters = -(-per_example // 4)
        stream = philox(self._seed, stream=next(self._draws), counter=self._first * counters)
        uniforms = (stream.random_raw(rows * counters * 4) >> np.uint64(11)) * 2.0**-53
        return uniforms.reshape(rows, counters * 4)[:, :per_example].reshape(size)


def philox(seed: int, *, stream: int, counter: int = 0) -> np.random.Philox:
    """The generator of one stream of a run, at a counter; streams use another word and never overlap."""
    return np.random.Philox(key=np.array([seed, 0], np.uint64), counter=np.array([counter, 0, stream, 0], np.uint64))
