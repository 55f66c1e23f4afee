"""UniPC: exponential Adams-Bashforth predictors and Adams-Moulton correctors, the corrector free of network calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

from gendyn.phi import phi
from gendyn.processes import Process
from gendyn.samplers.dpm_solver import exponential_average, offsets, two_node
from gendyn.samplers.forms import FORMS, Form, Update, Weights, predicted_corrected, recent
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, refuse_ends, steps
from gendyn.samplers.orders import LowerFinal, step_orders, true_order
from gendyn.samplers.plan import SamplerPlan, assemble

Variant: TypeAlias = Literal["bh1", "bh2"]

SLOPES: dict[str, Callable[[Any], Any]] = {"bh1": lambda z: 1 / phi(1, z), "bh2": lambda z: 1.0}
"""The published weight 1/2 of two-output rules, times B(z)/z over phi_1: B = z (bh1) or e^z - 1 (bh2)."""


def unipc(
    process: Process,
    grid: Grid,
    *,
    order: int = 3,
    variant: Variant = "bh2",
    form: Literal["data", "noise"] = "data",
    corrector: bool = True,
    orders: Sequence[int] | None = None,
    lower_order_final: LowerFinal = True,
) -> SamplerPlan:
    """UniPC: Zhao et al. 2023, "UniPC" (arXiv 2302.04867), algorithms 1 and 2. One call per step.

    The predictor of order p averages the polynomial in lam through the p newest outputs; once the output at the new
    node is known, the corrector repeats the step with it as one more node, and the output itself is kept. Rows hold
    the predictor in `e*` and the corrector of the step before in `s*`; the last step is not corrected. Only rules of
    two outputs (predictor 2, corrector 1) are not the plain polynomial but fix its weight at 1/2, and only there do
    the variants differ: bh2 is then the midpoint rule of DPM-Solver.

    Order p + 1 with the corrector, p without; the lowered last steps of the default, worth having on few steps, limit
    it to 2. Order 1 without corrector is DDIM.

    Args:
        order: p, any.
        variant: "bh2" (published default) or "bh1".
        form: "data" or "noise"; the noise form needs finite lam at both ends of the grid.
        corrector: False leaves UniP.
        orders: the predictor's order at each step, in place of the usual start-up.
        lower_order_final: True (the published code's habit), False, or "short": on fewer than ten steps.

    Example:
        >>> import gendyn as gd
        >>> gd.plan("unipc", gd.processes.EDM(), nfe=6).nfe
        6
    """
    if variant not in SLOPES:
        raise ValueError(f"unknown variant {variant!r}; choose one of {', '.join(SLOPES)}.")
    if form == "noise":
        refuse_ends(grid, "UniPC in noise form", remedy='form="data"')
    taken, used = list(steps(process, grid)), step_orders(grid, order, orders, lower_order_final=lower_order_final)
    predict = [_predictor(FORMS[form], variant, taken, i, used) for i in range(len(taken))]
    correct = [p.aged() for p in predict]
    if corrector:
        correct = [_corrector(FORMS[form], variant, taken, i, used) for i in range(len(taken))]
    rows = predicted_corrected(FORMS[form], taken, predict, correct)
    converges = true_order(grid, max(used) + corrector, used)
    return assemble(process, rows, name=f"unip{'c' * corrector}_{order}_{variant}", order=converges)


def _predictor(form: Form, variant: Variant, taken: Sequence[Step], i: int, orders: Sequence[int]) -> Update:
    average = partial(_average, form.z(taken[i]), variant)
    return form.update(taken[i], recent(taken, i, orders, lambda past: average(offsets(past))))


def _corrector(form: Form, variant: Variant, taken: Sequence[Step], i: int, orders: Sequence[int]) -> Update:
    """The same step with the new node, at offset 1, as newest output; a step out of pure noise is left as it is."""
    if taken[i].from_pure_noise:
        return form.update(taken[i], (1.0,)).aged()
    known = offsets([taken[i - j] for j in range(orders[i])])
    *old, new = _average(form.z(taken[i]), variant, [*known, 1.0])
    return form.update(taken[i], (new, *old))


def _average(z: Any, variant: Variant, nodes: Sequence[Any]) -> Weights:
    return two_node(nodes[1], SLOPES[variant](z)) if len(nodes) == 2 else exponential_average(nodes, z)
