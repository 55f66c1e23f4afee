"""DPM-Solver and DPM-Solver++: the average of the noise form, or of the data form, by a Taylor polynomial in lam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

from gendyn.phi import gauss_legendre, interpolant_average, phi
from gendyn.processes import Process
from gendyn.samplers.forms import FORMS, Form, Weights, multistep, staged
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, refuse_ends, steps
from gendyn.samplers.orders import LowerFinal, groups, step_orders, true_order
from gendyn.samplers.plan import Row, SamplerPlan, assemble
from gendyn.tree import namespace

Kind: TypeAlias = Literal["multistep", "singlestep"]
Rule: TypeAlias = Literal["midpoint", "taylor"]

QUADRATURE = 48  # machine precision for e^{z (1 - s)} up to |z| of about 60


def two_node(r: Any, slope: Any = 1.0) -> Weights:
    """<m> from m_0 and one more output at r (in steps): m_0 + slope (m_r - m_0)/(2 r), weights with m_0 first.

    Slope 1 evaluates the line through both at the middle of the step; 2 phi_2/phi_1 averages it exactly.
    """
    return 1 - 0.5 * slope / r, 0.5 * slope / r


SLOPES: dict[str, Callable[[Any], Any]] = {
    "midpoint": lambda z: 1.0,
    "taylor": lambda z: 2 * phi(2, z) / phi(1, z),
}


def exponential_average(offsets: Sequence[Any], z: Any) -> Weights:
    """<m> of the polynomial in lam through outputs at `offsets` (in steps, 0 the start): exponential Adams weights."""
    at, mass = gauss_legendre(QUADRATURE)
    return interpolant_average(offsets, at, mass * namespace(z).exp(z * (1 - at)))


def three_node(r_1: Any, r_2: Any, z: Any, curvature: float) -> Weights:
    """DPM-Solver's third-order multistep average, from outputs at 0, r_1, r_2 (negative): newest first.

        <m> = m_0 + (phi_2 d_1 + phi_3 d_2)/phi_1,        d_2 = curvature times the second divided difference,

    d_1 the slope at 0 of the parabola. The parabola's own curvature is 2; see `dpmpp` about 1.
    """
    slope = (1 / -r_1 + 1 / -r_2, r_2 / (r_1 * (r_2 - r_1)), r_1 / (r_2 * (r_1 - r_2)))
    second = (1 / (r_1 * r_2), 1 / (r_1 * (r_1 - r_2)), 1 / (r_2 * (r_2 - r_1)))
    one, two, three = (phi(k, z) for k in (1, 2, 3))
    first = (1.0, 0.0, 0.0)
    return tuple(f + (two * s + three * curvature * c) / one for f, s, c in zip(first, slope, second))


def offsets(recent: Sequence[Step]) -> list[Any]:
    """Where the recent steps start, in units of the current one: 0, then negative."""
    current = recent[0]
    return [0.0] + [(step.lam_s - current.lam_s) / current.h for step in recent[1:]]


def _average(form: Form, rule: Rule, curvature: float, recent: Sequence[Step]) -> Weights:
    z = form.z(recent[0])
    _, *r = offsets(recent)
    return two_node(r[0], SLOPES[rule](z)) if len(r) == 1 else three_node(r[0], r[1], z, curvature)


def _multistep(
    form: Form,
    taken: list[Step],
    grid: Grid,
    *,
    order: int,
    rule: Rule = "midpoint",
    curvature: float = 1.0,
    orders: Sequence[int] | None = None,
    lower_order_final: LowerFinal = "short",
) -> tuple[list[Row], int]:
    """The rows, and the true order: 2M and 3M with start-up at lower order."""
    used = step_orders(grid, order, orders, lower_order_final=lower_order_final)
    rows = multistep(form, taken, used, partial(_average, form, rule, curvature))
    return rows, true_order(grid, 2 if max(used) == 3 and curvature != 2 else max(used), used)


def _singlestep(
    form: Form,
    taken: list[Step],
    grid: Grid,
    *,
    order: int,
    rule: Rule = "midpoint",
    orders: Sequence[int] | None = None,
) -> tuple[list[Row], int]:
    """The rows, and the order: 2S and 3S on groups of consecutive intervals."""
    sizes = groups(grid, order, orders)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    rows = [row for i, size in zip(starts, sizes) for row in _group(form, taken[i : i + size], rule)]
    return rows, true_order(grid, order, sizes)


def _group(form: Form, intervals: Sequence[Step], rule: Rule) -> list[Row]:
    """One singlestep step over its intervals, whose inner nodes r_1, r_2 (fractions in lam) are the stages."""
    parts = [intervals[0].through(last) for last in intervals]
    step = parts[-1]
    if len(parts) == 1:
        return staged(form, step, [], (1.0,))
    z, r = form.z(step), [part.h / step.h for part in parts[:-1]]
    if len(parts) == 2:
        return staged(form, step, [(parts[0], (1.0,))], two_node(r[0], SLOPES[rule](z))[::-1])
    # The second stage averages the line through the start and the first stage. The step averages the line through the
    # start and the second stage (third order where r_2 = 2/3 + O(h)) or, in Taylor type, the parabola through all.
    stage = exponential_average([r[0] / r[1], 0.0], form.z(parts[1]))
    line = (*exponential_average([r[1], 0.0], z), 0.0)
    final = {"midpoint": (line[0], 0.0, line[1]), "taylor": exponential_average([r[1], r[0], 0.0], z)}
    return staged(form, step, [(parts[0], (1.0,)), (parts[1], stage)], final[rule])


KINDS: dict[str, Callable[..., tuple[list[Row], int]]] = {"multistep": _multistep, "singlestep": _singlestep}


def dpmpp(process: Process, grid: Grid, *, order: int = 2, kind: Kind = "multistep", **choices: Any) -> SamplerPlan:
    """DPM-Solver++, data form: Lu et al. 2022 (arXiv 2211.01095), algorithms 1 and 2. One call per grid interval.

    Multistep (2M, 3M) reuses past outputs. Singlestep (2S, 3S) forgets them: it takes two or three intervals of the
    grid as one step and their inner nodes as its stages, so the spacing rule of the grid places the stages too.
    A clean last node and a first node with alpha = 0 are legal and crossed at first order: DDIM's limits.

    Args:
        order: 1 (DDIM), 2 or 3.
        kind: "multistep" or "singlestep".
        rule: how a line is averaged over a step, "midpoint" (published default) or "taylor" (exactly).
        orders: the order of each step, in place of the usual start-up; singlestep: the sizes of the groups.
        lower_order_final: multistep only; True, False or "short" (lower the last orders on fewer than ten steps).
        curvature: multistep order 3 only. 1 is what every public implementation of 3M computes: half of the parabola's
            second derivative, hence of true order 2, though often slightly better below 20 calls. 2 is the
            interpolating parabola, of order 3. The plan declares the true order, lowered last steps included.

    Example:
        >>> import gendyn as gd
        >>> process = gd.processes.VPLinear()
        >>> dpmpp(process, gd.samplers.grids.uniform_lam(process, n=10), order=3, curvature=2).order
        3
    """
    return _build("dpmpp", "data", process, grid, order, kind, choices)


def dpm_solver(
    process: Process, grid: Grid, *, order: int = 2, kind: Kind = "multistep", **choices: Any
) -> SamplerPlan:
    """DPM-Solver, noise form: Lu et al. 2022 (arXiv 2206.00927); choices as in `dpmpp`. One call per interval.

    Needs finite lam at both ends of the grid.

    Example:
        >>> import gendyn as gd
        >>> process = gd.processes.VPLinear()
        >>> dpm_solver(process, gd.samplers.grids.uniform_lam(process, n=9), order=3, kind="singlestep").name
        'dpm_3s'
    """
    refuse_ends(grid, "DPM-Solver in noise form", remedy="dpmpp")
    return _build("dpm", "noise", process, grid, order, kind, choices)


def _build(
    name: str, form: str, process: Process, grid: Grid, order: int, kind: Kind, choices: dict[str, Any]
) -> SamplerPlan:
    if order not in (1, 2, 3):
        raise ValueError(f"DPM-Solver exists for orders 1, 2 and 3; got {order}; unipc takes any order.")
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}.")
    if choices.get("rule", "midpoint") not in SLOPES:
        raise ValueError(f"unknown rule {choices['rule']!r}; choose one of {', '.join(SLOPES)}.")
    rows, true_order = KINDS[kind](FORMS[form], list(steps(process, grid)), grid, order=order, **choices)
    return assemble(process, rows, name=f"{name}_{order}{kind[0]}", order=true_order)
