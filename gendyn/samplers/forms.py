"""Two exact ways to cross a step, and the rows of every solver built on them.

A step of the probability-flow ODE is a *carry* of the state plus a *gain* times an average of what the network says on
the way (variation of constants, lam = log(alpha/sigma), h = lam_e - lam_s):

    data form     x_e = (sigma_e/sigma_s) x_s + alpha_e (1 - e^{-h}) <D>,        average over e^{-(lam_e - lam)} dlam
    noise form    x_e = (alpha_e/alpha_s) x_s + alpha_e (rho_e - rho_s) <eps>,   average over d rho, rho = sigma/alpha.

Both are exact; freezing the average at its value at s gives DDIM in either. DPM-Solver, DPM-Solver++, UniPC, DEIS,
iPNDM, LMS and the Runge-Kutta rules in rho differ only in the weights, of sum one, by which they guess the average.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from gendyn.samplers.levels import Step
from gendyn.samplers.plan import Row
from gendyn.tree import namespace

Weights: TypeAlias = Sequence[Any]
"""Weights of remembered outputs, newest first, of sum one."""

Average: TypeAlias = Callable[[Sequence[Step]], Weights]
"""From the current step and the ones before it (newest first) to the weights of the outputs at their starts."""


@dataclasses.dataclass(frozen=True)
class Update:
    """x <- x_scale x + memory . history + constant, newest output first."""

    x_scale: Any = 1.0
    memory: Weights = ()
    constant: Any = 0.0

    def aged(self) -> Update:
        """The same update after one more output has entered the history."""
        return Update(self.x_scale, (0.0, *self.memory), self.constant)

    def then(self, later: Update) -> Update:
        """This update, followed by `later` on the same history."""
        size = max(len(self.memory), len(later.memory))
        first, second = ((*u.memory, *[0.0] * (size - len(u.memory))) for u in (self, later))
        memory = tuple(later.x_scale * a + b for a, b in zip(first, second, strict=True))
        return Update(later.x_scale * self.x_scale, memory, later.x_scale * self.constant + later.constant)


STAY = Update()


class Remembers(Protocol):
    """What is remembered."""

    def remember(self, alpha: Any, sigma: Any) -> dict[str, Any]:
        """(oy, om) of a row that evaluates at (alpha, sigma)."""
        ...


class Form(Remembers, Protocol):
    """What is remembered, and the exact step for a given average of it."""

    def z(self, step: Step) -> Any:
        """The average is over e^{z (1 - s)} ds, s the fraction of the step in lam."""
        ...

    def update(self, step: Step, weights: Weights) -> Update:
        """The step with the average of the remembered outputs taken by these weights."""
        ...


class DataForm:
    """Remembers D: Lu et al. 2022, "DPM-Solver++" (arXiv 2211.01095), eq. 8. Legal at alpha_s = 0 and sigma_e = 0."""

    def remember(self, alpha: Any, sigma: Any) -> dict[str, Any]:
        return {"oy": 0.0, "om": 1.0}

    def z(self, step: Step) -> Any:
        return -step.h

    def update(self, step: Step, weights: Weights) -> Update:
        gain = -step.alpha_e * namespace(step.h).expm1(-step.h)
        return Update(step.sigma_e / step.sigma_s, tuple(gain * v for v in weights))


class NoiseForm:
    """Remembers eps = (x - alpha D)/sigma: Lu et al. 2022, "DPM-Solver" (arXiv 2206.00927), eq. 3.4."""

    def remember(self, alpha: Any, sigma: Any) -> dict[str, Any]:
        return {"oy": 1.0 / sigma, "om": -alpha / sigma}

    def z(self, step: Step) -> Any:
        return step.h

    def update(self, step: Step, weights: Weights) -> Update:
        # alpha_e (rho_e - rho_s) without the difference; h is infinite at a clean end, where expm1(-h) = -1.
        gain = step.alpha_e * step.sigma_s / step.alpha_s * namespace(step.h).expm1(-step.h)
        return Update(step.alpha_e / step.alpha_s, tuple(gain * v for v in weights))


FORMS: dict[str, Form] = {"data": DataForm(), "noise": NoiseForm()}


def row(form: Remembers, step: Step, after: Update, before: Update = STAY) -> Row:
    """The row that calls the network where `step` starts: at before(x), leaving after(x)."""
    return Row(
        t=step.t_s,
        ex=before.x_scale,
        em=before.memory,
        ec=before.constant,
        sx=after.x_scale,
        sm=after.memory,
        sc=after.constant,
        clock=step.clock,
        **form.remember(step.alpha_s, step.sigma_s),
    )


def predicted_corrected(
    form: Remembers, taken: Sequence[Step], predict: Sequence[Update], correct: Sequence[Update]
) -> list[Row]:
    """One call per step: row i lands where step i starts, predicted to make the call, corrected with its output.

    The last step is not corrected: the last row goes on to the end.

    Args:
        predict: step i, from history that ends with the output at its start.
        correct: step i once more, with the output at its end as newest; `predict[i].aged()` leaves it as it was. That
            of
            the last step is not used.
    """
    before, after = [STAY, *predict[:-1]], [STAY, *correct[: len(taken) - 1]]
    after[-1] = after[-1].then(predict[-1])
    return [row(form, step, a, b) for step, a, b in zip(taken, after, before, strict=True)]


def multistep(form: Form, taken: Sequence[Step], orders: Sequence[int], average: Average) -> list[Row]:
    """One call per step; step i averages the outputs of its own start and of the orders[i] - 1 steps before it."""
    return [row(form, step, form.update(step, recent(taken, i, orders, average))) for i, step in enumerate(taken)]


def recent(taken: Sequence[Step], i: int, orders: Sequence[int], average: Average) -> Weights:
    """The weights of step i at its order; first order is the same in every rule."""
    return (1.0,) if orders[i] == 1 else average([taken[i - j] for j in range(orders[i])])


def staged(form: Form, step: Step, stages: Sequence[tuple[Step, Weights]], weights: Weights) -> list[Row]:
    """The rows of one singlestep or Runge-Kutta step: a call at its start, one per stage, x moved by the last.

    Args:
        stages: (sub-step from the start to the stage, weights of the outputs so far).
        weights: those of the whole step. All newest first.
    """
    end = dataclasses.replace(step, clock=(step.clock[1], step.clock[1]))
    calls = [(step, STAY)]
    for part, stage_weights in stages:
        start = dataclasses.replace(end, t_s=part.t_e, alpha_s=part.alpha_e, sigma_s=part.sigma_e)
        calls.append((start, form.update(part, stage_weights)))
    afters = [STAY] * len(stages) + [form.update(step, weights)]
    return [row(form, start, after, before) for (start, before), after in zip(calls, afters, strict=True)]
