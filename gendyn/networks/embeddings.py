"""What turns a noise level and a position into vectors."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import normal
from jaxtyping import Array, Float

from gendyn.networks.layers import parameter

# Lowest and highest angular frequency: they resolve time in [0, 1], log(sigma)/4 in about [-2, 2], and discrete
# steps up to a few thousand.
FREQUENCIES = (1e-3, 32.0)


def sinusoids(
    label: Float[Array, " batch"], features: int, frequencies: tuple[float, float] = FREQUENCIES
) -> Float[Array, "batch features"]:
    """[cos(label w), sin(label w)] for features/2 angular frequencies w, spaced geometrically between two ends.

    >>> import jax.numpy as jnp
    >>> [round(float(v), 3) for v in sinusoids(jnp.array([1.0]), 4, (1.0, 2.0))[0]]
    [0.54, -0.416, 0.841, 0.909]

    Vaswani et al. 2017, arXiv:1706.03762, section 3.5 (there w from 1 down to 1e-4).
    """
    w = jnp.asarray(np.geomspace(*frequencies, features // 2), jnp.float32)
    angles = label.astype(jnp.float32)[:, None] * w
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def grid_sinusoids(grid: tuple[int, ...], features: int) -> Float[np.ndarray, "tokens features"]:
    """Fixed positional table of a grid of tokens (row-major), in float64 on the host.

    The features are cut evenly between the grid's axes, last axis first as in the published DiT; each part is
    [sin(i w), cos(i w)] with w = 10000^(-k/K), k = 0 .. K-1.

    >>> grid_sinusoids((2, 2), 4).round(2).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.84, 0.54, 0.0, 1.0], [0.0, 1.0, 0.84, 0.54], [0.84, 0.54, 0.84, 0.54]]

    Raises:
        ValueError: if the features cannot be cut into sine-cosine pairs per axis.
    """
    if features % (2 * len(grid)):
        raise ValueError(
            f"sin-cos positions on {len(grid)} axes need a width that is a multiple of {2 * len(grid)}, "
            f'got {features}; change the width or use positions="learned".'
        )
    count = features // (2 * len(grid))
    w = 10_000.0 ** (-np.arange(count) / count)
    places = np.indices(grid).reshape(len(grid), -1, 1) * w
    return np.concatenate([part for place in places[::-1] for part in (np.sin(place), np.cos(place))], axis=-1)


def per_example(what: str, value: Any, batch: int) -> Array:
    """A scalar or one value per example as an array [1] or [batch].

    Raises:
        ValueError: for any other shape.
    """
    value = jnp.asarray(value)
    if value.shape not in ((), (1,), (batch,)):
        raise ValueError(f"{what} is a scalar or one value per example [{batch}], got {list(value.shape)}; reshape it.")
    return value.reshape(-1)


class Positions(nnx.Module):
    """A learned positional table, one row per token."""

    def __init__(self, tokens: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.table = parameter(rngs, normal(0.02), (tokens, width), ("position", "embed"))

    def __call__(self) -> Float[Array, "tokens width"]:
        return self.table[...]
