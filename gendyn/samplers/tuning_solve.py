"""How far a student is from its teacher, and two ways to bring it nearer: Levenberg-Marquardt, and Adam."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gendyn.samplers.plan import SamplerPlan
from gendyn.samplers.run import as_argument, run
from gendyn.samplers.tuning_free import Family
from gendyn.samplers.tuning_teacher import Pairs
from gendyn.tree import namespace

Features: TypeAlias = Callable[[Array], Array]
MOVED = ("t", "ex", "ec", "sx", "sm", "sc")  # the leaves of a triangle's plan that depend on what is tuned
TRIES = 16  # a step damped by 4^16 more is no step


class Distance(Protocol):
    """Between student and teacher, per example; `scale` is the typical error so far, the median of sqrt(measure)."""

    def measure(self, student: Any, target: Any) -> Any:
        """What is compared and reported, [batch]."""
        ...

    def penalty(self, measure: Any, scale: Any) -> Any:
        """What is minimised, a growing function of the measure, [batch]."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanSquare:
    """q = mean over elements of (f(student) - f(target))^2: dominated by the few starts near a boundary of basins.

    Attributes:
        features: f, for example a feature extractor (compiles again for every new function object); None compares the
            states themselves.
    """

    features: Features | None = None

    def residual(self, student: Any, target: Any) -> Any:
        f = self.features
        return student - target if f is None else f(student) - f(target)

    def measure(self, student: Any, target: Any) -> Any:
        return jnp.mean(self.residual(student, target).reshape(len(student), -1) ** 2, axis=1)

    def penalty(self, measure: Any, scale: Any) -> Any:
        return measure

    def weight(self, measure: Any, scale: Any) -> Any:
        """Derivative of the penalty."""
        return namespace(measure).ones_like(measure)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoHuber(MeanSquare):
    """2 c^2 (sqrt(1 + q/c^2) - 1), c the scale: squares of small errors, absolute values of large ones."""

    def penalty(self, measure: Any, scale: Any) -> Any:
        return 2 * measure / (1 + namespace(measure).sqrt(1 + measure / scale**2))

    def weight(self, measure: Any, scale: Any) -> Any:
        return 1 / namespace(measure).sqrt(1 + measure / scale**2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSquare(MeanSquare):
    """log q, the mean PSNR of Shaul et al. 2024 (arXiv 2403.01329); q is floored softly at (c/floor)^2."""

    floor: float = 10.0

    def penalty(self, measure: Any, scale: Any) -> Any:
        return namespace(measure).log(measure + (scale / self.floor) ** 2)

    def weight(self, measure: Any, scale: Any) -> Any:
        return 1 / (measure + (scale / self.floor) ** 2)


@dataclasses.dataclass(frozen=True)
class Given:
    """Any differentiable distance(student, target) -> [batch], as it is."""

    distance: Callable[[Any, Any], Any]

    def measure(self, student: Any, target: Any) -> Any:
        return self.distance(student, target)

    def penalty(self, measure: Any, scale: Any) -> Any:
        return measure


@partial(jax.jit, static_argnames="distance")
def _measures(plan: SamplerPlan, D: Any, pairs: Pairs, distance: Distance) -> Array:
    return distance.measure(run(plan, D, pairs.x_T, cond=pairs.cond), pairs.target)


@partial(jax.jit, static_argnames="distance")
def _jacobian(
    plan: SamplerPlan, tangents: Any, D: Any, pairs: Pairs, distance: MeanSquare
) -> tuple[Float[Array, "batch element"], Float[Array, "number batch element"]]:
    """Residuals, and their derivatives along each tangent of the plan, by forward mode: nothing is stored."""

    def residual(leaves: Any) -> Array:
        student = run(dataclasses.replace(plan, **leaves), D, pairs.x_T, cond=pairs.cond)
        return distance.residual(student, pairs.target).reshape(len(student), -1)

    leaves = _moved(plan)
    derivatives = jax.vmap(lambda tangent: jax.jvp(residual, (leaves,), (tangent,))[1])(tangents)
    return residual(leaves), derivatives


@partial(jax.jit, static_argnames="distance")
def _gradient(plan: SamplerPlan, D: Any, pairs: Pairs, scale: Any, distance: Distance) -> Any:
    """Of the mean penalty, to the moved leaves; D is evaluated again on the way back, to hold one call in memory."""
    D = jax.tree_util.Partial(jax.checkpoint(lambda D, x, t, cond: D(x, t, cond)), D)

    def loss(leaves: Any) -> Array:
        student = run(dataclasses.replace(plan, **leaves), D, pairs.x_T, cond=pairs.cond)
        return distance.penalty(distance.measure(student, pairs.target), scale).mean()

    return jax.grad(loss)(_moved(plan))


def _moved(plan: SamplerPlan) -> dict[str, Any]:
    return {name: jnp.asarray(getattr(plan, name)) for name in MOVED}


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """A small compiled function of numpy arrays, to numpy arrays, in the precision in which plans are made.

    In float32 the coefficients of a stiff plan, differences of large numbers, would lose their derivatives.
    """

    def precise(*arguments: Any) -> Any:
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, function(*arguments))

    return precise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A student to be brought near its teacher.

    Attributes:
        batch: pairs per compiled call.
        seed: of the order in which Adam sees the pairs.
    """

    family: Family
    D: Any
    pairs: Pairs
    distance: Any
    batch: int
    seed: int

    def measures(self, plan: SamplerPlan, pairs: Pairs) -> np.ndarray:
        """Of every pair, in float64."""
        plan, D = dataclasses.replace(plan, info=None), as_argument(self.D)
        parts = [_measures(plan, D, some, self.distance) for some in pairs.batches(self.batch)]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])

    @property
    def tangents(self) -> Callable[[np.ndarray], Any]:
        """Numbers -> derivatives of the plan's moved leaves to each of them, [size, *leaf], compiled once."""
        leaves = jax.jit(jax.jacfwd(lambda values: _moved(self.family.plan(values))))
        return in_float64(lambda values: jax.tree.map(lambda leaf: np.moveaxis(leaf, -1, 0), leaves(values)))

    @property
    def gradient(self) -> Callable[[np.ndarray, Pairs, float], np.ndarray]:
        """(numbers, pairs, scale) -> gradient of the mean penalty to the numbers, compiled once."""
        back = in_float64(jax.jit(lambda values, g: jax.vjp(lambda v: _moved(self.family.plan(v)), values)[1](g)[0]))

        def gradient(values: np.ndarray, pairs: Pairs, scale: float) -> np.ndarray:
            leaves = _gradient(self.family.plan(values), as_argument(self.D), pairs, scale, self.distance)
            return back(values, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), leaves))

        return gradient

    def normal_equations(
        self, plan: SamplerPlan, tangents: Any, weights: np.ndarray, most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(J' W J, J' W r), summed over pairs in float64."""
        D, done, size = as_argument(self.D), 0, self.family.size
        matrix, vector = np.zeros((size, size)), np.zeros(size)
        for some in self.pairs.batches(most):
            r, J = (np.asarray(a, np.float64) for a in _jacobian(plan, tangents, D, some, self.distance))
            w = weights[done : done + len(some)]
            weighted = (J * w[:, None]).reshape(size, -1)
            matrix, vector = matrix + weighted @ J.reshape(size, -1).T, vector + weighted @ r.ravel()
            done += len(some)
        return matrix, vector


def typical(measures: np.ndarray) -> float:
    """The scale of robust penalties: the median error."""
    return float(np.sqrt(np.median(np.abs(measures)))) or 1.0


class Optimizer(Protocol):
    """A stream of improving numbers."""

    def iterates(self, problem: Problem) -> Iterator[np.ndarray]:
        """Numbers worth measuring on held-out pairs, [size] each; the caller stops when it has seen enough."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevenbergMarquardt:
    """Damped Gauss-Newton on the robust penalty, by forward-mode Jacobians: for about two hundred numbers or fewer.

        (H + mu diag H) step = -g,        H = J' W J,        g = J' W r,        W the penalty's slopes.

    Marquardt 1963; a step is taken only if the training loss falls, mu then divided by 5, else multiplied by 4. W and
    the penalty's scale follow the errors as they shrink. An iteration costs as much as `size` forward passes.

    Attributes:
        iterations: at most.
        rescale: iterations between new scales.
        elements: bound on pairs x numbers x data elements of one compiled Jacobian.
    """

    iterations: int = 60
    rescale: int = 8
    elements: int = 2**21
    damping: float = 1e-2

    def iterates(self, problem: Problem) -> Iterator[np.ndarray]:
        family, distance, tangents = problem.family, problem.distance, problem.tangents
        values, damping, scale = np.zeros(family.size), self.damping, 1.0
        measures = problem.measures(family.plan(values), problem.pairs)
        most = max(1, self.elements // max(1, family.size * problem.pairs.x_T[0].size))
        for i in range(self.iterations):
            scale = typical(measures) if i % self.rescale == 0 else scale
            weights = distance.weight(measures, scale)
            normal = problem.normal_equations(family.plan(values), tangents(values), weights, most)
            found = self._descend(problem, values, normal, measures, scale, damping)
            if found is None:
                return
            values, measures, damping = found
            yield values

    def _descend(
        self,
        problem: Problem,
        values: np.ndarray,
        normal: tuple[np.ndarray, np.ndarray],
        measures: np.ndarray,
        scale: float,
        damping: float,
    ) -> tuple[np.ndarray, np.ndarray, float] | None:
        """The least damped step that lowers the penalty: (values, measures, next damping); None if there is none."""
        matrix, vector = normal
        if not np.isfinite(matrix).all():
            return None
        diagonal, loss = np.diag(matrix), problem.distance.penalty(measures, scale).mean()
        for mu in damping * 4.0 ** np.arange(TRIES):
            trial = values - np.linalg.lstsq(matrix + np.diag(mu * diagonal), vector)[0]
            with np.errstate(over="ignore", invalid="ignore"):  # a wild trial: refused on the next line
                found = problem.measures(problem.family.plan(trial), problem.pairs)
            if np.isfinite(found).all() and problem.distance.penalty(found, scale).mean() < loss:
                return trial, found, max(mu / 5, 1e-9)
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam:
    """Kingma and Ba 2015 (arXiv 1412.6980) with cosine decay: for any distance and any number of numbers.

    Reverse mode through the whole sampler, with D evaluated twice. The few numbers live on the host, in float64.

    Attributes:
        steps: in all.
        learning_rate: at the start.
        batch: pairs per step, drawn anew each time; None takes all of them.
        every: steps between iterates.
    """

    steps: int = 1000
    learning_rate: float = 0.02
    batch: int | None = None
    every: int = 25
    decay: tuple[float, float] = (0.9, 0.99)

    def iterates(self, problem: Problem) -> Iterator[np.ndarray]:
        random, values, scale = np.random.default_rng(problem.seed), np.zeros(problem.family.size), 1.0
        mean, square, slope = np.zeros_like(values), np.zeros_like(values), problem.gradient
        count = min(self.batch or len(problem.pairs), len(problem.pairs))
        for i in range(self.steps):
            if i % (10 * self.every) == 0:
                scale = typical(problem.measures(problem.family.plan(values), problem.pairs))
            some = problem.pairs.take(np.sort(random.permutation(len(problem.pairs))[:count]))
            gradient = slope(values, some, scale) / scale**2
            a, b = self.decay
            mean, square = a * mean + (1 - a) * gradient, b * square + (1 - b) * gradient**2
            rate = self.learning_rate * 0.5 * (1 + np.cos(np.pi * i / self.steps))
            step = mean / (1 - a ** (i + 1)) / (np.sqrt(square / (1 - b ** (i + 1))) + 1e-12)
            values = values - rate * step
            if (i + 1) % self.every == 0 or i + 1 == self.steps:
                yield values
