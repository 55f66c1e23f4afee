"""The (data, noise) pairs that a denoiser is measured on, and the directions in which it is differentiated."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gendyn.processes.noise import Noise

Probes: TypeAlias = int | Literal["exact"]
"""Random signs per pair, or one direction per element."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """Examples with what is drawn for them, by position: the fields are arguments of `estimate` and `moments`."""

    data: Any
    cond: Any
    noise: Any
    key: Any
    probes: Probes
    fresh: bool
    first: int
    law: Noise

    def require(self) -> None:
        """Refuse, in words, what cannot be measured."""
        shape = np.shape(self.data)
        if len(shape) < 2 or shape[0] < 2:
            raise ValueError(f"statistics need two or more examples, [samples, *data]; got data of shape {shape}.")
        if self.probes != "exact" and not self.probes >= 1:
            raise ValueError(f'probes must be at least 1, or "exact"; got {self.probes}.')
        if self.key is None and (self.noise is None or self.probes != "exact"):
            raise ValueError('pass key=jax.random.key(...), or noise= with probes="exact", which draw nothing.')
        if self.noise is not None and np.shape(self.noise) != shape:
            raise ValueError(f"noise must have the shape of the data, {shape}; got {np.shape(self.noise)}.")

    def draw(self, start: int, size: int, node: int) -> tuple[Any, Any, Any, Any]:
        """(data, noise, probes, cond) of `size` samples from `start`; past the end the last one is repeated.

        Probes are [probes, size or 1, *data], scaled so that the sum of v * (J v) over them is the diagonal of J.
        """
        rows = np.minimum(np.arange(start, start + size), len(self.data) - 1)
        take = lambda a: jnp.asarray(np.asarray(a)[rows])
        data, cond = take(self.data), jax.tree.map(take, self.cond)
        data = data.astype(jnp.promote_types(data.dtype, jnp.float32))
        noise = signs = None
        if self.key is not None:
            key = jax.random.fold_in(self.key, node) if self.fresh else self.key
            count = 0 if self.probes == "exact" else self.probes
            noise, signs = _random(key, jnp.asarray(self.first + rows), data, count, self.law)
        noise = noise if self.noise is None else take(self.noise).astype(data.dtype)
        return data, noise, _unit_vectors(data) if self.probes == "exact" else signs, cond


def _unit_vectors(data: Float[Array, "batch *data"]) -> Float[Array, "elements 1 *data"]:
    size = data[0].size
    return jnp.eye(size, dtype=data.dtype).reshape(size, 1, *data.shape[1:])


@partial(jax.jit, static_argnames=("probes", "law"))
def _random(
    key: Any, positions: Array, like: Float[Array, "batch *data"], probes: int, law: Noise
) -> tuple[Float[Array, "batch *data"], Float[Array, "probes batch *data"]]:
    """Noise and scaled signs of each position, whatever its neighbours."""

    def draw(position: Any, one: Array) -> tuple[Array, Array]:
        for_noise, for_signs = jax.random.split(jax.random.fold_in(key, position))
        signs = jax.random.rademacher(for_signs, (probes, *one.shape), one.dtype)
        return law.draw(for_noise, (1, *one.shape), one.dtype)[0], signs / np.sqrt(max(probes, 1))

    noise, signs = jax.vmap(draw)(positions, like)
    return noise, jnp.moveaxis(signs, 1, 0)
