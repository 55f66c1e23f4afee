"""What a reflow reports of every model: straightness, transport costs, and the error of few steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from gendyn import samplers
from gendyn.samplers import straightness
from gendyn.samplers.straightness import Paths
from gendyn.training.stored_pairs import classes, seed_of

Row: TypeAlias = dict[str, Any]


def fine_paths(
    denoiser: Any,
    process: Any,
    shape: tuple[int, ...],
    *,
    num: int,
    num_classes: int | None,
    seed: int,
    batch_size: int,
    report: Callable[[int], None] = lambda done: None,
) -> Paths:
    """Fine solutions from `num` starts that no pair has, the same for every model; on the host."""
    key = jax.random.key(seed_of(seed, -1))
    x_T = jax.random.normal(key, (num, *shape))
    labels, done = classes(range(num), num_classes), []
    for i in range(0, num, batch_size):
        rows = slice(i, i + batch_size)
        paths = straightness.follow(process, denoiser, x_T[rows], cond=None if labels is None else labels[rows])
        done.append(jax.tree.map(np.asarray, paths))
        report(min(i + batch_size, num))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *done)


def flow_row(paths: Paths, before: Sequence[Row]) -> Row:
    """A flow: how straight it is, what it costs, and how far one Euler step is from its own fine solution.

    `bound` is the theorem's, E|data - base|^2 over the number of flows so far, for the `straightest` of them. That cost
    is of independent pairs, E|data|^2 + E|base|^2, with the first flow's samples as data.
    """
    entries = paths.start[0].size
    bend = float(paths.bend.mean())
    independent = before[0]["independent"] if before else float(straightness.squared(paths.end).mean()) + entries
    return {
        "straightness": bend,
        **costs(paths.start, paths.end),
        "nfe": 1,
        "rmse": float(np.sqrt(paths.leap.mean() / entries)),
        "independent": independent,
        "straightest": min([bend, *(row["straightness"] for row in before)]),
        "bound": independent / (len(before) + 1),
    }


def distilled_row(denoiser: Any, process: Any, nodes: int, num_classes: int | None, teacher: Paths) -> Row:
    """A distilled model: its costs, and how far its own few steps are from the teacher's fine solution."""
    plan = samplers.plan("euler", process, nodes, "uniform_t")
    labels = classes(range(len(teacher.start)), num_classes)
    end = samplers.run(plan, denoiser, teacher.start, cond=labels)
    error = float(np.sqrt(np.mean((end - teacher.end) ** 2)))
    return {**costs(teacher.start, end), "nfe": nodes, "rmse": error}


def costs(start: Any, end: Any) -> dict[str, float]:
    """Every cost of `straightness.COSTS`."""
    return {name: float(straightness.transport_cost(start, end, cost)) for name, cost in straightness.COSTS.items()}
