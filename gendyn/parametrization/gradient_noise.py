"""Gradient noise: how large a batch is worth its cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from gendyn.tree import pytree


@pytree
class NoiseScale:
    """Sums over steps of unbiased estimates; add those of several steps, for the ratio of sums is what converges.

    Attributes:
        noise: of tr(Sigma), the summed variance of one example's gradient.
        signal: of |G|^2, the squared norm of the mean gradient.
    """

    noise: Float[Array, ""]
    signal: Float[Array, ""]

    def __add__(self, other: NoiseScale) -> NoiseScale:
        return NoiseScale(noise=self.noise + other.noise, signal=self.signal + other.signal)

    @property
    def critical(self) -> Float[Array, ""]:
        """B_simple = tr(Sigma)/|G|^2, in examples: far below it steps go to waste, far above it examples."""
        return jnp.where(self.signal > 0, self.noise / self.signal, jnp.inf)


def noise_scale(loss: Callable[[Any, Any], Any], params: Any, batch: Any, parts: int = 8) -> NoiseScale:
    """One step's estimate from a batch of B examples and its `parts` parts of b = B/parts.

    |G|^2 = (B |g_B|^2 - b |g_b|^2)/(B - b) and tr(Sigma) = (|g_b|^2 - |g_B|^2)/(1/b - 1/B), with |g_b|^2 the mean over
    the parts: McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1.

    Args:
        loss: (params, batch) -> mean over the batch's rows.
        batch: a tree of arrays with B rows, B a multiple of `parts`.

    Raises:
        ValueError: fewer than two parts, or rows that do not divide.

    Cost: one gradient of the batch. May be compiled, beside the step whose parameters it looks at.

    Example:
        >>> # gradients p - row, of which the variance is 3, and the mean's square
        >>> rows = jax.random.normal(jax.random.key(0), (4096, 3)) + 1.0
        >>> loss = lambda p, rows: 0.5 * jnp.mean(jnp.sum((p - rows) ** 2, 1))
        >>> found = noise_scale(loss, jnp.zeros(3), rows, parts=512)
        >>> bool(0.8 < found.critical < 1.2)
        True
    """
    size = len(jax.tree.leaves(batch)[0])
    if parts < 2 or size % parts:
        raise ValueError(f"a noise scale takes two parts or more that divide the batch's {size} rows; got {parts}.")
    cut = jax.tree.map(lambda a: jnp.reshape(a, (parts, size // parts, *jnp.shape(a)[1:])), batch)
    each = jax.lax.map(lambda rows: jax.grad(loss)(params, rows), cut)
    small = jax.vmap(lambda g: optax.tree_utils.tree_norm(g, squared=True))(each).mean()
    large = optax.tree_utils.tree_norm(jax.tree.map(lambda g: g.mean(0), each), squared=True)
    b = size / parts
    return NoiseScale(noise=(small - large) / (1 / b - 1 / size), signal=(size * large - b * small) / (size - b))
