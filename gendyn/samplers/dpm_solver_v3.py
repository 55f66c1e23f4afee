"""DPM-Solver-v3: the exact solution around a linear model of the network, measured beforehand on that network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from gendyn.phi import lagrange
from gendyn.processes import Process
from gendyn.samplers.forms import Update, predicted_corrected, row
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, refuse_ends, steps
from gendyn.samplers.orders import LowerFinal, step_orders, true_order
from gendyn.samplers.plan import SamplerPlan, assemble
from gendyn.samplers.statistics.quadrature import GAUSS, Quadrature, integrate
from gendyn.samplers.statistics.tables import Statistics
from gendyn.tree import concrete

Taylor: TypeAlias = Literal["interpolating", "pseudo"]
Corrected: TypeAlias = Literal["everywhere", "noisy_half", "clean_half"]
Polynomial: TypeAlias = Callable[[Sequence[Any], Any], list[Any]]


def pseudo(nodes: Sequence[Any], at: Any) -> list[Any]:
    """Newton's divided differences taken for derivatives over factorials: sum_k g[0..k] (lam - lam_0)^k.

    The weight of each node's g at the points `at`. Extrapolates less than the interpolating polynomial, of which it is
    the part that forgets the nodes; the same for two nodes, of order 2 for more.
    """
    values = []
    for j, own in enumerate(nodes):
        value = 0.0 * at
        for k in range(j, len(nodes)):
            others = [own - other for i, other in enumerate(nodes[: k + 1]) if i != j]
            value = value + (at - nodes[0]) ** k / np.prod(others)
        values.append(value)
    return values


POLYNOMIALS: dict[str, Polynomial] = {"interpolating": lagrange, "pseudo": pseudo}

CORRECTED: dict[str, Callable[[Process, Any], bool]] = {
    "everywhere": lambda process, lam: True,
    "noisy_half": lambda process, lam: bool(lam < process.lam(0.5)),
    "clean_half": lambda process, lam: bool(lam >= process.lam(0.5)),
}
"""At which nodes the corrector acts. The two halves part at t = 0.5 on the process's clock: the published help text
says the clean one, the published code does the noisy one."""


def dpm_solver_v3(
    process: Process,
    grid: Grid,
    *,
    statistics: Statistics,
    order: int = 3,
    corrector: bool = True,
    predictor_taylor: Taylor = "interpolating",
    corrector_taylor: Taylor = "interpolating",
    corrected: Corrected = "everywhere",
    orders: Sequence[int] | None = None,
    lower_order_final: LowerFinal = True,
    quadrature: Quadrature = GAUSS,
    shape: tuple[int, ...] | None = None,
) -> SamplerPlan:
    """DPM-Solver-v3: Zheng et al. 2023, "DPM-Solver-v3" (arXiv 2310.13268), eq. 12 and algorithms 1 and 2.

    With l, s, b the model's statistics, f = (sigma eps - l x)/alpha, and L, S the integrals of l, s from lam_s,

        x_e = alpha_e e^{-L_e} [ x_s/alpha_s - int e^{L+S} (g + B) dlam ],    g = e^{-S} f - B,    B = int e^{-S} b dlam

    exactly; only g is approximated, by the polynomial in lam through the newest outputs. What is remembered is f,
    which a corrector leaves as it is. One network call per step. Coefficients are per element of the data.

    l = 1, s = b = 0 is DPM-Solver++ (Taylor, curvature 2) and l = 0, s = -1, b = 0 is DPM-Solver in noise form; at
    order 1 both are DDIM. Exact at order 1 for data that is one Gaussian, with any number of steps.

    Args:
        statistics: of the network that will be sampled, guidance included: `gd.samplers.statistics.estimate`.
        order: outputs that the predictor uses, any.
        corrector: repeats each step, except the last, once the output at its end is known, at the predictor's order.
        predictor_taylor: "pseudo" takes divided differences for derivatives (published for five calls).
        corrector_taylor: "pseudo" also raises the corrector's order by one (published for latents and large guidance).
            Pseudo derivatives are devices for few steps: of order 2.
        corrected: where the corrector acts, one of `CORRECTED`.
        orders: the predictor's order at each step, in place of the usual start-up.
        lower_order_final: True (as published), False, or "short": on fewer than ten steps.
        shape: of one example, if known: statistics of another shape are then refused here instead of by `run`.
        quadrature: GAUSS is exact for the tables; TRAPEZOID with `statistics.snap(grid)` is the published code.

    Raises:
        ValueError: a grid that touches pure noise or clean data; statistics of another path, range or shape.

    Example:
        >>> import gendyn as gd, numpy as np
        >>> process, one = gd.processes.EDM(), np.ones((2, 1))
        >>> flat = Statistics(lam=np.array([-5.0, 7.0]), l=one, s=0 * one, b=0 * one)
        >>> gd.plan("dpm_solver_v3", process, nfe=8, statistics=flat).nfe
        8
    """
    concrete("DPM-Solver-v3's quadrature", grid.t)
    _choose(POLYNOMIALS, predictor_taylor=predictor_taylor, corrector_taylor=corrector_taylor)
    _choose(CORRECTED, corrected=corrected)
    refuse_ends(grid, "DPM-Solver-v3", remedy="dpmpp")
    statistics.require(grid, shape)
    taken, used = list(steps(process, grid)), step_orders(grid, order, orders, lower_order_final=lower_order_final)
    form = _Form(statistics=statistics, lam=grid.lam, quadrature=quadrature)
    predict = [form.step(step, _backwards(i, used[i]), predictor_taylor) for i, step in enumerate(taken)]
    outputs = [count + (corrector_taylor == "pseudo") for count in used]
    acts = [
        corrector and count > 1 and CORRECTED[corrected](process, lam)
        for count, lam in zip(outputs[:-1], grid.lam[1:-1], strict=True)
    ]
    rows = [row(form, step, update) for step, update in zip(taken, predict, strict=True)]
    if any(acts):
        correct = [
            form.correction(step, outputs[i], corrector_taylor) if act else predict[i].aged()
            for i, (step, act) in enumerate(zip(taken[:-1], acts, strict=True))
        ]
        rows = predicted_corrected(form, taken, predict, correct)
    converges = _order(order, predictor_taylor, corrector and corrected == "everywhere", corrector_taylor)
    name = f"dpm_solver_v3_{order}{'' if corrector else '_uncorrected'}"
    return assemble(process, rows, name=name, order=true_order(grid, converges, used))


def _choose(known: dict[str, Any], **chosen: str) -> None:
    for name, value in chosen.items():
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}.")


def _backwards(i: int, count: int) -> list[int]:
    return [i - j for j in range(count)]


def _order(order: int, predictor: Taylor, corrector: bool, corrector_taylor: Taylor) -> int:
    """Pseudo derivatives have order 2; a corrector sees the predictor only through f, one order later."""
    predicted = min(order, 2) if predictor == "pseudo" else order
    corrected = min(order + 1, 2) if corrector_taylor == "pseudo" else order
    return min(predicted + 1, corrected) if corrector else predicted


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Form:
    """Remembers f; crosses steps of one grid with the statistics' linear model."""

    statistics: Statistics
    lam: np.ndarray
    quadrature: Quadrature

    def remember(self, alpha: Any, sigma: Any) -> dict[str, Any]:
        """f = (sigma eps - l x)/alpha = (1 - l) x/alpha - D, without eps."""
        l, _, _ = self.statistics.at(np.log(alpha) - np.log(sigma))
        return {"oy": (1 - l) / alpha, "om": -1.0}

    def correction(self, step: Step, count: int, taylor: Taylor) -> Update:
        """The step again with its own end as a node: after it, history holds that node's output first."""
        i = step.index
        update = self.step(step, [i, i + 1, *_backwards(i - 1, count - 2)], taylor)
        start, end, *older = update.memory
        return dataclasses.replace(update, memory=(end, start, *older))

    def step(self, step: Step, nodes: Sequence[int], taylor: Taylor) -> Update:
        """The step with g the polynomial through the outputs at `nodes` of the grid, the step's start first."""
        at = [self.lam[j] for j in nodes]
        start, end = self.lam[step.index], self.lam[step.index + 1]
        integrals = integrate(self.statistics, start, end, at, self.quadrature)
        scale = step.alpha_e * integrals.decay
        memory, constant = [], -integrals.forcing
        for polynomial, lam in zip(POLYNOMIALS[taylor](at, integrals.at), at, strict=True):
            decay_s, B = integrals.at_node(lam)
            weight = integrals.average(polynomial)
            memory.append(-scale * weight * decay_s)
            constant = constant + weight * B
        return Update(scale / step.alpha_s, memory, scale * constant)


