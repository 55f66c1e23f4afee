"""Gaussian mixtures, for which every path has an exact denoiser, score and likelihood.

For data ~ sum_k w_k N(mu_k, C_k) and x = alpha data + sigma noise, with S_k = alpha^2 C_k + sigma^2 I,
q_k = S_k^{-1} (x - alpha mu_k) and g_k(x) the posterior probability of component k:

    log p_t = logsumexp_k [log w_k + log N(x; alpha mu_k, S_k)]
    denoised = sum_k g_k (mu_k + alpha C_k q_k),    eps = sigma sum_k g_k q_k,    score = -sum_k g_k q_k.

Point masses are C_k = 0. Noise that is a Gaussian of random scale (PFGM++) adds an integral over the scale, taken by
quadrature (`scale_mixture`): a component for every node, with noise sigma times the node's scale.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.oracles.scale_mixture import scales
from gendyn.processes import Process
from gendyn.tree import expand, namespace


class _Parts:
    """Posterior pieces of a mixture at (x, t): everything else is a sum over them.

    Axes are [batch, K, Q, d]: example, component, node of the noise's scale (one for Gaussian noise), coordinate.
    """

    def __init__(self, mixture: GaussianMixture, process: Process, x: Any, t: Any):
        xp = namespace(x, t, mixture.means)
        t = xp.broadcast_to(xp.asarray(t), x.shape[:1])
        self.xp, self.mixture = xp, mixture
        self.alpha, self.sigma = (expand(f(t), x[..., None]) for f in (process.alpha, process.sigma))
        self.dalpha, self.dsigma = (
            (lambda: expand(process.dalpha(t), x)),
            (lambda: expand(process.dsigma(t), x)),
        )
        # Eigenbasis of each C_k.
        delta = mixture.rotate(x[:, None, :] - self.alpha * mixture.means)
        signal = self.alpha**2 * mixture.eigenvalues
        scale, log_weight = scales(process.noise, signal * xp.ones_like(delta), delta, self.sigma)
        self.scale = scale[..., None]
        self.variance = signal[:, :, None] + (self.sigma[..., None] * self.scale) ** 2
        self.q = delta[:, :, None] / self.variance
        log_joint = (
            xp.log(mixture.weights)[:, None]
            + log_weight
            - 0.5 * xp.sum(delta[:, :, None] * self.q + xp.log(2 * np.pi * self.variance), axis=-1)
        )
        top = log_joint.max((1, 2), keepdims=True)
        unnormalised = xp.exp(log_joint - top)
        total = unnormalised.sum((1, 2), keepdims=True)
        self.responsibility = unnormalised / total
        self.log_prob = (top + xp.log(total))[:, 0, 0]

    def per_component(self, values: Any) -> Any:
        """The weighted sum over the scales of a component, [batch, K, ...]."""
        weights = self.responsibility.reshape(self.responsibility.shape + (1,) * (values.ndim - 3))
        return self.xp.sum(weights * values, axis=2)

    def turned(self, eigen: Any) -> Any:
        """Values [batch, K, Q, d] in each component's eigenbasis, back in the coordinates of x."""
        return self.mixture.rotate_back(eigen)

    @property
    def minus_score(self) -> Any:
        return self.turned(self.per_component(self.q)).sum(1)

    @property
    def denoised(self) -> Any:
        """E[data | x], with E[data | x, k, scale] = mu_k + alpha C_k q."""
        share = self.responsibility.sum(2)[..., None]
        pull = self.turned(self.per_component(self.alpha[..., None] * self.mixture.eigenvalues[:, None] * self.q))
        return (share * self.mixture.means + pull).sum(1)

    @property
    def noise(self) -> Any:
        """E[noise | x] = sigma E[scale^2 q]: sigma times minus the score for Gaussian noise, and only for that."""
        return self.sigma[..., 0] * self.turned(self.per_component(self.scale**2 * self.q)).sum(1)


