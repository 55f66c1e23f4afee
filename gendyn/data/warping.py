"""One affine map of a picture, resampled through a wavelet filter so that neither copies nor aliases appear."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from gendyn.tree import expand

SYM6 = np.array(
    [
        0.015404109327027373,
        0.0034907120842174702,
        -0.11799011114819057,
        -0.048311742585633,
        0.4910559419267466,
        0.787641141030194,
        0.3379294217276218,
        -0.07263752278646252,
        -0.021060292512300564,
        0.04472490177066578,
        0.0017677118642428036,
        -0.007800708325034148,
    ]
)
"""Low-pass filter of the symlet with six vanishing moments (Daubechies 1992); even shifts are orthonormal."""
CENTRE = 5
"""The tap that lies on the pixel itself."""


def warp(
    data: Float[Array, "batch height width channels"], inverse: Float[Array, "batch 3 3"]
) -> Float[Array, "batch height width channels"]:
    """Pictures after affine maps, given by their inverses: the output at (x, y, 1) is the input at `inverse` times it.

    Coordinates are pixels from the centre of the picture, x to the right and y down. A picture goes on outside as its
    mirror image, without end. It is made twice as fine by the transpose of a filter with orthonormal even shifts,
    sampled bilinearly, and made coarse by the filter: whole-pixel shifts are exact, and the identity returns the input
    bit by bit. (The published code mirrors once and puts zeros beyond, which only very large maps reach.)

    Karras et al. 2020, arXiv:2006.06676, appendix B; as used in Karras et al. 2022, arXiv:2206.00364, appendix F.2.

    Raises:
        ValueError: data that are not pictures of at least 2 x 2 pixels.

    >>> one_to_the_right = jnp.array([[[1.0, 0, -1], [0, 1, 0], [0, 0, 1]]])
    >>> (warp(jnp.arange(4.0).reshape(1, 2, 2, 1), one_to_the_right).round(5) + 0.0).ravel().tolist()
    [1.0, 0.0, 3.0, 2.0]
    """
    if data.ndim != 4 or min(data.shape[1:3]) < 2:
        raise ValueError(
            f"warp needs pictures [batch, height, width, channels] of at least 2 x 2 pixels, got {list(data.shape)}."
        )
    moved = jax.vmap(_warp)(data.astype(jnp.float32), inverse).astype(data.dtype)
    unmoved = jnp.all(inverse == jnp.eye(3), axis=(1, 2))
    return jnp.where(expand(unmoved, data), data, moved)


def _warp(image: Array, inverse: Array) -> Array:
    height, width = image.shape[:2]
    fine = _both(finer(height), image, finer(width))
    y, x = jnp.meshgrid(positions(height), positions(width), indexing="ij")
    source_x, source_y = (row[0] * x + row[1] * y + row[2] for row in inverse[:2])
    where = [2 * source_y + (height - 1), 2 * source_x + (width - 1)]
    sample = jax.vmap(lambda plane: map_coordinates(plane, where, order=1, mode="wrap"), in_axes=-1, out_axes=-1)
    return _both(coarser(height), sample(fine), coarser(width))


def _both(rows: Any, image: Array, columns: Any) -> Array:
    """One matrix over the rows, one over the columns, in full float32."""
    rows, columns = jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32)
    return jnp.einsum("yh,hwc,xw->yxc", rows, image, columns, precision="highest")


def positions(n: int) -> Float[np.ndarray, " fine"]:
    """Where `coarser` reads, in pixels from the centre."""
    return ((np.arange(2 * n + len(SYM6) - 2) - CENTRE) / 2 - (n - 1) / 2).astype(np.float32)


def finer(n: int) -> Float[np.ndarray, "period n"]:
    """From n pixels to one period, 4 (n - 1) samples, of their mirrored continuation at half the spacing."""
    period = 2 * (n - 1)
    matrix = np.zeros((2 * period, n))
    for pixel in range(period):
        mirrored = n - 1 - abs(n - 1 - pixel)
        for tap, value in enumerate(SYM6):
            matrix[(2 * pixel + tap - CENTRE) % (2 * period), mirrored] += value
    return matrix


def coarser(n: int) -> Float[np.ndarray, "n fine"]:
    """From samples at `positions(n)` to n pixels."""
    matrix = np.zeros((n, 2 * n + len(SYM6) - 2))
    for pixel in range(n):
        matrix[pixel, 2 * pixel : 2 * pixel + len(SYM6)] = SYM6
    return matrix
