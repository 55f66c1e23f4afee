"""Skip-Tuning: a trained U-Net whose skip connections count for less."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp


def skip_tuning(D: Any, scale: Any) -> Any:
    """The same denoiser with the features of its skip connections multiplied by rho before the decoder joins them.

        h <- block([h, rho_i skip_i]),        rho_i on the line from the bottom connection to the top one

    Nothing is trained. Ma et al. report better samples of few calls from smaller skip connections, and at the same time
    a larger denoising loss: choose rho by a measure of samples, not by the loss.

    Args:
        D: a denoiser of a network in two halves: one of `gd.denoiser` on UNet or EDMUNet. Guide afterwards:
            `cfg(skip_tuning(D, ...), ...)`.
        scale: rho: a number, (bottom, top) with a line between, ends included, or one number per connection from the
            bottom. 1 is D itself. A leaf: other values reuse compiled programs, and rho has a gradient.

    Returns:
        A denoiser of the same type, whose parameters are the pair (D.params, scale).

    Example:
        >>> import gendyn as gd, jax, jax.numpy as jnp
        >>> from functools import partial
        >>> make = partial(gd.networks.UNet, 1, 1, width=4, multipliers=(1,), blocks=1, attention=())
        >>> network, process = gd.networks.functional(make), gd.processes.EDM()
        >>> def tuned(params, x):
        ...     return skip_tuning(gd.denoiser(network.apply, params, process, "denoised"), (0.7, 1.0))(x, 0.5)
        >>> jax.eval_shape(tuned, jax.eval_shape(network.init, jax.random.key(0)), jnp.ones((2, 4, 1))).shape
        (2, 4, 1)

    Ma et al. 2024, "The Surprising Effectiveness of Skip-Tuning in Diffusion Sampling", arXiv:2402.15170.
    """
    if not hasattr(getattr(D, "apply", None), "decode"):
        raise ValueError(
            f"skip_tuning takes a denoiser of a network in two halves (gd.denoiser on UNet or EDMUNet); got "
            f"{type(D).__name__}. Guidance goes around it: cfg(skip_tuning(D, ...), ...)."
        )
    if isinstance(D.apply, SkipScaled):
        raise ValueError("this denoiser's skips are scaled already; call skip_tuning once, with the product.")
    return dataclasses.replace(D, params=(D.params, jnp.asarray(scale, jnp.float32)), apply=SkipScaled(D.apply))


@dataclasses.dataclass(frozen=True)
class SkipScaled:
    """apply((params, scale), ...) of a network in two halves; hashable, so that equal networks share programs."""

    apply: Callable[..., Any]

    def __call__(self, params: Any, x: Any, label: Any, cond: Any = None) -> Any:
        return self.decode(params, self.encode(params, x, label, cond), label, cond)

    def encode(self, params: Any, x: Any, label: Any, cond: Any = None) -> Any:
        """The network's own."""
        return self.apply.encode(params[0], x, label, cond)  # type: ignore[attr-defined]

    def decode(self, params: Any, encoded: Any, label: Any, cond: Any = None) -> Any:
        """With scaled connections."""
        own, scale = params
        return self.apply.decode(own, encoded, label, cond, skip_scale=scale)  # type: ignore[attr-defined]

    def tapped(self) -> SkipScaled:
        """The same, with the network's features by name."""
        return SkipScaled(self.apply.tapped())  # type: ignore[attr-defined]