@jax.tree_util.register_pytree_node_class
class GaussianMixture:
    """A mixture of Gaussians as data, exact under every path; under PFGM++ to the precision of a quadrature, 1e-12.

    Args:
        weights: [K], positive; normalised here.
        means: [K, d].
        covariances: [K, d] (variances of a diagonal covariance) or [K, d, d]; zero for point masses.

    Methods follow the array module and precision of x: numpy float64 in, numpy float64 out.

    Example:
        >>> import gendyn as gd, numpy as np
        >>> mixture = gd.oracles.GaussianMixture([1.0], [[2.0]], [[0.0]])
        >>> mixture.denoiser(gd.processes.EDM())(np.array([[5.0]]), 1.0).tolist()
        [[2.0]]
    """

    weights: Any
    means: Any
    eigenvalues: Any
    eigenvectors: Any

    def __init__(self, weights: Any, means: Any, covariances: Any):
        weights, means, covariances = (np.asarray(a, np.float64) for a in (weights, means, covariances))
        components, dim = means.shape
        if weights.shape != (components,) or covariances.shape not in {
            (components, dim),
            (components, dim, dim),
        }:
            raise ValueError(
                f"a mixture needs weights [K], means [K, d] and covariances [K, d] or [K, d, d]; got {weights.shape}, "
                f"{means.shape}, {covariances.shape}."
            )
        eigen = (covariances, None) if covariances.ndim == 2 else np.linalg.eigh(covariances)
        if not (weights > 0).all() or (eigen[0] < -1e-12 * np.abs(eigen[0]).max()).any():
            raise ValueError("a mixture needs positive weights and positive semi-definite covariances.")
        self.weights, self.means = weights / weights.sum(), means
        self.eigenvalues, self.eigenvectors = np.maximum(eigen[0], 0.0), eigen[1]

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        return (self.weights, self.means, self.eigenvalues, self.eigenvectors), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: Any) -> GaussianMixture:
        new = object.__new__(cls)
        new.weights, new.means, new.eigenvalues, new.eigenvectors = leaves
        return new

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    @property
    def covariances(self) -> Any:
        """[K, d, d]."""
        if self.eigenvectors is None:
            return self.eigenvalues[:, :, None] * np.eye(self.dim)
        return np.einsum("kij,kj,klj->kil", self.eigenvectors, self.eigenvalues, self.eigenvectors)

    def rotate(self, v: Any) -> Any:
        """Into each component's eigenbasis, [batch, K, d]."""
        if self.eigenvectors is None:
            return v
        return namespace(v, self.eigenvectors).einsum("bki,kij->bkj", v, self.eigenvectors)

    def rotate_back(self, v: Any) -> Any:
        """Out of each component's eigenbasis, [batch, K, d] or, for every node of a scale, [batch, K, Q, d]."""
        if self.eigenvectors is None:
            return v
        return namespace(v, self.eigenvectors).einsum("bk...j,kij->bk...i", v, self.eigenvectors)

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        """n exact draws of the data."""
        key_component, key_noise = jax.random.split(key)
        component = jax.random.choice(key_component, len(self.weights), (n,), p=jax.numpy.asarray(self.weights))
        spread = (
            jax.random.normal(key_noise, (n, self.dim)) * jax.numpy.sqrt(jax.numpy.asarray(self.eigenvalues))[component]
        )
        if self.eigenvectors is not None:
            spread = jax.numpy.einsum("nj,nij->ni", spread, jax.numpy.asarray(self.eigenvectors)[component])
        return jax.numpy.asarray(self.means)[component] + spread

    def denoiser(self, process: Process) -> jax.tree_util.Partial:
        """The exact D(x, t, cond=None) = E[data | x]; x is [batch, d], t a scalar or [batch]."""
        return jax.tree_util.Partial(_denoised, self, process)

    def score(self, process: Process) -> jax.tree_util.Partial:
        """The exact score(x, t, cond=None) = grad log p_t(x)."""
        return jax.tree_util.Partial(_score, self, process)

    def velocity(self, process: Process) -> jax.tree_util.Partial:
        """The exact probability-flow velocity(x, t, cond=None) = alpha' E[data | x] + sigma' E[noise | x]."""
        return jax.tree_util.Partial(_velocity, self, process)

    def divergence(self, process: Process) -> jax.tree_util.Partial:
        """The exact trace of the velocity's Jacobian, [batch]."""
        return jax.tree_util.Partial(_divergence, self, process)

    def log_prob(self, process: Process, x: Any, t: Any) -> Any:
        """log p_t(x), [batch]."""
        return _Parts(self, process, x, t).log_prob


def _denoised(mixture: GaussianMixture, process: Process, x: Any, t: Any, cond: Any = None) -> Any:
    return _Parts(mixture, process, x, t).denoised


def _score(mixture: GaussianMixture, process: Process, x: Any, t: Any, cond: Any = None) -> Any:
    return -_Parts(mixture, process, x, t).minus_score


def _velocity(mixture: GaussianMixture, process: Process, x: Any, t: Any, cond: Any = None) -> Any:
    parts = _Parts(mixture, process, x, t)
    return parts.dalpha() * parts.denoised + parts.dsigma() * parts.noise


def _divergence(mixture: GaussianMixture, process: Process, x: Any, t: Any, cond: Any = None) -> Any:
    """alpha' tr(d denoised/dx) + sigma' tr(d noise/dx), each from d g/dx = g (minus_score - q)."""
    parts = _Parts(mixture, process, x, t)
    xp, g, scale = parts.xp, parts.responsibility, parts.scale[..., 0]
    q = parts.turned(parts.q)
    pull = parts.turned(parts.alpha[..., None] * mixture.eigenvalues[:, None] * parts.q)
    gradient = parts.minus_score[:, None, None, :] - q
    gain = (parts.alpha[..., None] * mixture.eigenvalues[:, None] / parts.variance).sum(-1)
    means = mixture.means[:, None, :] + pull
    trace_denoised = (g * (gain + xp.sum(means * gradient, axis=-1))).sum((1, 2))
    inverse = (1 / parts.variance).sum(-1)
    trace_noise = parts.sigma[:, 0, 0] * (g * scale**2 * (inverse + xp.sum(q * gradient, axis=-1))).sum((1, 2))
    return parts.dalpha()[..., 0] * trace_denoised + parts.dsigma()[..., 0] * trace_noise
