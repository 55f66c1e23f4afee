"""Gaussian mixtures, for which every Gaussian path has a closed-form denoiser, score and likelihood.

For data ~ sum_k w_k N(mu_k, C_k) and x = alpha data + sigma noise, with S_k = alpha^2 C_k + sigma^2 I,
q_k = S_k^{-1} (x - alpha mu_k) and g_k(x) the posterior probability of component k:

    log p_t = logsumexp_k [log w_k + log N(x; alpha mu_k, S_k)]
    denoised = sum_k g_k (mu_k + alpha C_k q_k),    eps = sigma sum_k g_k q_k,    score = -sum_k g_k q_k.

Point masses are C_k = 0. Every other part of gendyn is tested against these.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.processes import Process
from gendyn.tree import expand, namespace


class _Parts:
    """Posterior pieces of a mixture at (x, t): everything else is a sum over them."""

    def __init__(self, mixture: GaussianMixture, process: Process, x: Any, t: Any):
        xp = namespace(x, t, mixture.means)
        t = xp.broadcast_to(xp.asarray(t), x.shape[:1])
        self.xp, self.mixture = xp, mixture
        self.alpha, self.sigma = (expand(f(t), x[..., None]) for f in (process.alpha, process.sigma))
        self.dalpha, self.dsigma = (
            (lambda: expand(process.dalpha(t), x)),
            (lambda: expand(process.dsigma(t), x)),
        )
        # Eigenbasis of each C_k: [batch, K, d] throughout.
        self.delta = mixture.rotate(x[:, None, :] - self.alpha * mixture.means)
        self.variance = self.alpha**2 * mixture.eigenvalues + self.sigma**2
        self.q = self.delta / self.variance
        log_joint = xp.log(mixture.weights) - 0.5 * xp.sum(
            self.delta * self.q + xp.log(2 * np.pi * self.variance), axis=-1
        )
        top = log_joint.max(-1, keepdims=True)
        unnormalised = xp.exp(log_joint - top)
        total = unnormalised.sum(-1, keepdims=True)
        self.responsibility = unnormalised / total
        self.log_prob = (top + xp.log(total))[:, 0]

    def mix(self, per_component: Any) -> Any:
        return self.xp.sum(self.responsibility[..., None] * per_component, axis=1)

    @property
    def component_mean(self) -> Any:
        """E[data | x, k] = mu_k + alpha C_k q_k, [batch, K, d]."""
        return self.mixture.means + self.mixture.rotate_back(self.alpha * self.mixture.eigenvalues * self.q)

    @property
    def minus_score(self) -> Any:
        return self.mix(self.mixture.rotate_back(self.q))

    @property
    def denoised(self) -> Any:
        return self.mix(self.component_mean)


@jax.tree_util.register_pytree_node_class
class GaussianMixture:
    """A mixture of Gaussians as data, exact under every Gaussian path.

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

    def rotate(self, v: Any) -> Any:
        """Into each component's eigenbasis, [batch, K, d]."""
        if self.eigenvectors is None:
            return v
        return namespace(v, self.eigenvectors).einsum("bki,kij->bkj", v, self.eigenvectors)

    def rotate_back(self, v: Any) -> Any:
        if self.eigenvectors is None:
            return v
        return namespace(v, self.eigenvectors).einsum("bkj,kij->bki", v, self.eigenvectors)

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
        """The exact probability-flow velocity(x, t, cond=None) = alpha' denoised + sigma' eps."""
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
    return parts.dalpha() * parts.denoised + parts.dsigma() * parts.sigma[..., 0] * parts.minus_score


def _divergence(mixture: GaussianMixture, process: Process, x: Any, t: Any, cond: Any = None) -> Any:
    """alpha' tr(d denoised/dx) + sigma' tr(d eps/dx), each from d g_k/dx = g_k (minus_score - q_k)."""
    parts = _Parts(mixture, process, x, t)
    xp, g = parts.xp, parts.responsibility
    q, means = mixture.rotate_back(parts.q), parts.component_mean
    gradient = parts.minus_score[:, None, :] - q
    gain = parts.alpha * (mixture.eigenvalues / parts.variance).sum(-1, keepdims=True)
    trace_denoised = xp.sum(g * (gain[..., 0] + xp.sum(means * gradient, axis=-1)), axis=1)
    inverse = (1 / parts.variance).sum(-1)
    trace_eps = parts.sigma[:, 0, 0] * xp.sum(g * (inverse + xp.sum(q * gradient, axis=-1)), axis=1)
    return parts.dalpha()[..., 0] * trace_denoised + parts.dsigma()[..., 0] * trace_eps
