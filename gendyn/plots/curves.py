"""Curves from tables: a table is a sequence of rows, a row is a dict, as in `metrics.jsonl`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = Iterable[Mapping[str, Any]]


def loss(rows: Table, values: Sequence[str] = ("loss",), *, by: str = "step") -> Figure:
    """Training curves: each of `values` against `by`; rows that lack one are skipped for that curve.

    The raw values are faint; the line on top is their mean over windows of about a fiftieth of the run. The vertical
    axis is logarithmic where every value is positive.

    >>> figure = loss([{"step": 0, "loss": 2.0}, {"step": 10, "loss": 1.0}, {"step": 10, "images_per_s": 900.0}])
    >>> figure.axes[0].get_xlabel()
    'step'
    """
    from matplotlib.figure import Figure

    rows = list(rows)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    ax = figure.subplots()
    for colour, name in enumerate(values):
        steps, curve = _column(rows, by, name)
        ax.plot(steps, curve, color=f"C{colour}", alpha=0.25, linewidth=0.8)
        ax.plot(_windows(steps), _windows(curve), color=f"C{colour}", label=name)
    drawn = [point for line in ax.lines for point in np.asarray(line.get_ydata()).tolist()]
    ax.set(xlabel=by, ylabel=", ".join(values), yscale="log" if min(drawn) > 0.0 else "linear")
    ax.legend()
    return figure


def error_vs_nfe(rows: Table, *, by: str = "sampler", nfe: str = "nfe", error: str = "error") -> Figure:
    """Error against network calls, both logarithmic: one line for each value of the column `by`.

    Rows with the same (by, nfe), such as seeds, make one point: the line is their median, the band reaches from
    the least to the greatest. The slope of a straight stretch is minus the order of the solver.

    >>> rows = [{"sampler": "ddim", "nfe": n, "seed": s, "error": (1 + s) / n} for n in (5, 10) for s in (0, 1, 2)]
    >>> error_vs_nfe(rows).axes[0].lines[0].get_ydata().tolist()
    [0.4, 0.2]
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax = figure.subplots()
    groups = _grouped(rows, by, nfe, error)
    for name, points in groups.items():
        calls = sorted(points)
        ax.plot(calls, [np.median(points[n]) for n in calls], marker="o", markersize=4, label=str(name))
        ax.fill_between(calls, [min(points[n]) for n in calls], [max(points[n]) for n in calls], alpha=0.2)
    ax.set(xscale="log", yscale="log", xlabel="network calls", ylabel=error)
    every = sorted({n for points in groups.values() for n in points})
    ax.set_xticks(every, labels=[f"{n:g}" for n in every])
    ax.xaxis.minorticks_off()
    ax.grid(True, alpha=0.25)
    ax.legend()
    return figure


def ranking(rows: Table, *, by: str = "sampler", nfe: str = "nfe", value: str = "error") -> Figure:
    """Place of each `by` among all, per number of network calls, first at the top: a line for each.

    Places are by the median over rows with the same (by, nfe), such as seeds; one that cannot make a number of calls
    is missing there.

    >>> rows = [{"sampler": s, "nfe": n, "error": e / n} for s, e in (("a", 1.0), ("b", 2.0)) for n in (5, 10)]
    >>> ranking(rows).axes[0].lines[1].get_ydata().tolist()
    [2, 2]
    """
    from matplotlib.figure import Figure

    groups = _grouped(rows, by, nfe, value)
    every = sorted({n for points in groups.values() for n in points})
    places: dict[Any, dict[Any, int]] = {name: {} for name in groups}
    for n in every:
        present = sorted((np.median(points[n]), str(name), name) for name, points in groups.items() if n in points)
        for place, (_, _, name) in enumerate(present, 1):
            places[name][n] = place
    figure = Figure(figsize=(6.4, 1.5 + 0.28 * len(groups)), layout="constrained")
    ax = figure.subplots()
    for name, at in places.items():
        calls = sorted(at)
        (line,) = ax.plot([every.index(n) for n in calls], [at[n] for n in calls], marker="o", markersize=4)
        ax.annotate(
            f" {name}", (every.index(calls[-1]), at[calls[-1]]), va="center", fontsize=8, color=line.get_color()
        )
    ax.set_xticks(range(len(every)), labels=[f"{n:g}" for n in every])
    ax.set(xlabel="network calls", ylabel=f"place by {value}", xlim=(-0.3, len(every) + 0.6))
    ax.set_yticks(range(1, len(groups) + 1))
    ax.invert_yaxis()
    return figure


