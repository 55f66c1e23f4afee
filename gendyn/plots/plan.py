"""A sampler seen at a glance: its times, and the coefficients that carry the state from row to row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@runtime_checkable
class Table(Protocol):
    """The columns that are drawn: any object with these arrays will do, a `SamplerPlan` above all."""

    @property
    def t(self) -> Any: ...  # [R]
    @property
    def call(self) -> Any: ...  # [R] bool
    @property
    def sx(self) -> Any: ...  # [R] or [R, *data]
    @property
    def sm(self) -> Any: ...  # [R, W] or [R, W, *data]


def plan(plan: Table) -> Figure:
    """Three panels over the rows of a plan: time, the factor sx of the state, the weights sm of remembered outputs.

    Filled marks are rows that call the network, hollow ones do not. Coefficients that differ between the elements of
    the data are drawn as their mean. If the plan adds noise, its weights sn appear dotted in the last panel.

    >>> from types import SimpleNamespace
    >>> rows = dict(t=np.array([1.0, 0.5]), call=np.array([True, True]), sx=np.ones(2), sm=np.ones((2, 1)))
    >>> [ax.get_ylabel() for ax in plan(SimpleNamespace(**rows)).axes]
    ['t', 'sx', 'sm']
    """
    from matplotlib.figure import Figure

    t, call = np.asarray(plan.t, np.float64), np.asarray(plan.call, bool)
    if t.ndim != 1 or t.shape != call.shape:
        raise ValueError(f"a plan is drawn alone, with t [R] and call [R]; got {list(t.shape)} and {list(call.shape)}.")
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    _draw(axes[0], t, call, "t")
    _draw(axes[1], _mean(plan.sx, 1), call, "sx")
    for lag, weights in enumerate(_mean(plan.sm, 2).T):
        _draw(axes[2], weights, call, "sm", label=f"output {lag} back", color=f"C{lag}")
    _noise(axes[2], getattr(plan, "sn", None))
    axes[2].legend(fontsize="small")
    figure.suptitle(f"{len(t)} rows, {call.sum()} network calls")
    return figure


def _draw(
    ax: Axes, values: np.ndarray, call: np.ndarray, name: str, color: str = "C0", label: str | None = None
) -> None:
    rows = np.arange(len(values))
    ax.plot(rows, values, color=color, linewidth=1, label=label)
    ax.scatter(rows, values, s=18, edgecolors=color, facecolors=[color if c else "none" for c in call], zorder=3)
    ax.set(xlabel="row", ylabel=name)


def _noise(ax: Axes, sn: Any) -> None:
    if sn is None or not np.any(sn):
        return
    for lag, weights in enumerate(_mean(sn, 2).T):
        ax.plot(weights, color=f"C{lag}", linestyle=":", label=f"noise {lag} back")


def _mean(coefficients: Any, kept: int) -> np.ndarray:
    """Mean over the data axes, which follow the first `kept` axes."""
    values = np.asarray(coefficients, np.float64)
    return values.reshape(*values.shape[:kept], -1).mean(-1)
