"""A U-Net in two halves: what its encoder knows of the input, and how its decoder joins it.

    network(x, label, cond)  =  decode(encode(x, label, cond), label, cond)

The decoder sees the input through the encoder's features alone. So the features of one noise level can be decoded at
another (Faster Diffusion), and the skip connections can be scaled on the way (Skip-Tuning), without another network.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Encoded(NamedTuple):
    """What a decoder is given.

    Attributes:
        h: features that have passed the encoder and the blocks at the coarsest level before the first connection.
        skips: one array per skip connection, from the bottom (joined first) to the top (the finest level).
    """

    h: Array
    skips: tuple[Array, ...]


def scaled(skips: tuple[Array, ...], scale: Any) -> tuple[Array, ...]:
    """Skip features times their scales; None leaves them alone.

    Args:
        scale: a number, or a few from the bottom connection to the top, interpolated linearly over the connections:
            (bottom, top) is the line of Skip-Tuning, one per connection is taken as it is.

    >>> [float(skip) for skip in scaled((jnp.ones(()),) * 3, (0.5, 1.0))]
    [0.5, 0.75, 1.0]

    Ma et al. 2024, "The Surprising Effectiveness of Skip-Tuning in Diffusion Sampling", arXiv:2402.15170.
    """
    if scale is None:
        return skips
    return tuple(skip * factor.astype(skip.dtype) for skip, factor in zip(skips, _factors(len(skips), scale)))


def _factors(count: int, scale: Any) -> Float[Array, " count"]:
    knots = jnp.asarray(scale, jnp.float32)
    if knots.ndim > 1 or not 1 <= knots.size <= count:
        raise ValueError(
            f"a skip scale is a number, (bottom, top), or up to {count} numbers from the bottom connection to the top "
            f"(this network has {count}); got shape {knots.shape}."
        )
    if knots.size == count or knots.ndim == 0:
        return jnp.broadcast_to(knots, count)
    return jnp.interp(jnp.linspace(0.0, 1.0, count), jnp.linspace(0.0, 1.0, knots.size), knots)
