"""How far back each step of a plan reaches: start-up, lowered final orders, and the groups of singlestep solvers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from gendyn.samplers.grids import Grid

LowerFinal: TypeAlias = bool | Literal["short"]
"""Whether the last steps fall back to orders ..., 2, 1: True, False, or "short", on grids of fewer than ten steps."""

SHORT = 10


def step_orders(
    grid: Grid,
    order: int,
    orders: Sequence[int] | None = None,
    *,
    lower_order_final: LowerFinal = False,
    clean_at_full_order: bool = False,
) -> tuple[int, ...]:
    """The number of outputs that each step of a multistep rule uses.

    The first step has one output, the second two, and so on; an output at pure noise (lam = -inf) is not used again.
    The step into a clean node has order one, exact there, unless the rule integrates up to it.

    Args:
        orders: explicit orders per step instead, checked against what is available.

    Raises:
        ValueError: an order that the grid cannot support.
    """
    n = grid.steps
    require_order(order, n)
    lowered = n < SHORT if lower_order_final == "short" else bool(lower_order_final)
    limits = [_available(grid, i, clean_at_full_order) for i in range(n)]
    if orders is None:
        return tuple(min(order, limit, n - i if lowered else order) for i, limit in enumerate(limits))
    if len(orders) != n:
        raise ValueError(f"orders= needs one order for each of the grid's {n} steps; got {len(orders)}.")
    for i, (given, limit) in enumerate(zip(orders, limits, strict=True)):
        if not 1 <= given <= limit:
            raise ValueError(f"orders[{i}] = {given}, but step {i} of this grid can have orders 1 to {limit}.")
    return tuple(orders)


def true_order(grid: Grid, rule: int, used: Sequence[int]) -> int:
    """The order of a plan whose rule has order `rule`: a last step of p outputs, alone, limits it to p + 1.

    Start-up is not counted (it vanishes when history is given), nor is the exact step into a clean node.
    """
    finite = used[:-1] if grid.clean and len(used) > 1 else used
    return min(rule, finite[-1] + 1)


def _available(grid: Grid, i: int, clean_at_full_order: bool) -> int:
    if grid.clean and i == grid.steps - 1 and not clean_at_full_order:
        return 1
    return max(i if grid.from_pure_noise else i + 1, 1)


def require_order(order: int, steps: int) -> None:
    if order < 1:
        raise ValueError(f"the order must be at least 1; got {order}.")
    if order > steps:
        raise ValueError(f"a rule that uses {order} outputs needs {order} steps or more; this grid has {steps}.")


def groups(grid: Grid, order: int, orders: Sequence[int] | None = None) -> tuple[int, ...]:
    """How a singlestep solver divides the grid: each group of intervals is one step, with a call at each of its nodes.

    By default as few groups as possible, as even as possible, larger ones first, so that no step falls more than one
    order below the rule; intervals that touch pure noise or a clean node stand alone. `fast_orders` is the published
    division.
    """
    require_order(order, grid.steps)
    head, tail = [1] * grid.from_pure_noise, [1] * grid.clean
    if orders is None:
        inner = grid.steps - len(head) - len(tail)
        count = -(-inner // order)
        orders = [*head, *(inner // count + (j < inner % count) for j in range(count)), *tail][: grid.steps]
    if sum(orders) != grid.steps or not all(1 <= size <= order for size in orders):
        raise ValueError(
            f"singlestep orders must lie in 1..{order} and add up to the grid's {grid.steps} steps; got {orders}."
        )
    if (head and orders[0] != 1) or (tail and orders[-1] != 1):
        raise ValueError(f"a singlestep step out of pure noise or into a clean node has order 1; got orders={orders}.")
    return tuple(orders)


def fast_orders(nfe: int, order: int) -> tuple[int, ...]:
    """DPM-Solver-fast: Lu et al. 2022 (arXiv 2206.00927); orders that spend exactly `nfe` calls.

    >>> fast_orders(10, order=3), fast_orders(9, order=3), fast_orders(5, order=2)
    ((3, 3, 3, 1), (3, 3, 2, 1), (2, 2, 1))
    """
    full, rest = divmod(nfe, order)
    if order == 3 and rest == 0 and full > 0:
        return (3,) * (full - 1) + (2, 1)
    return (order,) * full + (rest,) * (rest > 0)
