"""Which hyperparameters a sweep tries: a point is a dict of numbers by name."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Point = Mapping[str, Any]


def grid(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination.

    >>> grid(learning_rate=[0.1, 0.2], b2=[0.99])
    [{'learning_rate': 0.1, 'b2': 0.99}, {'learning_rate': 0.2, 'b2': 0.99}]
    """
    return [dict(zip(values, point)) for point in itertools.product(*values.values())]


def random_search(num: int, seed: int = 0, **ranges: tuple[float, float]) -> list[dict[str, float]]:
    """`num` points, each number log-uniform between its two ends, which are positive.

    >>> [point] = random_search(1, learning_rate=(1e-3, 1e-1))
    >>> 1e-3 <= point["learning_rate"] <= 1e-1
    True
    """
    for name, (low, high) in ranges.items():
        if not 0 < low < high:
            raise ValueError(f"{name} is drawn between two positive ends, the smaller first; got {low} and {high}.")
    drawn = np.random.default_rng(seed).random((num, len(ranges)))
    return [
        {name: float(low * (high / low) ** u) for (name, (low, high)), u in zip(ranges.items(), row)} for row in drawn
    ]


def check_positive(points: Sequence[Point]) -> None:
    """Refuse what has no logarithm: the best values of two sizes are compared by their ratio.

    Raises:
        ValueError: a hyperparameter that is a word, zero or negative.
    """
    for point in points:
        for name, value in point.items():
            if isinstance(value, bool | str) or not value > 0:
                raise ValueError(
                    f"a swept hyperparameter is a positive number; got {name} = {value!r}. Begin at a small number "
                    "instead of zero, and sweep once for each word."
                )


def is_grid(points: Sequence[Point]) -> bool:
    """Whether every combination of the values that occur is there."""
    each = {name: {point[name] for point in points} for name in points[0]}
    return len({tuple(point.items()) for point in points}) == int(np.prod([len(values) for values in each.values()]))