def coordinates(rows: Table, *, along: str = "width") -> Figure:
    """How far each activation has moved after the last step, against a size: flat lines under muP.

    Args:
        rows: of a `gendyn.parametrization.CoordinateCheck`; the median over seeds is drawn.

    >>> rows = [{"width": w, "seed": 0, "step": 1, "name": "stem", "change": 0.5} for w in (32, 64)]
    >>> coordinates(rows).axes[0].lines[0].get_ydata().tolist()
    [0.5, 0.5]
    """
    from matplotlib.figure import Figure

    rows = list(rows)
    last = max((row["step"] for row in rows), default=0)
    groups = _grouped([row for row in rows if row["step"] == last], "name", along, "change")
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    ax = figure.subplots()
    for number, (name, points) in enumerate(groups.items()):
        sizes = sorted(points)
        middle = [float(np.median(points[n])) for n in sizes]
        if min(middle) > 0:
            ax.plot(sizes, middle, marker="o", markersize=3, label=name, linestyle=("-", "--", ":")[number // 10 % 3])
    every = sorted({n for points in groups.values() for n in points})
    ax.set(xscale="log", yscale="log", xlabel=along, ylabel=f"change after {last} steps (rms)")
    ax.set_xticks(every, labels=[f"{n:g}" for n in every])
    ax.xaxis.minorticks_off()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    return figure


def transfer(rows: Table, *, along: str = "width", value: str = "learning_rate", score: str = "score") -> Figure:
    """Score against a hyperparameter, a line for each size, its least score marked: where it transfers, marks align.

    The line is the geometric mean over seeds, and the band reaches from the least to the greatest; runs that diverged
    are left out. Where several hyperparameters were swept, the least over the others is drawn.

    Args:
        rows: of a `gendyn.parametrization.Transfer`.

    >>> rows = [{"width": w, "seed": 0, "learning_rate": v, "score": v + 1 / v} for w in (32, 64) for v in (0.5, 1, 2)]
    >>> float(transfer(rows).axes[0].lines[1].get_xdata()[0])
    1.0
    """
    from matplotlib.figure import Figure

    best: dict[tuple[Any, Any], dict[Any, float]] = defaultdict(dict)
    for row in rows:
        seeds = best[row[along], row[value]]
        seeds[row["seed"]] = min(seeds.get(row["seed"], np.inf), row[score])
    points = [
        {along: size, value: v, score: found}
        for (size, v), seeds in best.items()
        for found in seeds.values()
        if np.isfinite(found)
    ]
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax = figure.subplots()
    for size, curve in sorted(_grouped(points, along, value, score).items()):
        values = sorted(curve)
        middle = [float(np.exp(np.mean(np.log(curve[v])))) for v in values]
        (line,) = ax.plot(values, middle, label=f"{along} {size}")
        least = int(np.argmin(middle))
        ax.plot(values[least], middle[least], marker="o", color=line.get_color())
        ax.fill_between(values, [min(curve[v]) for v in values], [max(curve[v]) for v in values], alpha=0.12)
    ax.set(xscale="log", yscale="log", xlabel=value, ylabel=score)
    ax.grid(True, alpha=0.25)
    ax.legend()
    return figure


def _column(rows: Sequence[Mapping[str, Any]], by: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(row[by], row[name]) for row in rows if by in row and row.get(name) is not None]
    if not pairs:
        found = sorted({key for row in rows for key in row})
        raise ValueError(f"no row has both {by!r} and {name!r}; the table has the columns {found}.")
    steps, values = np.array(pairs, np.float64).T
    return steps, values


def _windows(values: np.ndarray) -> np.ndarray:
    """Means of at most fifty consecutive stretches."""
    return np.array([stretch.mean() for stretch in np.array_split(values, min(50, len(values)))])


def _grouped(rows: Table, by: str, nfe: str, error: str) -> dict[Any, dict[Any, list[Any]]]:
    groups: dict[Any, dict[Any, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        missing = [name for name in (by, nfe, error) if name not in row]
        if missing:
            raise ValueError(
                f"every row needs the columns {by!r}, {nfe!r} and {error!r}; {missing} is missing in {row}."
            )
        groups[row[by]][row[nfe]].append(row[error])
    if not groups:
        raise ValueError("the table has no rows, so there is no curve to draw.")
    return groups
