"""The reverse-time SDEs of a Gaussian path, and exponential integrators for them.

The marginals of a path are shared by a family of SDEs that run from noise to data, one for each noise level eta >= 0
(0 is the probability flow, 1 the time reversal of the forward process). With lam = log(alpha/sigma), rho = sigma/alpha,

    d(x/sigma) = ((1 + eta) e^{lam} D - eta x/sigma) dlam + sqrt(2 eta) dW       data form
    d(x/alpha) = -(1 + eta) rho eps dlam + sqrt(2 eta) rho dW                    noise form

on every process alike. On the process's own clock these are dx = (f x - (1 + kappa^2)/2 g^2 score) dt + kappa g dW with
eta = kappa^2. What is linear is solved exactly, as in `gendyn.samplers.forms`, and the noise of a step with it:

    x_e = (sigma_e/sigma_s) e^{-eta h} x_s + alpha_e (1 - e^{-(1 + eta) h}) <D> + sigma_e sqrt(1 - e^{-2 eta h}) z
    x_e = (alpha_e/alpha_s) x_s + (1 + eta) alpha_e (rho_e - rho_s) <eps> + alpha_e sqrt(eta (rho_s^2 - rho_e^2)) z

In data form x/sigma is an Ornstein-Uhlenbeck process on the clock eta lam (a Brownian motion run on e^{2 eta lam}),
which is the clock of these rows: with `samplers.brownian`, a constant D gives one and the same path whatever the grid.
The noise form runs on that clock too; its own increments have correlation 1 - O(h^2) with these draws, so that it
converges along the same paths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

from gendyn.processes import Process
from gendyn.samplers.forms import DataForm, Form, NoiseForm, Update, Weights, staged
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, require_nonnegative, steps
from gendyn.samplers.plan import Row, SamplerPlan, assemble
from gendyn.tree import namespace


class StochasticForm(Form, Protocol):
    """A form that also knows the standard deviation of the noise that a step adds."""

    @property
    def eta(self) -> float: ...
    def noise(self, step: Step) -> Any: ...


@dataclasses.dataclass(frozen=True)
class StochasticData(DataForm):
    """Data form at noise level eta; `DataForm` at eta = 0. Legal at alpha_s = 0, forgetting x_s, and at sigma_e = 0."""

    eta: float

    def z(self, step: Step) -> Any:
        return -(1 + self.eta) * step.h

    def update(self, step: Step, weights: Weights) -> Update:
        xp = namespace(step.h)
        gain = -step.alpha_e * xp.expm1(-(1 + self.eta) * step.h)
        return Update(step.sigma_e / step.sigma_s * xp.exp(-self._decay(step)), tuple(gain * v for v in weights))

    def noise(self, step: Step) -> Any:
        xp = namespace(step.h)
        return step.sigma_e * xp.sqrt(-xp.expm1(-2 * self._decay(step)))

    def _decay(self, step: Step) -> Any:
        """eta h, also where h is infinite and eta zero."""
        return self.eta * step.h if self.eta else 0.0 * step.alpha_e


@dataclasses.dataclass(frozen=True)
class StochasticNoise(NoiseForm):
    """Noise form at noise level eta; `NoiseForm` at eta = 0."""

    eta: float

    def update(self, step: Step, weights: Weights) -> Update:
        flow = super().update(step, weights)
        return Update(flow.x_scale, tuple((1 + self.eta) * v for v in flow.memory))

    def noise(self, step: Step) -> Any:
        xp = namespace(step.h)
        rho = step.sigma_s / step.alpha_s
        return step.alpha_e * rho * xp.sqrt(-self.eta * xp.expm1(-2 * step.h))


FORMS: dict[str, Callable[[float], StochasticForm]] = {"data": StochasticData, "noise": StochasticNoise}


def clocked(row: Row, step: Step, eta: float) -> Row:
    """The row with the interval of `step` on the clock eta lam; a plan without noise keeps lam itself."""
    return dataclasses.replace(row, clock=(eta * step.clock[0], eta * step.clock[1])) if eta else row


def with_noise(row: Row, form: StochasticForm, step: Step) -> Row:
    """The row with the noise of the whole step added to its state, unless eta is zero."""
    added = dataclasses.replace(row, sn=(form.noise(step),)) if form.eta else row
    return clocked(added, step, form.eta)


def one_stage(form: StochasticForm, step: Step) -> list[Row]:
    """First order: the output at the start stands for the average."""
    return [with_noise(row, form, step) for row in staged(form, step, [], (1.0,))]


def two_stages(process: Process, form: StochasticForm, step: Step) -> list[Row]:
    """The exponential midpoint rule: the output at lam_s + h/2 stands for the average, on the step's own noise path.

    The stage is reached with the noise z_1 of the first half; the step's noise is z_1 carried on, plus z_2 of the
    second half. Drawing the step's noise anew, independent of the stage's, would lower the weak order to one.
    """
    part = step.until(process, 0.5 * step.h)
    rest = dataclasses.replace(
        step,
        t_s=part.t_e,
        alpha_s=part.alpha_e,
        sigma_s=part.sigma_e,
        h=step.h - part.h,
        clock=(part.clock[1], step.clock[1]),
    )
    first, last = staged(form, step, [(part, (1.0,))], (1.0, 0.0))
    if not form.eta:
        return [first, last]
    carried = form.update(rest, ()).x_scale * form.noise(part)
    noisy = dataclasses.replace(last, en=(0.0, form.noise(part)), sn=(form.noise(rest), carried))
    return [clocked(first, part, form.eta), clocked(noisy, rest, form.eta)]


def seeds(
    process: Process, grid: Grid, *, order: int = 2, form: Literal["noise", "data"] = "noise", eta: float = 1.0
) -> SamplerPlan:
    """SEEDS: Gonzalez et al. 2023 (arXiv 2305.14267); exponential integrators of the reverse SDE with `order` stages.

    SEEDS-1 freezes the output at the start of the step, SEEDS-2 takes it at the middle in lam, with one draw for each
    half of the step. The published solvers are the noise form at eta = 1; the data form of order 2 is SDE-DPM-Solver++
    in single steps, `sde_dpmpp(kind="singlestep")`. Weak order as asked; strong order one, the noise being additive.

    Out of pure noise and into a clean node the step is of first order in data form, exact for a constant D. One call
    per stage.

    Args:
        order: 1 or 2, the number of stages.
        form: what is averaged: "noise" (eps) or "data" (D).
        eta: noise level of the SDE, 1 for the time reversal; 0 gives the probability flow.

    Example:
        >>> import gendyn as gd
        >>> gd.plan("seeds_2", gd.processes.VPLinear(), nfe=10).order
        2
    """
    require_nonnegative("eta", eta)
    if order not in (1, 2):
        raise ValueError(f"SEEDS exists here with order 1 or 2; got {order}.")
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; choose one of {', '.join(FORMS)}.")
    rows = [row for step in steps(process, grid) for row in exponential_rows(process, FORMS[form](eta), step, order)]
    return assemble(process, rows, name=f"seeds_{order}({form}, eta={eta:g})", order=order)


def exponential_rows(process: Process, form: StochasticForm, step: Step, order: int) -> list[Row]:
    """The rows of one step, at first order in data form where the step touches an end of the path."""
    if step.clean or step.from_pure_noise:
        return one_stage(StochasticData(form.eta), step)
    return one_stage(form, step) if order == 1 else two_stages(process, form, step)