Preset: TypeAlias = dict[int, dict[str, Any]]
"""Least NFE -> arguments of `gendyn.plan`."""

EDM_CIFAR10: Preset = {
    5: {"order": 3, "predictor_taylor": "pseudo"},
    6: {"order": 3},
    8: {"order": 3, "corrector": False},
}
SCORESDE_CIFAR10: Preset = {
    5: {"order": 3, "predictor_taylor": "pseudo", "lower_order_final": False},
    6: {"order": 3},
    10: {"order": 3, "corrector": False},
    12: {"order": 3, "grid_options": {"t_end": 1e-4}},
}
LATENT: Preset = {5: {"grid": "uniform_t", "order": 3, "corrector_taylor": "pseudo"}}
GUIDED: Preset = {5: {"grid": "uniform_t", "order": 2, "corrector_taylor": "pseudo"}}
STRONGLY_GUIDED: Preset = {5: {"grid": "uniform_t", "order": 2, "corrector": False}}

PRESETS: dict[str, Preset] = {
    "edm_cifar10": EDM_CIFAR10,
    "scoresde_cifar10": SCORESDE_CIFAR10,
    "lsun_latent": LATENT,
    "imagenet256_guided": GUIDED,
    "stable_diffusion": GUIDED,
    "stable_diffusion_strong": STRONGLY_GUIDED,
}
"""Published settings by name. What is not named is the default. Two differ
from it only in their statistics: "imagenet256_guided" used l = 1; "stable_diffusion_strong" is for guidance of 5 and
more."""


def preset(name: str, nfe: int) -> dict[str, Any]:
    """The published settings for so many calls, as arguments of `gendyn.plan`.

    >>> preset("edm_cifar10", 5)
    {'order': 3, 'predictor_taylor': 'pseudo'}
    >>> preset("lsun_latent", 12)["grid"]
    'uniform_t'
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}.")
    rows = PRESETS[name]
    return dict(rows[max((least for least in rows if least <= nfe), default=min(rows))])
