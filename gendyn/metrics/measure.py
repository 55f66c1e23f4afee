"""What every metric takes and returns: named features in, a `Measure` that states its own conditions out."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Num

Array = np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """One number and the conditions without which it means nothing.

    Attributes:
        name: what was measured.
        value: the number.
        n: how many examples were measured.
        reference_n: against how many.
        features: name of the space in which they were compared.
        centred: whether the expectation is 0 for two sets of one distribution (an unbiased estimate), so that a
            ratio to another such number says nothing.
        settings: whatever else changes the number.

    >>> print(Measure(name="frechet", value=0.123, n=360, reference_n=1437, features="pixels"))
    frechet = 0.123 (n=360 against 1437, features: pixels)
    """

    name: str
    value: float
    n: int
    reference_n: int
    features: str
    centred: bool = False
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        settings = "".join(f", {key}: {value}" for key, value in self.settings.items())
        conditions = f"n={self.n} against {self.reference_n}, features: {self.features}{settings}"
        return f"{self.name} = {self.value:.4g} ({conditions})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """A named map from examples [n, *data] to vectors [n, d]: the space in which sets are compared.

    `apply` may be any pure function, such as a jitted network; it is called on blocks of at most a thousand examples.

    >>> rows = Features(name="row means", apply=lambda images: images.mean(axis=2))
    >>> rows(np.ones((5, 8, 8))).shape
    (5, 8)
    """

    name: str
    apply: Callable[[Array], Array]

    def __call__(self, data: Num[Array, "n *data"]) -> Float[np.ndarray, "n d"]:
        """All feature vectors, float64, [n, d]."""
        return np.concatenate(list(self.blocks(data)))

    def blocks(self, data: Num[Array, "n *data"], size: int = 1000) -> Iterator[Float[np.ndarray, "block d"]]:
        """The same, a block at a time, for sets whose features do not fit in memory.

        Raises:
            ValueError: if there is nothing to measure, or a value is not finite.
        """
        if len(data) == 0:
            raise ValueError("a metric needs at least one example, got an empty array; ask for more samples.")
        for start in range(0, len(data), size):
            yield _finite(flat(self.apply(data[start : start + size])), f"features {self.name!r}", start)


def flat(data: Num[Array, "n *data"]) -> Float[np.ndarray, "n d"]:
    """Examples as rows of a float64 matrix on the host.

    >>> flat(np.zeros((3, 8, 8, 1))).shape
    (3, 64)
    """
    return np.asarray(data).reshape(len(data), math.prod(data.shape[1:])).astype(np.float64)


PIXELS = Features(name="pixels", apply=flat)
COORDINATES = Features(name="coordinates", apply=flat)


def plain(data: Num[Array, "n *data"]) -> Features:
    """The raw values as features, named for what they are: coordinates of vectors, pixels of anything larger."""
    return COORDINATES if data.ndim <= 2 else PIXELS


def embed(
    samples: Num[Array, "n *data"], reference: Num[Array, "m *data"], features: Features | None
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"], str]:
    """Feature vectors of both sets, and the name of the features (raw values if None).

    Raises:
        ValueError: if the examples of the two sets differ in shape, or are not finite.
    """
    same_shape(samples, reference)
    features = plain(reference) if features is None else features
    return features(samples), features(reference), features.name


def same_shape(samples: Num[Array, "n *data"], reference: Num[Array, "m *data"]) -> None:
    """Refuse to compare examples of different shapes."""
    if samples.shape[1:] != reference.shape[1:]:
        raise ValueError(
            f"a metric compares examples of one shape, got {list(samples.shape[1:])} against "
            f"{list(reference.shape[1:])}; resize or decode one of the two sets first."
        )


def squared_distances(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """All |a_i - b_j|^2 through one matrix product; absolute error about 1e-16 (|a_i|^2 + |b_j|^2)."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    return np.maximum(squares, 0.0)


def _finite(vectors: Float[np.ndarray, "n d"], where: str, start: int) -> Float[np.ndarray, "n d"]:
    broken = ~np.isfinite(vectors).all(1)
    if broken.any():
        raise ValueError(
            f"{broken.sum()} of the {len(vectors)} examples from number {start} on are not finite in {where} (first: "
            f"number {start + broken.argmax()}); a sampler diverged or training broke, so look at those samples first."
        )
    return vectors
