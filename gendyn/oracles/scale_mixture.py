"""Heavy-tailed noise as Gaussian noise of random scale, integrated by quadrature.

With noise z = n/sqrt(G) and data of one Gaussian component, p(x) is the integral over u = log G of the mixing density
times N(x; alpha mu, alpha^2 C + sigma^2 e^{-u} I). The trapezoidal rule converges exponentially for such an integrand
once it covers it; where it lies depends on x, so nodes are placed for every example and component: from the noise's own
bracket, narrowed down to where the integrand is within `NATS` of its peak.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gendyn.processes.noise import NATS, Noise
from gendyn.tree import namespace

NODES = 193
SEARCH = 33
ROUNDS = 6
"""Each round of the search narrows an interval down to the part that holds the peak, at most 16 times."""


def scales(noise: Noise, signal: Any, delta: Any, sigma: Any) -> tuple[Any, Any]:
    """Nodes of the standard deviation 1/sqrt(G), and their log-weights, for each example and component.

    Args:
        signal: alpha^2 times the eigenvalues of C, [batch, K, d].
        delta: x - alpha mu in the eigenbasis, [batch, K, d].
        sigma: [batch, 1, 1].

    Returns:
        (scale, log_weight), [batch, K, Q] each: p(x) is the sum over Q of e^{log_weight} times the Gaussian density
        with noise sigma scale. Gaussian noise has one node, 1 with log-weight 0.
    """
    xp = namespace(delta)
    if noise.gaussian:
        one = xp.ones_like(delta[..., :1])
        return one, 0 * one
    dim = delta.shape[-1]

    def log_integrand(u: Any) -> Any:
        """[batch, K, Q], up to a constant."""
        variance = signal[..., None, :] + (sigma**2)[..., None] * xp.exp(-u)[..., None]
        quadratic = delta[..., None, :] ** 2 / variance + xp.log(variance)
        return noise.log_mixing(u) - 0.5 * xp.sum(quadratic, axis=-1)

    low, high = (
        xp.broadcast_to(end, delta.shape[:2]) for end in noise.bracket(xp.sum(delta**2, -1) / sigma[..., 0] ** 2, dim)
    )
    for _ in range(ROUNDS):
        low, high = _narrowed(xp, log_integrand, low, high)
    u, step = _nodes(xp, low, high, NODES)
    return xp.exp(-0.5 * u), noise.log_mixing(u) + xp.log(step) - _log_mass(noise)


def _nodes(xp: Any, low: Any, high: Any, count: int) -> tuple[Any, Any]:
    step = (high - low)[..., None] / (count - 1)
    return low[..., None] + step * xp.arange(count), step


def _narrowed(xp: Any, log_integrand: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """The smallest interval between search nodes outside which all of them are NATS below the largest."""
    u, step = _nodes(xp, low, high, SEARCH)
    value = log_integrand(u)
    kept = value > value.max(-1, keepdims=True) - NATS
    first = xp.argmax(kept, axis=-1)
    last = SEARCH - 1 - xp.argmax(kept[..., ::-1], axis=-1)
    origin, step = low, step[..., 0]
    return origin + step * xp.maximum(first - 1, 0), origin + step * xp.minimum(last + 1, SEARCH - 1)


def _log_mass(noise: Noise) -> float:
    """log of the integral of e^{log_mixing}, which is known up to a constant: by the same rule, without data."""
    low, high = (float(end) for end in noise.bracket(np.zeros(()), 0))
    u = np.linspace(low, high, 200_001)
    values = noise.log_mixing(u)
    for _ in range(ROUNDS):
        inside = u[values > values.max() - NATS]
        u = np.linspace(inside[0] - (u[1] - u[0]), inside[-1] + (u[1] - u[0]), 20_001)
        values = noise.log_mixing(u)
    return float(np.log(np.trapezoid(np.exp(values), u)))
