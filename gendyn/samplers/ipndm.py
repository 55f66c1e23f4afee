"""iPNDM: DDIM with its eps replaced by an Adams-Bashforth combination of past ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

from gendyn.phi import gauss_legendre, interpolant_average
from gendyn.processes import Process
from gendyn.samplers.deis import VARIABLES, interpolant
from gendyn.samplers.forms import FORMS, Average, Weights, multistep
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, refuse_ends, steps
from gendyn.samplers.orders import LowerFinal, step_orders, true_order
from gendyn.samplers.plan import SamplerPlan, assemble

Steps: TypeAlias = Literal["constant", "variable", "published_variable"]


def equal_steps(process: Process, recent: Sequence[Step]) -> Weights:
    """Adams-Bashforth for equal steps, whatever the steps are: (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24, ..."""
    return interpolant_average([-float(j) for j in range(len(recent))], *gauss_legendre(len(recent)))


def published_variable(process: Process, recent: Sequence[Step]) -> Weights:
    """The weights that public iPNDM_v code computes, which from three outputs on are not Adams-Bashforth's.

    In Newton form e_0 + c_1 d_1 + c_2 d_2 + c_3 d_3 over scaled backward differences, with steps h (current), h_1, ...:
    a bracket is misplaced in c_2, a sign is wrong in c_3 and a step ratio in d_3. Right for equal steps up to three
    outputs; kept for comparison with published results only.
    """
    h, *past = [s.sigma_e / s.alpha_e - s.sigma_s / s.alpha_s for s in recent]
    back = [sum(past[:j]) for j in range(1, len(past) + 1)]  # h_1, h_1 + h_2, ...
    weights = [1 + h / past[0] / 2, -h / past[0] / 2, 0.0, 0.0]
    if len(recent) >= 3:
        q = past[0] / past[1]
        second = h * (h + back[0]) / (back[0] * back[1])
        c_2 = (1 - h / (3 * (h + back[0])) * second) / 2
        weights = _add(weights, c_2, (1, -1 - q, q, 0))
    if len(recent) == 4:
        p = back[0] * back[1] / (past[1] * (past[1] + past[2]))
        third = h * (h + back[0]) * (h + back[1]) / (back[0] * back[1] * back[2])
        lead = (1 - h / (3 * (h + back[0]))) / 2 + (1 - h / (2 * (h + back[0]))) * h / (6 * (h + back[1]))
        weights = _add(weights, lead * third, (1, -1 - q - p, q + p * (1 + past[1] / past[2]), -p * q))
    return weights[: len(recent)]


def _add(weights: Sequence[Any], factor: Any, difference: Sequence[Any]) -> list[Any]:
    return [w + factor * d for w, d in zip(weights, difference, strict=True)]


def variable_steps(process: Process, recent: Sequence[Step]) -> Weights:
    """Adams-Bashforth in sigma/alpha for the actual steps: those of DEIS rhoAB."""
    return interpolant(process, VARIABLES["rhoAB"], recent)


WEIGHTS: dict[str, tuple[Callable[[Process, Sequence[Step]], Weights], tuple[int, ...]]] = {
    "constant": (equal_steps, (1, 2, 2, 2)),
    "variable": (variable_steps, (1, 2, 3, 4)),
    "published_variable": (published_variable, (1, 2, 3, 1)),
}
"""Steps -> weights, and the true order for one to four outputs on smoothly varying grids."""


def ipndm(
    process: Process,
    grid: Grid,
    *,
    order: int = 4,
    steps_are: Steps = "constant",
    orders: Sequence[int] | None = None,
    lower_order_final: LowerFinal = False,
) -> SamplerPlan:
    """iPNDM: Zhang and Chen 2023 (arXiv 2204.13902), after Liu et al. 2022, "PNDM" (arXiv 2202.09778).

        x_e = (alpha_e/alpha_s) x_s + alpha_e (rho_e - rho_s) sum_j b_j eps_{-j},        rho = sigma/alpha.

    One call per step. The b_j are those of equal steps in rho though the steps are not equal, so beyond one output the
    order is 2; with few calls the method is nevertheless hard to beat untuned. On equal steps it is DEIS rhoAB.

    Args:
        order: number of outputs, 1 (DDIM) to 4.
        steps_are: "constant" (the published method); "variable": weights of the actual steps, the correct iPNDM_v,
            which is DEIS rhoAB; "published_variable": what public iPNDM_v code computes, see `published_variable`.
        orders: outputs used at each step, in place of the usual start-up.
        lower_order_final: whether the last steps fall back; the published code does not.

    Example:
        >>> import gendyn as gd
        >>> gd.plan("ipndm", gd.processes.EDM(), nfe=5).window
        4
    """
    if steps_are not in WEIGHTS:
        raise ValueError(f"unknown steps_are {steps_are!r}; choose one of {', '.join(WEIGHTS)}.")
    if order > 4:
        raise ValueError(f"iPNDM exists for 1 to 4 outputs; got {order}; deis(kind='rhoAB') takes any order.")
    refuse_ends(grid, "iPNDM", remedy="dpmpp", clean=False)
    weights, true_orders = WEIGHTS[steps_are]
    used = step_orders(grid, order, orders, lower_order_final=lower_order_final, clean_at_full_order=True)
    average: Average = partial(weights, process)
    rows = multistep(FORMS["noise"], list(steps(process, grid)), used, average)
    name = f"ipndm_{order}" if steps_are == "constant" else f"ipndm_{order}({steps_are})"
    return assemble(process, rows, name=name, order=true_order(grid, true_orders[max(used) - 1], used))
