"""A few mixtures with names, for studies that need no trained model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gendyn.oracles.mixture import GaussianMixture


def two() -> GaussianMixture:
    """Two components of unequal weight and width on the line."""
    return GaussianMixture([0.3, 0.7], [[-1.0], [1.0]], [[0.04], [0.25]])


def ring() -> GaussianMixture:
    """Seven narrow components of unequal weight and width on a circle of radius 1.2."""
    angles = 2 * np.pi * np.arange(7) / 7
    means = 1.2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    widths = 0.08 + 0.04 * (np.arange(7) % 2)
    return GaussianMixture(1.0 + np.arange(7) % 3, means, np.repeat(widths[:, None] ** 2, 2, axis=1))


def scattered(seed: int = 0) -> GaussianMixture:
    """Six components in sixteen dimensions, their widths drawn per coordinate between 0.05 and 0.4."""
    rng = np.random.default_rng(seed)
    return GaussianMixture(rng.uniform(0.5, 1.5, 6), rng.normal(0, 0.6, (6, 16)), rng.uniform(0.05, 0.4, (6, 16)) ** 2)


EXAMPLES: dict[str, Callable[[], GaussianMixture]] = {"two": two, "ring": ring, "scattered": scattered}
"""Name -> mixture: what `gendyn study oracle:NAME` accepts."""
