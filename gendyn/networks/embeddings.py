"""What turns a noise level, a class and a position into vectors.

    conditioning = silu( W2 silu(W1 phi(label)) + table[cond] ),    phi(label) = [cos(label w), sin(label w)]

The number of frequencies w is fixed, never tied to the width: features of the label are an input of the
network, and a wider network looks at the same input.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import normal
from jaxtyping import Array, Float, Int

from gendyn.distributed import constrain, gathered
from gendyn.networks.layers import Dense, parameter

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


class Classes(nnx.Module):
    """A vector per class; the extra last row, number `num_classes`, is the null class of guidance."""

    def __init__(self, num_classes: int, width: int, *, rngs: nnx.Rngs) -> None:
        # A standard deviation of the order of the noise-level vector's that it is added to.
        self.table = parameter(rngs, normal(0.3), (num_classes + 1, width), ("classes", "conditioning"))

    @property
    def null(self) -> int:
        return self.table.shape[0] - 1

    def __call__(self, cond: Int[Array, " batch"] | None, batch: int) -> Float[Array, "#batch width"]:
        rows = per_example("cond", self.null if cond is None else cond, batch)
        if not jnp.issubdtype(rows.dtype, jnp.integer):
            raise TypeError(f"cond holds integer classes 0 to {self.null} (the null class), got {rows.dtype}; cast it.")
        # "fill": a class out of range gives NaN; the default would silently take the last row.
        return constrain(jnp.take(gathered(self.table[...]), rows, axis=0, mode="fill"), "conditioning")


class Conditioning(nnx.Module):
    """The vector that modulates every block, from noise level and class, in float32.

    Args:
        width: of the vector.
        num_classes: None for a network without classes.
        time_features: sinusoids of the label; fixed, whatever the width.
        frequencies: lowest and highest angular frequency.
    """

    def __init__(
        self,
        width: int,
        num_classes: int | None,
        time_features: int,
        frequencies: tuple[float, float],
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.time_features = time_features
        self.lowest, self.highest = frequencies
        self.level = Dense(time_features, width, ("time", "conditioning"), rngs=rngs)
        self.mix = Dense(width, width, ("conditioning", "conditioning"), rngs=rngs)
        self.classes = None if num_classes is None else Classes(num_classes, width, rngs=rngs)

    def __call__(self, label: Any, cond: Int[Array, " batch"] | None, batch: int) -> Float[Array, "#batch width"]:
        """One row per example, or a single row when nothing differs between examples (a scalar label)."""
        features = sinusoids(per_example("label", label, batch), self.time_features, (self.lowest, self.highest))
        vector = self.mix(jax.nn.silu(self.level(features)))
        if self.classes is not None:
            vector = vector + self.classes(cond, batch)
        elif cond is not None:
            raise ValueError("a class came, but the network was built without classes; build it with num_classes=.")
        return jax.nn.silu(vector)
