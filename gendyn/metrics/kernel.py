"""Maximum mean discrepancy: the distance between mean embeddings under a Gaussian kernel of several widths."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num

from gendyn.metrics.measure import Array, Features, Measure, embed, squared_distances

OCTAVES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of the kernel as multiples of the median distance within the reference."""


def mmd(
    samples: Num[Array, "n *data"],
    reference: Num[Array, "m *data"],
    *,
    features: Features | None = None,
    bandwidths: Sequence[float] | None = None,
) -> Measure:
    """Squared maximum mean discrepancy, unbiased (Gretton et al. 2012, JMLR 13:723, equation 3).

        MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)
        k(x, y) = mean_h exp(-|x - y|^2 / (2 h^2))

    Bandwidths h, in units of the features: those given, or `median_bandwidths(reference)`, which do not look at the
    samples. The expectation is exactly 0 when both sets come from one distribution; the estimate scatters around it
    and is often negative there. It is at most 2, reached by two points far apart, each repeated.

    Cost: O((n + m)^2 d) time, a thousand rows of the kernel matrix in memory.

    >>> print(mmd(np.zeros((4, 2)), np.full((5, 2), 100.0), bandwidths=[1.0]))
    mmd2 = 2 (n=4 against 5, features: coordinates, bandwidths: [1.0])
    """
    a, b, name = embed(samples, reference, features)
    if min(len(a), len(b)) < 2:
        raise ValueError(
            f"mmd compares pairs within each set, so it needs 2 examples of each, got {len(a)} and {len(b)}."
        )
    widths = median_bandwidths(b) if bandwidths is None else tuple(bandwidths)
    value = _within(a, widths) + _within(b, widths) - 2.0 * _total(a, b, widths) / (len(a) * len(b))
    return Measure(
        name="mmd2",
        value=value,
        n=len(a),
        reference_n=len(b),
        features=name,
        centred=True,
        settings={"bandwidths": [float(f"{h:.4g}") for h in widths]},
    )


def median_bandwidths(reference: Float[np.ndarray, "m d"], limit: int = 1000) -> tuple[float, ...]:
    """The bandwidth rule: 1/4, 1/2, 1, 2 and 4 times the median distance between reference examples.

    The median is over all pairs of at most `limit` examples, evenly spaced, so that a set sorted by class is
    represented and no random number is needed.

    >>> median_bandwidths(np.array([[0.0], [3.0]]))
    (0.75, 1.5, 3.0, 6.0, 12.0)
    """
    few = reference[np.linspace(0, len(reference) - 1, min(limit, len(reference))).astype(int)]
    median = float(np.sqrt(np.median(squared_distances(few, few)[np.triu_indices(len(few), 1)])))
    if median == 0.0:
        raise ValueError(
            "the median distance between reference examples is 0 (most of them are equal), so there is no natural "
            "bandwidth; pass bandwidths=."
        )
    return tuple(scale * median for scale in OCTAVES)


def _within(a: Float[np.ndarray, "n d"], widths: Sequence[float]) -> float:
    """Mean kernel over pairs of different examples of one set; k(x, x) = 1 is subtracted from the full sum."""
    return (_total(a, a, widths) - len(a)) / (len(a) * (len(a) - 1))


def _total(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], widths: Sequence[float], rows: int = 1000
) -> float:
    blocks = (squared_distances(a[start : start + rows], b) for start in range(0, len(a), rows))
    return float(sum(np.exp(block / (-2.0 * h**2)).sum() for block in blocks for h in widths) / len(widths))
