"""Halving and doubling a picture with a separable filter."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def resample(x: Array, direction: str | None, taps: tuple[float, ...]) -> Array:
    """Halve or double a picture with a separable filter; zeros beyond the border.

    The taps (1, 1) are the mean over cells of two by two, and nearest neighbour.
    """
    reach = (len(taps) - 1) // 2
    for axis in (1, 2):
        if direction == "down":
            x = filtered(x, taps, axis, stride=2, padding=reach)
        elif direction == "up":
            x = 2 * filtered(x, taps, axis, dilation=2, padding=len(taps) - 1 - reach)
    return x


def filtered(
    x: Array, taps: tuple[float, ...], axis: int, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Array:
    """Correlate along one axis with taps of sum one."""
    # A sum of slices: depthwise convolutions are slow on every backend at two or four taps.
    config = [(padding, padding, dilation - 1) if a == axis else (0, 0, 0) for a in range(x.ndim)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), config)
    span = stride * ((x.shape[axis] - len(taps)) // stride) + 1
    parts = (jax.lax.slice_in_dim(x, k, k + span, stride, axis) for k in range(len(taps)))
    return sum(tap / sum(taps) * part for tap, part in zip(taps, parts))  # type: ignore[return-value]
