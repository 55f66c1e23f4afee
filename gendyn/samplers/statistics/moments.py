"""Running moments of (x/alpha, D, D'), in float64 on the host, from which l, s and b follow.

With y = x/alpha and rho = sigma/alpha, both f and f' = df/dlam along the flow are linear in y, D and D' = dD/dlam:

    f = (1 - l) y - D,        f' = -l' y - (1 - l)(y - D) - D'              (dy/dlam = -rho eps = -(y - D)),

so their regression needs nothing but the means and covariances of those three. One pass over the samples therefore
serves l, its derivative and the regression; and moments of two sets of samples add up to those of their union.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gendyn.processes import Process
from gendyn.samplers.statistics.tables import Origin, Statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """Sufficient statistics of `count` samples at one node of lam.

    Attributes:
        eps: of the arithmetic in which D was evaluated.
        jacobian: mean of alpha diag(dD/dx), [*data].
        mean: of (y, D, D'), [3, *data]. scatter: sum of their centred products, [3, 3, *data].
    """

    count: int
    eps: float
    jacobian: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, values: Float[np.ndarray, "3 batch *data"], jacobian: Float[np.ndarray, "batch *data"]) -> Moments:
        """Of the samples of one batch."""
        eps, values = float(np.finfo(values.dtype).eps), np.asarray(values, np.float64)
        mean = values.mean(1)
        centred = values - mean[:, None]
        return cls(
            count=values.shape[1],
            eps=eps,
            jacobian=np.asarray(jacobian, np.float64).mean(0),
            mean=mean,
            scatter=np.einsum("ik...,jk...->ij...", centred, centred),
        )

    def merge(self, other: Moments) -> Moments:
        """Of both sets of samples, without cancellation: Chan, Golub and LeVeque 1983, eq. 1.5."""
        count = self.count + other.count
        part = other.count / count
        shift = other.mean - self.mean
        return Moments(
            count=count,
            eps=max(self.eps, other.eps),
            jacobian=self.jacobian + part * (other.jacobian - self.jacobian),
            mean=self.mean + part * shift,
            scatter=self.scatter + other.scatter + self.count * part * shift[:, None] * shift,
        )


def statistics_of(
    nodes: Sequence[Moments],
    lam: Float[np.ndarray, " nodes"],
    process: Process | None = None,
    origin: Origin | None = None,
) -> Statistics:
    """l, s and b from the moments at every node: Zheng et al. 2023 (arXiv 2310.13268), eq. 11 and appendix C.

    l = 1 - E[alpha diag(dD/dx)] is sigma E[diag(d eps/dx)]; dl/dlam is by second-order differences on the nodes.
    Where f does not vary over the samples (data that is one Gaussian), s = 0 and b = E f'.
    """
    if len(nodes) < 3:
        raise ValueError(f"the derivative of l needs at least 3 nodes of lam; got {len(nodes)}.")
    l = 1 - np.stack([node.jacobian for node in nodes])
    slope = np.gradient(l, lam, axis=0, edge_order=2)
    mean = np.stack([node.mean for node in nodes])
    covariance = np.stack([node.scatter / node.count for node in nodes])
    f = np.stack([1 - l, -np.ones_like(l), np.zeros_like(l)], axis=1)
    df = np.stack([-slope - (1 - l), 1 - l, -np.ones_like(l)], axis=1)
    variance = np.einsum("ni...,nij...,nj...->n...", f, covariance, f)
    covaries = np.einsum("ni...,nij...,nj...->n...", f, covariance, df)
    power = mean**2 + np.einsum("nii...->ni...", covariance)
    varies = variance > _rounding(nodes[0].eps) * np.einsum("ni...,ni...->n...", f**2, power)
    s = np.where(varies, covaries / np.where(varies, variance, 1.0), 0.0)
    b = np.einsum("ni...,ni...->n...", df - s[:, None] * f, mean)
    return Statistics(lam=np.asarray(lam, np.float64), l=l, s=s, b=b, process=process, origin=origin)


def _rounding(eps: float) -> float:
    """Variance that rounding alone gives a difference of terms of unit size: of D, and of the sums in float64."""
    return max((8 * eps) ** 2, 1e-14)
