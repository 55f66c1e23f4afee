"""Interpolants between two Gaussian mixtures, exact.

With independent ends, components (i, j) have the joint mean a mu_i + b nu_j and covariance S = a^2 B_i + b^2 C_j +
gamma^2 I. With q = S^{-1}(x - mean) and g the posterior of (i, j),

    E[base | x] = sum g (mu_i + a B_i q),    E[data | x] = sum g (nu_j + b C_j q),
    eta = gamma sum g q,                     score = -sum g q.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from gendyn.oracles.mixture import GaussianMixture
from gendyn.processes.fields import Diffusion, Direction, Drift, Fields
from gendyn.processes.interpolants import Interpolant
from gendyn.tree import constant, expand, namespace


@constant
class TwoSided:
    """Exact fields of an interpolant from one mixture to another, drawn independently.

    Args:
        base, data: `GaussianMixture`s of one dimension; with gamma = 0 they need positive covariances.

    Example:
        >>> import gendyn as gd, numpy as np
        >>> ends = [gd.oracles.GaussianMixture([1.0], [[m]], [[1.0]]) for m in (-1.0, 1.0)]
        >>> exact = gd.oracles.TwoSided(base=ends[0], data=ends[1])
        >>> exact.fields(gd.processes.Interpolant())(np.zeros((1, 1)), 0.5).tolist()
        [[2.0]]
    """

    base: GaussianMixture
    data: GaussianMixture

    def __post_init__(self) -> None:
        if self.base.dim != self.data.dim:
            raise ValueError(f"both ends must have one dimension; got {self.base.dim} and {self.data.dim}.")

    def fields(self, process: Interpolant) -> Fields:
        """velocity and eta, as `Fields`: callable as the velocity, with .eta, .score and .drift(diffusion)."""
        return Fields(both=jax.tree_util.Partial(_both, self._ends(), process), process=process)

    def velocity(self, process: Interpolant) -> Fields:
        """The exact E[dx/dt | x]: the same object, callable as its velocity."""
        return self.fields(process)

    def drift(self, process: Interpolant, diffusion: Diffusion, direction: Direction = "forward") -> Drift:
        """The exact drift of the SDE of that diffusion."""
        return self.fields(process).drift(diffusion, direction)

    def means(self, process: Interpolant, x: Any, t: Any) -> tuple[Any, Any]:
        """(E[base | x], E[data | x])."""
        parts = _Parts(self._ends(), process, x, t)
        return parts.base, parts.data

    def score(self, process: Interpolant, x: Any, t: Any) -> Any:
        """grad log p_t(x), finite at the ends too."""
        return -_Parts(self._ends(), process, x, t).pull

    def log_prob(self, process: Interpolant, x: Any, t: Any) -> Any:
        """log p_t(x), [batch]."""
        return _Parts(self._ends(), process, x, t).log_prob

    def divergence(self, process: Interpolant, x: Any, t: Any) -> Any:
        """The exact trace of the velocity's Jacobian, [batch]."""
        return _Parts(self._ends(), process, x, t).divergence

    def _ends(self) -> tuple[Any, ...]:
        """(weights, means, covariances) of every pair of components, [K, ...]: leaves of the denoisers."""
        both = self.base, self.data
        pairs = [(i, j) for i in range(len(both[0].weights)) for j in range(len(both[1].weights))]
        first, second = np.array(pairs).T
        return (
            both[0].weights[first] * both[1].weights[second],
            both[0].means[first],
            both[1].means[second],
            both[0].covariances[first],
            both[1].covariances[second],
        )


class _Parts:
    """Posterior pieces at (x, t); axes are [batch, K, d]."""

    def __init__(self, ends: tuple[Any, ...], process: Interpolant, x: Any, t: Any):
        weights, mu, nu, B, C = ends
        self.xp = xp = namespace(x, t, weights)
        t = xp.broadcast_to(xp.asarray(t), x.shape[:1])
        self.process, self.t, self.ends = process, t, ends
        self.a, self.b, self.gamma = (expand(f(t), x[..., None]) for f in (process.a, process.b, process.gamma))
        a, b, gamma = self.a[..., None], self.b[..., None], self.gamma[..., None]
        S = a**2 * B + b**2 * C + gamma**2 * xp.eye(x.shape[1], dtype=x.dtype)
        delta = x[:, None] - self.a * mu - self.b * nu
        self.inverse = xp.linalg.inv(S)
        self.q = xp.einsum("bkij,bkj->bki", self.inverse, delta)
        log_joint = (
            xp.log(xp.asarray(weights))
            - 0.5 * xp.sum(delta * self.q, axis=-1)
            - 0.5 * (xp.linalg.slogdet(S)[1] + x.shape[1] * np.log(2 * np.pi))
        )
        top = log_joint.max(1, keepdims=True)
        unnormalised = xp.exp(log_joint - top)
        total = unnormalised.sum(1, keepdims=True)
        self.g = unnormalised / total
        self.log_prob = (top + xp.log(total))[:, 0]

    def mean(self, per_component: Any) -> Any:
        return self.xp.sum(self.g[..., None] * per_component, axis=1)

    @property
    def pull(self) -> Any:
        """sum g q = -score = eta/gamma, finite where gamma is zero."""
        return self.mean(self.q)

    @property
    def base_of_component(self) -> Any:
        _, mu, _, B, _ = self.ends
        return mu + self.a * self.xp.einsum("kij,bkj->bki", B, self.q)

    @property
    def data_of_component(self) -> Any:
        _, _, nu, _, C = self.ends
        return nu + self.b * self.xp.einsum("kij,bkj->bki", C, self.q)

    @property
    def base(self) -> Any:
        return self.mean(self.base_of_component)

    @property
    def data(self) -> Any:
        return self.mean(self.data_of_component)

    def rates(self) -> tuple[Any, Any, Any]:
        """(a', b', gamma gamma'), [batch, 1]."""
        process = self.process
        return tuple(f(self.t)[:, None] for f in (process.da, process.db, process.gamma_dgamma))  # type: ignore[return-value]

    @property
    def velocity(self) -> Any:
        """a' E[base] + b' E[data] + gamma' eta, the last as gamma gamma' (eta/gamma)."""
        da, db, product = self.rates()
        return da * self.base + db * self.data + product * self.pull

    @property
    def divergence(self) -> Any:
        """Each component's velocity is affine in x; weights change as d g/dx = g (pull - q)."""
        xp, (da, db, product) = self.xp, (rate[..., None] for rate in self.rates())
        _, _, _, B, C = self.ends
        velocity = da * self.base_of_component + db * self.data_of_component + product * self.q
        traces = (
            da[..., 0] * self.a[..., 0] * xp.einsum("kij,bkji->bk", B, self.inverse)
            + db[..., 0] * self.b[..., 0] * xp.einsum("kij,bkji->bk", C, self.inverse)
            + product[..., 0] * xp.einsum("bkii->bk", self.inverse)
        )
        turning = xp.sum(velocity * (self.pull[:, None] - self.q), axis=-1)
        return xp.sum(self.g * (traces + turning), axis=1)


def _both(ends: tuple[Any, ...], process: Interpolant, x: Any, t: Any, cond: Any = None) -> tuple[Any, Any]:
    parts = _Parts(ends, process, x, t)
    return parts.velocity, parts.gamma[:, :, 0] * parts.pull
