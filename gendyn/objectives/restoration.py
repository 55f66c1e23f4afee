"""Restoration: a denoising objective on the deviation from a given degraded image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.objectives.denoising import Denoising
from gendyn.predictions import Denoiser
from gendyn.processes import Process
from gendyn.tree import constant, pytree


@constant
class Restoration:
    """`Denoising` of z = data - mu, with mu the batch's degraded image: how a mean-reverting model is trained.

        z_t = alpha z + sigma noise,    network(params, [x, mu] on the channels, label, class) -> a z + b noise

    with x = z_t + mu the state of the mean-reverting path (where the preconditioner scales its input, x = mu + scale
    z_t). The minimiser is E[data | x, mu] - mu. Every choice (prediction kind, preconditioner, density, weight) is the
    inner objective's; its sigma_data is the standard deviation of data - mu. A network has twice the data's channels
    in, and the data's out (`DiT((h, w, 2 c), out_channels=c)`).

    Args:
        denoising: on the path of z, `Denoising(process=MeanReverting(...), ...)`; drop must be 0.

    Example:
        >>> import gendyn as gd, jax, jax.numpy as jnp
        >>> loss = Restoration(denoising=gd.objectives.Denoising(process=gd.processes.MeanReverting()))
        >>> network = lambda params, x, label, cond: params * x[..., :1]
        >>> data = jnp.zeros((4, 2, 1))
        >>> loss(network, jnp.float32(0), jax.random.key(0), data, None, mu=data + 1)[0].shape
        (4,)
    """

    denoising: Denoising

    given = ("mu",)
    """Entries of a batch that a sample is made from."""

    def __post_init__(self) -> None:
        if self.denoising.drop:
            raise ValueError("Restoration drops no condition (mu has no null value); use drop=0.")

    @property
    def process(self) -> Process:
        """The path of z."""
        return self.denoising.process

    @property
    def needs(self) -> tuple[str, ...]:
        return *self.given, *self.denoising.needs

    def __call__(
        self,
        network: Any,
        params: Any,
        key: PRNGKeyArray,
        data: Float[Array, "batch *data"],
        cond: Any = None,
        *,
        mu: Float[Array, "batch *data"],
        **more: Any,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        if mu.shape != data.shape:
            raise ValueError(f"mu must be shaped like the data, {data.shape}; got {mu.shape}: resize it to the data.")
        return self.denoising(Beside(network), params, key, data - mu, {"mu": mu, "label": cond}, **more)

    def denoiser(self, apply: Callable[..., Any], params: Any) -> Restorer:
        """D(x, t, cond) -> E[data | x, mu], with cond = {"mu": mu} or {"mu": mu, "label": classes}."""
        return Restorer(deviation=self.denoising.denoiser(Beside(apply), params))


@dataclasses.dataclass(frozen=True)
class Beside:
    """A network that sees mu beside the state: (z, {"mu", "label"}) -> network([z + mu, mu], label)."""

    network: Any

    def __call__(self, params: Any, z: Any, label: Any, cond: Any) -> Any:
        return self.network(params, _beside(z, cond["mu"]), label, cond.get("label"))

    @property
    def train(self) -> Callable[..., Any]:
        """The network's training mode; absent where the network has none."""
        inner = self.network.train
        return lambda params, z, label, cond, key: inner(params, _beside(z, cond["mu"]), label, cond.get("label"), key)


def _beside(z: Array, mu: Array) -> Array:
    mu = mu.astype(z.dtype)
    return jnp.concatenate([z + mu, mu], axis=-1)


@pytree
class Restorer:
    """D(x, t, cond) -> E[data | x, mu] on the mean-reverting path, from a denoiser of z; cond holds mu.

    `gendyn.control.restore(plan, D, mu, key, cond={"mu": mu})` runs it.
    """

    deviation: Denoiser

    def __call__(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Float[Array, "batch *data"]:
        mu = self.anchor(cond)
        return mu + self.deviation(x - mu, t, cond)

    def anchor(self, cond: Any) -> Array:
        """The mean around which a plan runs."""
        if not (isinstance(cond, dict) and "mu" in cond):
            raise ValueError(
                'this model restores degraded images: pass cond={"mu": mu}, or {"mu": mu, "label": classes} where it '
                "was trained with classes."
            )
        return jnp.asarray(cond["mu"])

    @property
    def process(self) -> Process:
        return self.deviation.process

    def singular(self, times: np.ndarray) -> np.ndarray:
        """Times at which the network's prediction does not determine the denoised."""
        return self.deviation.singular(times)
