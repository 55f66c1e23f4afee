"""How finely a consistency objective cuts the noise levels, as a function of the training step.

A curriculum is an integer function N(k) of the step, tabulated once on the host as the steps at which it changes; the
compiled training step looks N up, so one program serves the whole run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gendyn.tree import constant, namespace


class Curriculum:
    """Mixin: N(k) from `counts`, evaluated on the host for k = 0 .. steps."""

    steps: int

    def counts(self, step: np.ndarray) -> np.ndarray:
        """N at these steps, on the host."""
        raise TypeError(f"{type(self).__name__} must define counts")

    def boundaries(self, step: Any) -> Any:
        """N(step), traced or not: the number of noise levels, N - 1 intervals."""
        xp, (starts, values) = namespace(step), _changes(self)
        return xp.asarray(values)[xp.searchsorted(xp.asarray(starts), step, side="right") - 1]


@lru_cache(maxsize=16)
def _changes(curriculum: Curriculum) -> tuple[np.ndarray, np.ndarray]:
    """The steps at which N changes, from 0, and its values from then on."""
    values = curriculum.counts(np.arange(curriculum.steps + 1)).astype(np.int32)
    starts = np.r_[0, np.flatnonzero(np.diff(values)) + 1].astype(np.int32)
    return starts, values[starts]


@constant
class Doubling(Curriculum):
    """N(k) = min(s0 2^floor(k/K'), s1) + 1, K' = floor(K/(log2 floor(s1/s0) + 1)): the iCT curriculum.

    Song and Dhariwal 2023, "Improved Techniques for Training Consistency Models" (arXiv 2310.14189).

    >>> [int(Doubling(steps=80).boundaries(k)) for k in (0, 9, 10, 79, 80)]
    [11, 11, 21, 1281, 1281]
    """

    steps: int
    s0: int = 10
    s1: int = 1280

    def __post_init__(self) -> None:
        _check(self.s0, self.s1, self.steps)

    @property
    def every(self) -> int:
        """Steps between doublings, K'."""
        return max(int(self.steps / (np.log2(self.s1 // self.s0) + 1)), 1)

    def counts(self, step: np.ndarray) -> np.ndarray:
        return np.minimum(self.s0 * 2.0 ** (step // self.every), self.s1) + 1


@constant
class SquareRoot(Curriculum):
    """N(k) = max(1, ceil(sqrt((k/K)((s1 + 1)^2 - s0^2) + s0^2) - 1)) + 1: the first consistency models' curriculum.

    Song et al. 2023, "Consistency Models" (arXiv 2303.01469).

    >>> [int(SquareRoot(steps=100).boundaries(k)) for k in (0, 50, 100)]
    [2, 107, 151]
    """

    steps: int
    s0: int = 2
    s1: int = 150

    def __post_init__(self) -> None:
        _check(self.s0, self.s1, self.steps)

    def counts(self, step: np.ndarray) -> np.ndarray:
        growth = step / self.steps * ((self.s1 + 1) ** 2 - self.s0**2)
        return np.maximum(np.ceil(np.sqrt(growth + self.s0**2) - 1), 1) + 1


@constant
class Fixed(Curriculum):
    """N(k) = n throughout, as in distillation.

    >>> int(Fixed(n=18).boundaries(1000))
    18
    """

    n: int = 18
    steps: int = 1

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"consistency needs at least two noise levels; got n = {self.n}.")

    def counts(self, step: np.ndarray) -> np.ndarray:
        return np.full(step.shape, self.n)


def _check(s0: int, s1: int, steps: int) -> None:
    if not (1 <= s0 <= s1 and steps >= 1):
        raise ValueError(f"a curriculum grows from s0 >= 1 to s1 >= s0 in steps >= 1; got {s0}, {s1}, {steps}.")
