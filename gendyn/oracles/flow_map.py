"""The exact flow map of Gaussian data: what a consistency function should be."""

from __future__ import annotations

from typing import Any

import jax

from gendyn.oracles.mixture import GaussianMixture
from gendyn.processes import Process
from gendyn.tree import expand, namespace


def consistency_function(mixture: GaussianMixture, process: Process, sigma_min: float = 0.0) -> jax.tree_util.Partial:
    """f(x, t, cond=None) for one Gaussian N(m, C): the end at sigma_min of the probability flow through (x, t).

        f = m + sqrt((C + sigma_min^2)/(C + s^2)) (x/alpha - m),    s = sigma/alpha,

    in the eigenbasis of C. Exact; x is [batch, d], t a scalar or [batch].

    >>> import numpy as np, gendyn as gd
    >>> gaussian = GaussianMixture([1.0], [[2.0]], [[3.0]])
    >>> f = consistency_function(gaussian, gd.processes.EDM())
    >>> f(np.array([[4.0]]), 1.0).round(3).tolist()
    [[3.732]]
    """
    if len(mixture.weights) != 1:
        raise ValueError(f"the flow map is closed for one Gaussian; this mixture has {len(mixture.weights)}.")
    return jax.tree_util.Partial(_jump, mixture, process, sigma_min)


def _jump(mixture: GaussianMixture, process: Process, sigma_min: Any, x: Any, t: Any, cond: Any = None) -> Any:
    xp = namespace(x, t)
    alpha, sigma = (expand(f(xp.asarray(t)), x) for f in (process.alpha, process.sigma))
    variance = mixture.eigenvalues
    scale = xp.sqrt((variance + sigma_min**2) / (variance + (sigma / alpha) ** 2))
    moved = mixture.rotate_back(scale[..., None, :] * mixture.rotate((x / alpha - mixture.means)[:, None, :]))
    return mixture.means + moved[:, 0]
