"""Memorisation: are samples nearer to the training set than unseen real examples are?"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num

from gendyn.metrics.measure import Array, flat, same_shape, squared_distances

TAIL = 0.05
"""The share of real test examples that counts as near, and so the share to expect of honest samples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memorization:
    """Distances to the nearest training example, of samples and of the real test split.

    Attributes:
        median, mean: of the samples' distances.
        test_median, test_mean: the same for the test split.
        near_share: share of samples nearer than the nearest 5 % of the test split. Expect 0.05; the ratio of medians
            does not see a few copies among many samples, this does.
        n, test_n, train_n: sizes of the three sets.
    """

    median: float
    mean: float
    test_median: float
    test_mean: float
    near_share: float
    n: int
    test_n: int
    train_n: int

    @property
    def ratio(self) -> float:
        """Median distance of samples over that of the test split; 1 for new data of the same kind, 0 for copies."""
        return self.median / self.test_median if self.test_median else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**dataclasses.asdict(self), "ratio": self.ratio}

    def __str__(self) -> str:
        return (
            f"nearest training example: median {self.median:.4g} (n={self.n}), real test split {self.test_median:.4g} "
            f"(n={self.test_n}), ratio {self.ratio:.3g}; {self.near_share:.1%} of samples are nearer than the nearest "
            f"{TAIL:.0%} of the test split (against {self.train_n} training examples, Euclidean)"
        )


def compare_nearest(
    samples: Num[Array, "n *data"], test: Num[Array, "m *data"], train: Num[Array, "k *data"]
) -> Memorization:
    """Nearest training distance of samples beside that of real unseen examples (Euclidean, raw values).

    Each distance belongs to one example, so n and the size of the test split may differ without bias.

    >>> rng = np.random.default_rng(0)
    >>> train, test = rng.standard_normal((2, 50, 3))
    >>> compare_nearest(train, test, train).ratio
    0.0
    """
    ours, real = nearest_distance(samples, train), nearest_distance(test, train)
    return Memorization(
        median=float(np.median(ours)),
        mean=float(ours.mean()),
        test_median=float(np.median(real)),
        test_mean=float(real.mean()),
        near_share=float((ours < np.quantile(real, TAIL)).mean()),
        n=len(ours),
        test_n=len(real),
        train_n=len(train),
    )


def nearest_distance(samples: Num[Array, "n *data"], train: Num[Array, "m *data"]) -> Float[np.ndarray, "n"]:
    """Euclidean distance of each sample to its nearest training example; exactly 0 for a copy.

    >>> nearest_distance(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [9.0, 9.0]])).tolist()
    [5.0]
    """
    return nearest(samples, train)[0]


def nearest(
    samples: Num[Array, "n *data"], train: Num[Array, "m *data"], *, rows: int = 512
) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Distance and index of the nearest training example. Time O(n m d), memory `rows` times m.

    The index is found with one matrix product per block; the distance is then taken from the difference itself, so
    that cancellation does not blur the distances that matter most, those near 0.
    """
    same_shape(samples, train)
    a, b = flat(samples), flat(train)
    index = np.concatenate([squared_distances(a[i : i + rows], b).argmin(1) for i in range(0, len(a), rows)])
    return np.linalg.norm(a - b[index], axis=1), index
