"""Consistency objectives: a jump from a noisier point must land where the jump from a cleaner one does.

    loss = w d(f(x_hi, sigma_hi), stop_gradient f(x_lo, sigma_lo)),    w = 1/(sigma_hi - sigma_lo),

with sigma_lo < sigma_hi neighbours on a grid that is refined while training, and x_lo, x_hi on one trajectory. How x_lo
is found is all that tells training (the same data and noise at both levels) from distillation (one solver step of a
teacher). Both calls use the current weights and one dropout key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.special import ndtr as host_ndtr

from gendyn.objectives.consistency_function import Boundary, ConsistencyFunction
from gendyn.objectives.curricula import Curriculum, Fixed
from gendyn.objectives.denoising import training_mode
from gendyn.objectives.dropping import Drop, check_drop, dropped
from gendyn.predictions import log_noise
from gendyn.processes import Process
from gendyn.tree import constant, expand, namespace, pytree, static


@constant
class Levels:
    """N noise levels sigma/alpha, ascending, equally spaced in sigma^(1/rho), and how often each interval is trained:

        p_i proportional to Phi((log sigma_{i+1} - mean)/std) - Phi((log sigma_i - mean)/std),

    Song and Dhariwal 2023 (arXiv 2310.14189). An interval is drawn as the one into which a truncated log-normal level
    falls, so nothing of the size of N is ever allocated and N may be traced.
    """

    sigma_min: float
    sigma_max: float
    rho: float = 7.0
    mean: float = -1.1
    std: float = 2.0

    def sigma(self, index: Any, n: Any) -> Any:
        """Level number `index`, 0 .. n - 1, of n."""
        low, high = self._ends
        return (low + index / (n - 1) * (high - low)) ** self.rho

    @property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def _standard(self, sigma: Any) -> Any:
        return (namespace(sigma).log(sigma) - self.mean) / self.std

    def probabilities(self, n: int) -> np.ndarray:
        """p_i of the n - 1 intervals, on the host."""
        mass = np.diff(host_ndtr(self._standard(self.sigma(np.arange(n), n))))
        return mass / mass.sum()

    def interval(self, u: Any, n: Any) -> Any:
        """The interval 0 .. n - 2 for u uniform on (0, 1): the inverse of the cumulated p."""
        low, high = (float(host_ndtr(self._standard(np.float64(s)))) for s in (self.sigma_min, self.sigma_max))
        sigma = jnp.exp(self.mean + self.std * ndtri(low + u * (high - low)))
        first, last = self._ends
        index = jnp.floor((sigma ** (1 / self.rho) - first) / (last - first) * (n - 1)).astype(jnp.int32)
        return jnp.clip(index, 0, n - 2)


def pseudo_huber(a: Float[Array, "batch *data"], b: Float[Array, "batch *data"], c: Any) -> Float[Array, " batch"]:
    """sqrt(|a - b|^2 + c^2) - c over the whole example, as q/(sqrt(q + c^2) + c), which does not cancel.

    >>> pseudo_huber(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2)), 0.0).tolist()
    [5.0]
    """
    q = jnp.sum((a - b) ** 2, axis=tuple(range(1, a.ndim)))
    return q / (jnp.sqrt(q + c**2) + c)


@pytree
class _Consistency:
    """What both objectives share: levels, curriculum, distance, weight, conditions."""

    process: Process = static()
    curriculum: Curriculum = static()
    sigma_data: float = static(default=0.5)
    rho: float = static(default=7.0)
    mean: float = static(default=-1.1)
    std: float = static(default=2.0)
    huber: float = static(default=0.00054)
    label: Callable[[Process, Any], Any] = static(default=log_noise)
    drop: Drop = static(default=0.0)
    null: Any = static(default=None)

    needs = ("step",)

    def __post_init__(self) -> None:
        if not self.process.gaussian_noise:
            raise ValueError(f"consistency models need Gaussian noise, which {self.process} does not have.")
        check_drop(self.drop, self.null)

    @property
    def levels(self) -> Levels:
        """Noise levels sigma/alpha over the process's sampling interval."""
        with np.errstate(divide="ignore"):
            high, low = (float(np.exp(-self.process.lam(np.float64(t)))) for t in self.process.interval)
        if not 0 < low < high < np.inf:
            raise ValueError(
                f"consistency needs a sampling interval inside the clock, with some noise and some signal at its ends; "
                f"{self.process} has sigma/alpha from {low:g} to {high:g}."
            )
        return Levels(sigma_min=low, sigma_max=high, rho=self.rho, mean=self.mean, std=self.std)

    def denoiser(self, apply: Callable[..., Any], params: Any) -> ConsistencyFunction:
        """The consistency function that is trained."""
        boundary = Boundary(sigma_min=self.levels.sigma_min, sigma_data=self.sigma_data)
        return ConsistencyFunction(
            params=params, apply=apply, process=self.process, boundary=boundary, label=self.label
        )

    def __call__(
        self,
        network: Any,
        params: Any,
        key: PRNGKeyArray,
        data: Float[Array, "batch *data"],
        cond: Any = None,
        *,
        step: Any,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        key_level, key_noise, key_drop, key_network = jax.random.split(key, 4)
        levels, n, size = self.levels, self.curriculum.boundaries(step), data.shape[0]
        u = (jnp.arange(size) + jax.random.uniform(key_level)) / size  # stratified, as in noise_levels
        index = levels.interval(jnp.clip(u, 1e-7, 1 - 1e-7), n)
        low, high = levels.sigma(index, n), levels.sigma(index + 1, n)
        t_low, t_high = (self.process.t_of_lam(-jnp.log(sigma)) for sigma in (low, high))
        noise = self.process.draw_noise(key_noise, data.shape, data.dtype)
        cond = dropped(key_drop, cond, size, self.drop, self.null)
        x = self.process.state(data, noise, t_high)
        cleaner = jax.lax.stop_gradient(self._cleaner(x, t_high, t_low, data, noise, cond))
        f = self.denoiser(training_mode(network, key_network), params)
        target = jax.lax.stop_gradient(f(cleaner, t_low, cond))
        distance = pseudo_huber(f(x, t_high, cond), target, self.huber * np.sqrt(np.prod(data.shape[1:])))
        return distance / (high - low), {"lam": -jnp.log(high), "error": distance}

    def _cleaner(self, x: Array, t_high: Array, t_low: Array, data: Array, noise: Array, cond: Any) -> Array:
        """The state at t_low on the trajectory through x at t_high."""
        raise NotImplementedError


@pytree
class ConsistencyTraining(_Consistency):
    """Consistency training: x_lo and x_hi have the same data and the same noise; no teacher and no teacher's average.

    Song and Dhariwal 2023, "Improved Techniques for Training Consistency Models" (arXiv 2310.14189): pseudo-Huber
    distance on whole examples, weight 1/(sigma_hi - sigma_lo), log-normal intervals, current weights as the target.
    Callable as loss(network, params, key, data, cond, step=k) -> (per_example, aux). Two network calls, one of them
    differentiated.

    Args:
        process: a Gaussian path; the ends of its sampling interval are the ends of the levels.
        curriculum: `curricula.Doubling(steps=)` (iCT), `curricula.SquareRoot(steps=)` (the first consistency models).
        sigma_data: of the boundary-exact parametrisation.
        rho, mean, std: spacing of the levels and density of the intervals.
        huber: c of the pseudo-Huber distance, in units of the square root of the dimension.
        drop, null: label dropout, as in `Denoising`.

    Example:
        >>> import gendyn as gd, jax, jax.numpy as jnp
        >>> curriculum = gd.objectives.curricula.Doubling(steps=100)
        >>> loss = ConsistencyTraining(process=gd.processes.EDM(), curriculum=curriculum)
        >>> network = lambda params, x, label, cond: params * x
        >>> loss(network, jnp.float32(0), jax.random.key(0), jnp.zeros((4, 2)), None, step=0)[0].shape
        (4,)
    """

    def _cleaner(self, x: Array, t_high: Array, t_low: Array, data: Array, noise: Array, cond: Any) -> Array:
        return self.process.state(data, noise, t_low)


@pytree
class ConsistencyDistillation(_Consistency):
    """Consistency distillation: x_lo is one solver step of a teacher from x_hi.

    Song et al. 2023, "Consistency Models" (arXiv 2303.01469), section 4, with the distance and weight of
    `ConsistencyTraining`. The teacher is a leaf: the training step takes its weights as arguments.

    Args:
        teacher: denoiser of the same process, a pytree callable (`gd.load(run).denoiser`, guided or not); None where
            a run is only to be sampled.
        solver: "heun" (two teacher calls) or "ddim" (one).
    """

    teacher: Any = None
    solver: str = static(default="heun")
    curriculum: Curriculum = static(default=Fixed())

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}; got {self.solver!r}.")
        theirs, t = getattr(self.teacher, "process", None), np.linspace(*self.process.interval, 5)
        if theirs is not None and not np.allclose(
            [theirs.alpha(t), theirs.sigma(t)], [self.process.alpha(t), self.process.sigma(t)]
        ):
            raise ValueError(f"the teacher was trained on {theirs}, another path than {self.process}.")

    def _cleaner(self, x: Array, t_high: Array, t_low: Array, data: Array, noise: Array, cond: Any) -> Array:
        if self.teacher is None:
            raise ValueError("distillation needs its teacher to train: pass teacher=gd.load(run).denoiser.")

        def slope(y: Array, t: Array) -> Array:
            """dy/dsigma of the probability flow in y = x/alpha."""
            alpha, sigma = (expand(f(t), y) for f in (self.process.alpha, self.process.sigma))
            return (y - self.teacher(alpha * y, t, cond)) * alpha / sigma

        high, low = (expand(self.process.sigma(t) / self.process.alpha(t), x) for t in (t_high, t_low))
        y = x / expand(self.process.alpha(t_high), x)
        moved = SOLVERS[self.solver](slope, y, t_high, t_low, low - high)
        return expand(self.process.alpha(t_low), x) * moved


def _ddim(slope: Callable[..., Array], y: Array, t_high: Array, t_low: Array, dt: Array) -> Array:
    return y + dt * slope(y, t_high)


def _heun(slope: Callable[..., Array], y: Array, t_high: Array, t_low: Array, dt: Array) -> Array:
    first = slope(y, t_high)
    return y + 0.5 * dt * (first + slope(y + dt * first, t_low))


SOLVERS: dict[str, Callable[..., Array]] = {"heun": _heun, "ddim": _ddim}
