"""Guidance: D_ref + w (D - D_ref), with the reference a null condition (CFG) or a weaker model (autoguidance)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gendyn.conditions import without
from gendyn.processes import Process
from gendyn.tree import expand, pytree, static


@pytree
class Guided:
    """A guided denoiser; made by `cfg` or `autoguidance`. Weight, interval, null and both models are leaves."""

    D: Any
    reference: Any
    null: Any
    weight: Any
    interval: Any
    process: Process | None = static(default=None)

    def __call__(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Float[Array, "batch *data"]:
        if self.interval is None:
            return self._guide(x, t, cond, self.weight)
        t = jnp.asarray(t)
        inside = self._inside(t)
        if t.ndim:
            return self._guide(x, t, cond, jnp.where(inside, self.weight, 1.0))
        return jax.lax.cond(inside, lambda: self._guide(x, t, cond, self.weight), lambda: self.D(x, t, cond))

    def _inside(self, t: Array) -> Array:
        """Whether low < sigma/alpha <= high, compared in lam."""
        assert self.process is not None
        low, high = (jnp.asarray(end, t.dtype) for end in self.interval)
        lam = self.process.lam(t)
        return (lam >= -jnp.log(high)) & (lam < -jnp.log(low))

    def encode(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Any:
        """Features of both branches, where the models come in two halves (see `samplers.run_reusing_encoder`)."""
        if self.reference is not None:
            return self.D.encode(x, t, cond), self.reference.encode(x, t, cond)
        return self.D.encode(*self._doubled(x, t, cond))

    def decode(
        self, encoded: Any, x: Float[Array, "batch *data"], t: Any, cond: Any = None
    ) -> Float[Array, "batch *data"]:
        """Guided from encoded features; outside the interval too both branches are decoded, and the weight is 1."""
        weight = self.weight if self.interval is None else jnp.where(self._inside(jnp.asarray(t)), self.weight, 1.0)
        if self.reference is not None:
            branches = self.D.decode(encoded[0], x, t, cond), self.reference.decode(encoded[1], x, t, cond)
        else:
            branches = _halves(self.D.decode(encoded, *self._doubled(x, t, cond)))
        return _mixed(*branches, weight)

    def _guide(self, x: Array, t: Any, cond: Any, weight: Any) -> Array:
        if self.reference is not None:
            return _mixed(self.D(x, t, cond), self.reference(x, t, cond), weight)
        return _mixed(*_halves(self.D(*self._doubled(x, t, cond))), weight)

    def _doubled(self, x: Array, t: Any, cond: Any) -> tuple[Array, Any, Any]:
        """The batch with its conditions, then again with null ones."""
        if cond is None:
            raise ValueError("classifier-free guidance needs cond= (for example the class of each sample); got None.")
        t = jnp.concatenate([t, t]) if jnp.ndim(t) else t
        told = jax.tree.map(lambda *c: jnp.concatenate(c), cond, without(cond, self.null))
        return jnp.concatenate([x, x]), t, told

    def singular(self, times: np.ndarray) -> np.ndarray:
        """Times at which one of the models cannot be turned into a denoised."""
        bad = np.zeros(np.shape(times), bool)
        for model in (self.D, self.reference):
            if hasattr(model, "singular"):
                bad |= model.singular(times)
        return bad


def _halves(both: Array) -> tuple[Array, Array]:
    positive, negative = jnp.split(both, 2)
    return positive, negative


def _mixed(positive: Array, negative: Array, weight: Any) -> Array:
    weight = expand(jnp.asarray(weight, positive.dtype), positive)
    return negative + weight * (positive - negative)


def cfg(
    D: Callable[..., Any],
    weight: Any = 2.0,
    null: Any = None,
    interval: tuple[Any, Any] | None = None,
    *,
    reference: Callable[..., Any] | None = None,
    process: Process | None = None,
) -> Guided:
    """Classifier-free guidance: D(x, null) + w (D(x, cond) - D(x, null)), both branches in one batch.

    Ho and Salimans 2022 (arXiv 2207.12598), in the convention where w = 1 is the conditional model alone and w = 0 the
    unconditional one. Counted as one network call.

    Args:
        D: conditional denoiser.
        weight: w, a number or one per sample, [batch].
        null: the condition that stands for none, shaped like one example's cond (for classes: `num_classes`; for named
            conditions `gd.networks.null`). A mapping may name some of them: the others are held in both branches.
        interval: guide only where low < sigma/alpha <= high (Kynkaanniemi et al. 2024, arXiv 2404.07724); outside it
            D alone is called, once.
        reference: a second denoiser instead of a null condition, see `autoguidance`.
        process: the path that turns t into sigma/alpha for `interval`; taken from D when it has one.

    Example:
        >>> import gendyn as gd, jax.numpy as jnp
        >>> D = lambda x, t, cond: jnp.broadcast_to(cond[:, None] * 1.0, x.shape)
        >>> float(gd.control.cfg(D, weight=3.0, null=0)(jnp.zeros((1, 1)), 1.0, jnp.array([2]))[0, 0])
        6.0
    """
    if (null is None) == (reference is None):
        raise ValueError("give null= (the condition that stands for none) or reference= (a second denoiser), not both.")
    process = process or getattr(D, "process", None)
    if interval is not None and process is None:
        raise ValueError("interval= is in noise levels sigma/alpha: pass process= so that times can be translated.")
    if interval is not None and not interval[0] < interval[1]:
        raise ValueError(f"interval= must be (low, high) with low < high; got {interval}.")
    models = [m if m is None or _is_tree(m) else jax.tree_util.Partial(m) for m in (D, reference)]
    return Guided(D=models[0], reference=models[1], null=null, weight=weight, interval=interval, process=process)


def autoguidance(
    D: Callable[..., Any],
    reference: Callable[..., Any],
    weight: Any = 2.0,
    interval: tuple[Any, Any] | None = None,
    *,
    process: Process | None = None,
) -> Guided:
    """Guide a model by a smaller or less trained version of itself: D_ref + w (D - D_ref), both with the same cond.

    Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself" (arXiv 2406.02507).
    """
    return cfg(D, weight, interval=interval, reference=reference, process=process)


def _is_tree(model: Any) -> bool:
    leaves = jax.tree.leaves(model)
    return not (len(leaves) == 1 and leaves[0] is model)
