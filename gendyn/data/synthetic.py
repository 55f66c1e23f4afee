"""Two-dimensional sets: small enough to look at, each with something that a model can get wrong.

Every set is a *skeleton* plus Gaussian blur, brought back to the scale of the skeleton:

    x = (skeleton + noise * z) / sqrt(1 + noise^2),        z ~ N(0, I)

Skeletons have E x = 0 and E |x|^2 = 2 in closed form, so these hold in law and not merely for one sample,
and one noise schedule suits all sets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from gendyn.data.sources import Arrays, arrays

Points = Float[np.ndarray, "n 2"]
Labels = Int[np.ndarray, " n"]
Skeleton = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray | None]]


def checkerboard(rng: np.random.Generator, n: int) -> tuple[Points, Labels]:
    """Uniform on the dark squares of a 4x4 board: sharp edges, flat density; the label is the square."""
    square = rng.integers(8, size=n)
    row, column = square // 2, 2 * (square % 2) + (square // 2) % 2
    corner = np.stack([column, row], axis=1) - 2.0
    return (corner + rng.random((n, 2))) * np.sqrt(3 / 4), square  # uniform on [-2, 2]: variance 4/3


def gaussians8(rng: np.random.Generator, n: int) -> tuple[Points, Labels]:
    """Eight points on a circle of radius sqrt(2), which the blur makes Gaussians; the label is the mode."""
    mode = rng.integers(8, size=n)
    return np.sqrt(2) * _on_circle(2 * np.pi * mode / 8), mode


def moons(rng: np.random.Generator, n: int) -> tuple[Points, Labels]:
    """Two interleaved half circles, each coordinate standardised; the label is the moon."""
    moon = rng.integers(2, size=n)
    arc = _on_circle(np.pi * rng.random(n))
    points = np.where(moon[:, None], [1.0, 0.5] - arc, arc)
    return (points - [0.5, 0.25]) / np.sqrt([3 / 4, 9 / 16 - 1 / np.pi]), moon


def swiss_roll(rng: np.random.Generator, n: int) -> tuple[Points, None]:
    """One spiral arm of one and a half turns, radius = angle from 3 pi / 2 to 9 pi / 2. No labels."""
    angle = np.pi * (1.5 + 3 * rng.random(n))
    mean = np.array([2.0, 2 / (3 * np.pi)])  # of angle * (cos, sin); the mean square radius is 9.75 pi^2
    points = angle[:, None] * _on_circle(angle) - mean
    return points / np.sqrt((9.75 * np.pi**2 - mean @ mean) / 2), None


def spirals(rng: np.random.Generator, n: int) -> tuple[Points, Labels]:
    """Two spiral arms of one and a half turns, radius = angle = 3 pi sqrt(u); the label is the arm."""
    arm = rng.integers(2, size=n)
    angle = 3 * np.pi * np.sqrt(rng.random(n))
    return (angle * (1 - 2 * arm))[:, None] * _on_circle(angle) * 2 / (3 * np.pi), arm


def pinwheel(rng: np.random.Generator, n: int) -> tuple[Points, Labels]:
    """Five Gaussian blades, 0.3 long and 0.1 wide at radius 1, sheared by the angle exp(radius) / 4; the
    label is the blade (Johnson et al. 2016, arXiv:1603.06277)."""
    blade = rng.integers(5, size=n)
    along, across = 1 + 0.3 * rng.standard_normal(n), 0.1 * rng.standard_normal(n)
    angle = 2 * np.pi * blade / 5 + np.exp(along) / 4
    points = along[:, None] * _on_circle(angle) + across[:, None] * _on_circle(angle + np.pi / 2)
    return points * np.sqrt(2 / 1.1), blade  # mean square radius 1 + 0.3^2 + 0.1^2


def rings(rng: np.random.Generator, n: int) -> tuple[Points, Labels]:
    """Two concentric circles, the outer twice as wide; the label is the ring, the inner one 0."""
    ring = rng.integers(2, size=n)
    return np.sqrt(4 / 5) * (1 + ring)[:, None] * _on_circle(2 * np.pi * rng.random(n)), ring


# name: (skeleton, number of its parts, usual blur in units of the skeleton's standard deviation)
SHAPES: dict[str, tuple[Skeleton, int | None, float]] = {
    "checkerboard": (checkerboard, 8, 0.0),
    "gaussians8": (gaussians8, 8, 0.1),
    "moons": (moons, 2, 0.1),
    "pinwheel": (pinwheel, 5, 0.0),
    "rings": (rings, 2, 0.05),
    "spirals": (spirals, 2, 0.05),
    "swiss_roll": (swiss_roll, None, 0.05),
}


def synthetic2d(name: str = "checkerboard", n: int = 50_000, seed: int = 0, noise: float | None = None) -> Arrays:
    """n points of the named set of the plane, [2], with labels where the set has parts (all but swiss_roll).

    Another seed is another, independent sample: use one for training and one for testing. `noise` replaces
    the set's usual blur. With blur s, "gaussians8" is exactly the mixture of eight equal Gaussians with
    means on the circle of radius sqrt(2 / (1 + s^2)) and standard deviation s / sqrt(1 + s^2).

    >>> source = synthetic2d("moons", n=100, seed=0)
    >>> source.shape, source.num_classes
    ((2,), 2)
    """
    if name not in SHAPES:
        raise ValueError(f"no two-dimensional set {name!r}, choose one of {sorted(SHAPES)}")
    skeleton, parts, usual = SHAPES[name]
    blur = usual if noise is None else noise
    rng = np.random.default_rng(seed)
    points, labels = skeleton(rng, n)
    points = (points + blur * rng.standard_normal((n, 2))) / np.sqrt(1 + blur**2)
    return arrays(points, labels, num_classes=parts)


def _on_circle(angle: Float[np.ndarray, " n"]) -> Points:
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)
