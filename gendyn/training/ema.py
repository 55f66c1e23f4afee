"""Exponential moving averages with power-function profiles, and any other length after the fact.

    theta_g(t) = (g + 1)/t^{g+1} int_0^t tau^g theta(tau) dtau

keeps a constant *relative* width, std = sqrt((g + 1)/((g + 2)^2 (g + 3))) of the run so far: Karras et al. 2024,
"Analyzing and Improving the Training Dynamics of Diffusion Models" (EDM2, arXiv 2312.02696), section 3.1 and
appendix C. Two tracked profiles, stored now and then, span every other by least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WIDEST = float(np.sqrt(1 / 12))  # exponent 0: the plain average of the run


def exponent(std: float) -> float:
    """The exponent g of relative width `std`: the largest root of g^3 + 7 g^2 + (16 - std^-2) g + (12 - std^-2).

    >>> round(exponent(0.05), 2), round(exponent(0.10), 2)
    (16.97, 6.94)
    """
    if not 0 < std <= WIDEST:
        raise ValueError(f"an EMA width is a fraction of the run between 0 and {WIDEST:.3f}; got {std}.")
    inverse = float(std) ** -2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return max(float(roots.real[np.abs(roots.imag) < 1e-8].max()), 0.0)


def start(params: Any, stds: Sequence[float]) -> tuple[Any, ...]:
    """One float32 copy of the parameters per profile: an average starts at the parameters, not at zero."""
    return tuple(jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params) for _ in stds)


def update(ema: tuple[Any, ...], params: Any, step: Any, stds: Sequence[float]) -> tuple[Any, ...]:
    """After optimiser step number `step` (from 1): theta_g <- theta_g + (1 - (1 - 1/step)^{g+1}) (theta - theta_g).

    The gain through expm1 and log1p: in float32, 1 - 1/step alone is off by 3% of 1/step at a million steps.
    """

    def blend(average: Any, std: float) -> Any:
        gain = -jnp.expm1((exponent(std) + 1.0) * jnp.log1p(-1.0 / step))
        return jax.tree.map(lambda a, p: a + gain * (p.astype(jnp.float32) - a), average, params)

    return tuple(blend(average, std) for average, std in zip(ema, stds, strict=True))


def _inner(t_a: np.ndarray, g_a: np.ndarray, t_b: np.ndarray, g_b: np.ndarray) -> np.ndarray:
    """Inner products of two families of profiles, int p_a(tau) p_b(tau) dtau."""
    t_a, g_a, t_b, g_b = t_a[:, None], g_a[:, None], t_b[None], g_b[None]
    ratio = (t_a / t_b) ** np.where(t_a < t_b, g_b, -g_a)
    return (g_a + 1) * (g_b + 1) * ratio / ((g_a + g_b + 1) * np.maximum(t_a, t_b))


def combination(steps: Sequence[float], stds: Sequence[float], target_step: float, target_std: float) -> np.ndarray:
    """Weights with which stored averages best make the profile (target_step, target_std); they sum to one.

    Least squares between profiles, in float64; snapshot i is the average of width stds[i] taken at steps[i]. Negative
    weights are normal.
    """
    t, g = np.asarray(steps, np.float64), np.array([exponent(s) for s in stds])
    target = np.array([target_step], np.float64), np.array([exponent(target_std)])
    weights = np.linalg.lstsq(_inner(t, g, t, g), _inner(t, g, *target)[:, 0], rcond=1e-13)[0]
    return weights / weights.sum()


def mix(trees: Sequence[Any], weights: Any) -> Any:
    """The weighted sum of trees, accumulated in float64 on the host."""

    def leaf(*leaves: Any) -> np.ndarray:
        total = np.zeros(np.shape(leaves[0]))
        for weight, x in zip(weights, leaves, strict=True):
            total += weight * np.asarray(x, np.float64)
        return total.astype(np.float32)

    return jax.tree.map(leaf, *trees)
