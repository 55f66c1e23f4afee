"""The denoising objective, for any prediction kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.objectives.dropping import Drop, check_drop, dropped
from gendyn.objectives.noise_levels import LogNormal, NoiseLevels
from gendyn.objectives.weights import EDM, Weight
from gendyn.predictions import Denoiser, EDMPreconditioner, Kind, Preconditioner, denoiser, determinant, row
from gendyn.processes import Process
from gendyn.processes.couplings import Coupling, Independent
from gendyn.tree import constant, expand


@constant
class Denoising:
    """E_t E_{x|data} w(t) |prediction - (a data + b noise)|^2 / N, the mean over the N entries of an example.

    The minimiser is the posterior mean of the predicted kind whatever the weight and the density of t; with predicts
    "velocity" on rectified flow this is flow matching. Callable as

        loss(network, params, key, data, cond, base=None) -> (per_example [batch], aux)

    where network is `apply(params, x, label, cond)` or a `gendyn.networks.Network` (whose training mode is then used).
    No mean over the batch is taken here. aux holds per-example "lam" and "error" (unweighted, in the predicted kind).

    Args:
        process: the path.
        predicts: what the network predicts; "F" is the preconditioner's target.
        precondition: input scale, label and F.
        noise_levels: density of t.
        weight: factor per noise level; None is `weights.EDM` at the default sigma_data.
        coupling: how noise is paired with data: independent, or `couplings.Stored()` for pairs that come with the
            data (reflow), whose unit noise is then the batch's "base".
        label: overrides the preconditioner's label, as in `gendyn.denoiser`.
        drop: probability of replacing an example's cond by `null`, for classifier-free guidance; a mapping has one for
            each named condition, which are dropped independently.
        null: the condition that stands for none (for classes: num_classes; for named ones: `gd.networks.null`).
        learned_variance: the network returns twice the channels; its second half is dropped, and not trained.

    Example:
        >>> import gendyn as gd, jax, jax.numpy as jnp
        >>> loss = gd.objectives.Denoising(process=gd.processes.EDM())
        >>> apply = lambda params, x, label, cond: params * x
        >>> per_example, aux = loss(apply, jnp.float32(0), jax.random.key(0), jnp.zeros((4, 2)), None)
        >>> per_example.shape
        (4,)
    """

    process: Process
    predicts: Kind = "F"
    precondition: Preconditioner = EDMPreconditioner()
    noise_levels: NoiseLevels = LogNormal()
    weight: Weight = EDM()
    coupling: Coupling = Independent()
    label: str | Callable[[Process, Any], Any] | None = None
    drop: Drop = 0.0
    null: Any = None
    learned_variance: bool = False

    def __post_init__(self) -> None:
        check_drop(self.drop, self.null)

    @property
    def needs(self) -> tuple[str, ...]:
        """Entries of a batch, besides data and label, that this objective reads as keyword arguments."""
        return self.coupling.needs

    def __call__(
        self,
        network: Any,
        params: Any,
        key: PRNGKeyArray,
        data: Float[Array, "batch *data"],
        cond: Any = None,
        base: Float[Array, "batch *data"] | None = None,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        key_t, key_noise, key_drop, key_network = jax.random.split(key, 4)
        t = self.noise_levels.sample(self.process, key_t, data.shape[0])
        key_noise, key_coupling = jax.random.split(key_noise)
        base = self.process.draw_noise(key_noise, data.shape, data.dtype) if base is None else base
        noise = self.coupling(key_coupling, base, data, cond)
        x = self.process.state(data, noise, t)
        cond = dropped(key_drop, cond, data.shape[0], self.drop, self.null)
        value = self.denoiser(training_mode(network, key_network), params).output(x, t, cond)
        a, b = row(self.predicts, self.precondition, self.process, t)
        target = expand(a, data) * data + expand(b, data) * noise
        value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
        error = jnp.mean((value - target) ** 2, axis=tuple(range(1, data.ndim)))
        weight = self.weight(self.process, t, determinant((a, b), self.process.alpha(t), self.process.sigma(t)))
        return weight * error, {"lam": self.process.lam(t), "error": error}

    def denoiser(self, apply: Callable[..., Any], params: Any) -> Denoiser:
        """The denoiser that this objective trains."""
        return denoiser(
            apply,
            params,
            self.process,
            self.predicts,
            precondition=self.precondition,
            label=self.label,
            learned_variance=self.learned_variance,
        )


def training_mode(network: Any, key: PRNGKeyArray) -> Callable[..., Any]:
    """The network's `train` with its key, so that dropout is on; a plain apply function has no other mode."""
    train = getattr(network, "train", None)
    if train is None:
        return network
    return lambda params, x, label, cond: train(params, x, label, cond, key)
