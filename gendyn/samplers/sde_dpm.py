"""SDE-DPM-Solver++: the averages of DPM-Solver++ on the reverse-time SDE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from gendyn.processes import Process
from gendyn.samplers.dpm_solver import KINDS as DETERMINISTIC
from gendyn.samplers.dpm_solver import Kind
from gendyn.samplers.exponential_sde import FORMS, StochasticForm, exponential_rows, with_noise
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, refuse_ends, require_nonnegative, steps
from gendyn.samplers.plan import Row, SamplerPlan, assemble


def sde_dpmpp(
    process: Process,
    grid: Grid,
    *,
    order: int = 2,
    kind: Kind = "multistep",
    eta: float = 1.0,
    form: Literal["data", "noise"] = "data",
    **choices: Any,
) -> SamplerPlan:
    """SDE-DPM-Solver++: Lu et al. 2022 (arXiv 2211.01095), with k-diffusion's eta and third order.

        x_e = (sigma_e/sigma_s) e^{-eta h} x_s + alpha_e (1 - e^{-(1 + eta) h}) <D> + sigma_e sqrt(1 - e^{-2 eta h}) z,

    <D> guessed from past outputs (multistep) or from a stage at the middle of the step (singlestep) as in `dpmpp`, with
    (1 + eta) h in the place of h. Multistep makes one call per step; singlestep of order 2 makes two calls and two
    draws: k-diffusion's dpmpp_sde at eta = 1, with stage and step on one noise path.

    eta = 0 is `dpmpp`. Weak order as asked up to 2, which no reuse of past outputs raises; strong order one, the
    noise being additive. A constant D is crossed exactly, on any grid along the same path (see `exponential_sde`). A
    clean last node and a first node with alpha = 0 are legal, and first order there.

    Args:
        order: 1, 2 or 3; singlestep: 1 or 2.
        kind: "multistep" (2M, 3M) or "singlestep".
        eta: noise level of the SDE, 1 for the time reversal; for short steps, the square of DDIM's eta.
        form: what is averaged: "data", or "noise" (SDE-DPM-Solver: eps in the place of D; finite lam at both ends).
        choices: multistep only: rule, curvature, orders, lower_order_final, as in `dpmpp`. k-diffusion's 3M has
            rule="taylor", lower_order_final=False.

    Example:
        >>> import gendyn as gd
        >>> plan = gd.plan("sde_dpmpp_2m", gd.processes.RectifiedFlow(), nfe=8)
        >>> plan.nfe, plan.noise_rows
        (8, 7)
    """
    require_nonnegative("eta", eta)
    if order not in (1, 2, 3):
        raise ValueError(f"SDE-DPM-Solver++ exists for orders 1, 2 and 3; got {order}.")
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}.")
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; choose one of {', '.join(FORMS)}.")
    if form == "noise":
        refuse_ends(grid, "SDE-DPM-Solver in noise form", remedy='form="data"')
    rows, true_order = KINDS[kind](process, FORMS[form](eta), list(steps(process, grid)), grid, order, **choices)
    name = f"sde_{'dpmpp' if form == 'data' else 'dpm'}_{order}{kind[0]}(eta={eta:g})"
    return assemble(process, rows, name=name, order=min(true_order, 2) if eta else true_order)


def _multistep(
    process: Process, form: StochasticForm, taken: Sequence[Step], grid: Grid, order: int, **choices: Any
) -> tuple[list[Row], int]:
    rows, true_order = DETERMINISTIC["multistep"](form, taken, grid, order=order, **choices)
    return [with_noise(row, form, step) for row, step in zip(rows, taken, strict=True)], true_order


def _singlestep(
    process: Process, form: StochasticForm, taken: Sequence[Step], grid: Grid, order: int
) -> tuple[list[Row], int]:
    if order == 3:
        raise ValueError(
            'SDE-DPM-Solver++ in single steps exists for orders 1 and 2; use kind="multistep" for order 3.'
        )
    return [row for step in taken for row in exponential_rows(process, form, step, order)], order


KINDS: dict[str, Callable[..., tuple[list[Row], int]]] = {"multistep": _multistep, "singlestep": _singlestep}
