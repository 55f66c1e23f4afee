"""What kernels and gradients look like, layer by layer: numbers that should not depend on the width under muP."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import jax
import jax.numpy as jnp

from gendyn.parametrization.table import ParamTable
from gendyn.tree import paths


@dataclass(frozen=True)
class Spectrum:
    """Of a kernel [fan_in, fan_out]: its largest singular value, and that over sqrt(fan_out/fan_in).

    `relative` is the operator norm from root mean square to root mean square: Theta(1) at every width under muP, of
    kernels and of their updates (Yang et al. 2023, arXiv:2310.17813).
    """

    top: float
    relative: float


def singular_values(params: Any) -> dict[str, Spectrum]:
    """Path -> the top of every kernel's spectrum; the last axis of a kernel is its fan-out (the house layout).

    Example:
        >>> singular_values({"kernel": 3.0 * jnp.eye(4), "bias": jnp.ones(4)})
        {'kernel': Spectrum(top=3.0, relative=3.0)}
    """
    found = {}
    for path, leaf in paths(params):
        if leaf.ndim > 1:
            kernel = jnp.reshape(leaf, (-1, leaf.shape[-1]))
            top = float(jnp.linalg.norm(kernel.astype(jnp.float32), ord=2))
            found[path] = Spectrum(top, top / sqrt(kernel.shape[1] / kernel.shape[0]))
    return found


def gradients_over_eps(gradients: Any, table: ParamTable | None = None, eps: float = 1e-8) -> dict[str, float]:
    """Path -> root mean square of a gradient over the eps that Adam adds to it: below about ten, eps slows the layer.

    Args:
        table: its eps multipliers, as `gendyn.parametrization.optimizer` applies them; under muP the ratios then do not
            depend on the width.

    Example:
        >>> gradients_over_eps({"kernel": jnp.full((2, 2), 1e-6)}, eps=1e-8)["kernel"] > 99
        True
    """
    floors = jax.tree.map(lambda _: 1.0, gradients) if table is None else table.tree("eps", gradients)
    of_path = dict(paths(floors))
    return {path: float(jnp.sqrt(jnp.mean(g**2))) / (eps * of_path[path]) for path, g in paths(gradients)}
