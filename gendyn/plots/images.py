"""Sample grids as PNG images."""

from __future__ import annotations

import io
import math

import jax
import numpy as np
from etils import epath
from jaxtyping import Num, UInt8

from gendyn.files import write_atomic

Array = np.ndarray | jax.Array

READABLE = 64
"""Images smaller than this many pixels are enlarged by a whole number until they reach it."""


def grid(
    images: Num[Array, "n height width channels"],
    columns: int | None = None,
    *,
    scale: int | None = None,
    gap: int = 1,
) -> UInt8[np.ndarray, "grid_height grid_width channels"]:
    """Images side by side, row by row, as one image of bytes.

    Args:
        images: floats in [-1, 1] (clipped; values that are not finite become black) or uint8; 1 or 3 channels.
        columns: images in a row; about the square root of n if None.
        scale: every pixel becomes a block of scale x scale, so that 8x8 digits can be seen; chosen if None.
        gap: grey lines between images, in pixels before enlarging.

    >>> grid(np.zeros((6, 8, 8, 1)), columns=3, scale=2, gap=1).shape
    (34, 52, 1)
    """
    pixels = _pixels(images)
    n, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else min(columns, n)
    scale = math.ceil(READABLE / max(height, width)) if scale is None else scale
    if min(columns, scale) < 1 or gap < 0:
        raise ValueError(f"a grid needs columns >= 1, scale >= 1 and gap >= 0, got {columns}, {scale} and {gap}.")
    rows = math.ceil(n / columns)
    canvas = np.full((rows * columns, height + gap, width + gap, channels), 128, np.uint8)
    canvas[:n, :height, :width] = pixels
    sheet = canvas.reshape(rows, columns, height + gap, width + gap, channels).swapaxes(1, 2)
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap), channels)
    return sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap].repeat(scale, axis=0).repeat(scale, axis=1)


def save_png(
    path: epath.PathLike,
    images: Num[Array, "n height width channels"],
    columns: int | None = None,
    *,
    scale: int | None = None,
    gap: int = 1,
) -> epath.Path:
    """Write a `grid` of images as PNG, whole or not at all, on disk or in a bucket. Returns the path."""
    from PIL import Image

    sheet = grid(images, columns, scale=scale, gap=gap)
    picture = Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    write_atomic(path, stream.getvalue())
    return epath.Path(path)


def _pixels(images: Num[Array, "n height width channels"]) -> UInt8[np.ndarray, "n height width channels"]:
    from gendyn.data.transforms import to_uint8

    values = np.asarray(images)
    if values.ndim != 4 or values.shape[-1] not in (1, 3) or not values.size:
        raise ValueError(
            f"a grid needs images [n, height, width, 1 or 3], got shape {list(values.shape)}; add the missing axis, or "
            "decode latents first."
        )
    if values.dtype == np.uint8:
        return values
    if not (np.issubdtype(values.dtype, np.floating) or values.dtype.name == "bfloat16"):
        raise ValueError(f"a grid needs floats in [-1, 1] or uint8, got {values.dtype}; convert with x / 127.5 - 1.")
    return to_uint8(np.nan_to_num(values.astype(np.float32), nan=-1.0, posinf=-1.0, neginf=-1.0))
