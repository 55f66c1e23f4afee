"""From what a data set keeps to what a record holds: decoding, cropping, encoding of one item."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from gendyn.data.images import DECODING_ERRORS, decode
from gendyn.data.incoming import Item
from gendyn.data.records import Layout
from gendyn.data.sources import stored

Encoder = Callable[[np.ndarray], Any]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a data set is packed."""

    split: str = "train"
    """The name under which it is found; of a folder of parquet files also which of them are read."""
    resolution: int | None = None
    """Crop images to the centre and resize them to squares of so many pixels. Without it all must have one shape."""
    channels: Literal[1, 3] | None = None
    """Make all images grey or coloured. Without it all must agree."""
    encoding: Literal["raw", "png", "kept"] = "raw"
    """Keep pixels, compress them as PNG, or keep the bytes of the files; images that are resized then become PNG."""
    shards: int | None = None
    """How many files."""
    shard_mb: float = 512.0
    """Without a number of files, how many MiB each has."""
    limit: int | None = None
    """The first examples only."""
    labels: bool = True
    """Keep the labels."""
    num_classes: int | None = None
    """Where the source does not say and this split may lack the last class."""
    skip_unreadable: bool = False
    """Leave out images that do not decode, and list them in the index, instead of stopping at the first."""

    def __post_init__(self) -> None:
        for name in ("resolution", "shards", "shard_mb", "limit", "num_classes"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}; leave it out for the default")
        if not self.split or "/" in self.split or self.split.startswith("."):
            raise ValueError(f"split is the start of file names, got {self.split!r}; choose a word such as train")


@dataclass(frozen=True, kw_only=True)
class Example:
    """What a record will hold, and its name for messages. Bytes are an encoded image of the shape."""

    name: str
    data: np.ndarray | bytes
    shape: tuple[int, ...]
    label: int | None = None
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """The layout that it needs; all examples of a set need one."""
        encoded = isinstance(self.data, bytes)
        return Layout(
            encoding="image" if encoded else "raw",
            shape=self.shape,
            dtype="uint8" if isinstance(self.data, bytes) else self.data.dtype.name,
            labelled=self.label is not None,
            fields={name: (value.dtype.name, value.shape) for name, value in self.fields.items()},
        )


@dataclass(frozen=True)
class Unreadable:
    """An item that does not decode, and why."""

    name: str
    why: str


def make(item: Item, packing: Packing) -> Example | Unreadable:
    """One item, decoded, resized and encoded as `packing` says."""
    label, content = item.label if packing.labels else None, item.content
    if isinstance(content, np.ndarray):
        if packing.resolution is None and packing.channels is None and packing.encoding == "raw":
            data = stored(content)
            return Example(name=item.name, data=data, shape=data.shape, label=label, fields=item.fields)
        content = png(_picture(item.name, content))
    try:
        content = content.read_bytes() if isinstance(content, Path) else content
        pixels = decode(content, size=packing.resolution, channels=packing.channels)
        kept = _kept(pixels, content, packing.encoding)
    except DECODING_ERRORS as error:
        return Unreadable(item.name, str(error))
    return Example(name=item.name, data=kept, shape=pixels.shape, label=label, fields=item.fields)


def latents(examples: Sequence[Example | Unreadable], encoder: Encoder) -> list[Example | Unreadable]:
    """The examples with what the encoder makes of their pixels in the place of these, one call for all.

    Raises:
        ValueError: images of several shapes, or an encoder that returns no floats [batch, ...], or not finite ones.
    """
    good = [example for example in examples if isinstance(example, Example)]
    if len({example.shape for example in good}) > 1:
        raise ValueError(
            "an encoder needs images of one shape; pass --resolution (resolution=) to crop and resize them"
        )
    if not good:
        return list(examples)
    values = np.asarray(encoder(np.stack([example.data for example in good])))
    if not len(values.shape) or len(values) != len(good) or not np.isfinite(values).all():
        raise ValueError(
            f"an encoder returns finite floats [{len(good)}, ...] for {len(good)} images, got {values.dtype} "
            f"of shape {list(values.shape)}{'' if np.isfinite(values).all() else ' with NaN or infinity'}"
        )
    values = values if values.dtype == np.float16 else values.astype(np.float32)
    rest = iter(values)
    return [_with(example, next(rest)) if isinstance(example, Example) else example for example in examples]


def _with(example: Example, latent: np.ndarray) -> Example:
    return replace(example, data=latent, shape=latent.shape)


def png(pixels: np.ndarray) -> bytes:
    """The content of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def _kept(pixels: np.ndarray, original: bytes | None, encoding: str) -> np.ndarray | bytes:
    """Pixels, a new PNG, or the file that they came from where it has their size."""
    if encoding == "raw":
        return pixels
    if encoding == "kept" and original is not None:
        with Image.open(io.BytesIO(original)) as image:
            if (image.height, image.width) == pixels.shape[:2]:
                return original
    return png(pixels)


def _picture(name: str, values: np.ndarray) -> np.ndarray:
    """An array that can be resized and compressed like an image."""
    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[-1] not in (1, 3):
        raise ValueError(
            f"resolution, channels and encoding are of images, uint8 [height, width, 1 or 3], but {name} is "
            f"{values.dtype} {list(values.shape)}; leave them out"
        )
    return values
