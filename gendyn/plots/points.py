"""Figures of two-dimensional data: samples beside the reference, and the paths that led to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray | jax.Array
Points = Float[Array, "_ 2"]


def scatter(samples: Points, reference: Points | None = None) -> Figure:
    """Samples as dots, next to the reference if there is one; both panels show the same region.

    >>> len(scatter(np.zeros((5, 2)), np.ones((9, 2))).axes)
    2
    """
    sets = _named(samples, reference)
    figure, axes = _panels(sets)
    for ax, points in zip(axes, sets.values()):
        ax.scatter(points[:, 0], points[:, 1], s=4, alpha=0.4, linewidths=0)
    return figure


def density(samples: Points, reference: Points | None = None, *, bins: int = 80) -> Figure:
    """Histograms of samples and reference over the same region, with one common colour scale of density."""
    sets = _named(samples, reference)
    figure, axes = _panels(sets)
    across, up = axes[0].get_xlim(), axes[0].get_ylim()
    counts = [_histogram(points, bins, [across, up]) for points in sets.values()]
    top = max(float(c.max()) for c in counts)
    for ax, c in zip(axes, counts):
        image = ax.imshow(c.T, origin="lower", extent=(*across, *up), vmin=0.0, vmax=top, aspect="equal")
    figure.colorbar(image, ax=axes, label="density", shrink=0.8)
    return figure


def trajectories(paths: Float[Array, "rows n 2"], reference: Points | None = None, *, shown: int = 100) -> Figure:
    """The way of at most `shown` samples through the states of a sampler, from noise (hollow) to data (filled).

    `paths` is [rows, n, 2], such as the states that `run(..., observe=lambda row, x, denoised: x)` returns.
    """
    lines = np.asarray(paths, np.float64)
    if lines.ndim != 3 or lines.shape[-1] != 2 or not lines.size:
        raise ValueError(f"trajectories needs states [rows, n, 2], got shape {list(lines.shape)}.")
    count = lines.shape[1]
    lines = lines[:, :shown]
    sets = {"trajectories": lines.reshape(-1, 2)}
    figure, (ax,) = _panels(sets)
    ax.set_title(f"{lines.shape[1]} of {count} samples, {len(lines)} states each")
    if reference is not None:
        real = _points(reference, "reference")
        ax.scatter(real[:, 0], real[:, 1], s=3, color="0.8", linewidths=0)
    ax.plot(lines[..., 0], lines[..., 1], color="tab:blue", linewidth=0.6, alpha=0.5)
    start, end = lines[0], lines[-1]
    ax.scatter(start[:, 0], start[:, 1], s=8, facecolors="none", edgecolors="0.4", linewidths=0.6, zorder=3)
    ax.scatter(end[:, 0], end[:, 1], s=8, color="tab:red", linewidths=0, zorder=3)
    return figure


def _named(samples: Points, reference: Points | None) -> dict[str, np.ndarray]:
    sets = {"samples": _points(samples, "samples")}
    return sets if reference is None else {**sets, "reference": _points(reference, "reference")}


def _points(points: Points, what: str) -> np.ndarray:
    values = np.asarray(points, np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or not len(values):
        raise ValueError(f"the {what} must be points [n, 2], got shape {list(values.shape)}; choose two columns.")
    return values


def _histogram(points: np.ndarray, bins: int, region: list[tuple[float, float]]) -> np.ndarray:
    """Points per unit area over all points, also those outside, so that losing some shows as a paler picture."""
    area = np.prod([(high - low) / bins for low, high in region])
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=bins, range=region)
    return counts / (len(points) * area)


def _panels(sets: dict[str, np.ndarray]) -> tuple[Figure, list[Axes]]:
    """One square panel for each set, all with the region of the last one, the reference where there is one.

    A few samples that flew off must not shrink the picture to a dot: what lies outside is counted in the title.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(sets), 4.2), layout="constrained")
    axes = list(figure.subplots(1, len(sets), squeeze=False)[0])
    low, high = _region(list(sets.values())[-1])
    for ax, (name, points) in zip(axes, sets.items()):
        outside = int((~((points >= low) & (points <= high)).all(1)).sum())
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        ax.set_title(f"{name} (n={len(points)}" + (f", {outside} outside)" if outside else ")"))
    return figure, axes


def _region(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A square around the finite points, 15 % wider than they are."""
    finite = points[np.isfinite(points).all(1)]
    if not len(finite):
        raise ValueError("there is no finite point to draw; the sampler diverged.")
    low, high = finite.min(0), finite.max(0)
    half = max(float((high - low).max()) * 0.575, 1e-3)
    return (low + high) / 2 - half, (low + high) / 2 + half
