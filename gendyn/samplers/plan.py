"""A sampler as a table: `SamplerPlan`, and the helpers that solvers build it with.

One row of the table is

    y = ex x + em . history + en . draws + ec        where the network is evaluated, at time t
    m = oy y + om D(y, t)                            what is remembered; only if `call`
    history <- (m, history[:-1])                     only if `call`
    x = sx x + sm . history + sn . draws + sc        the state after the row

with `draws` the unit noises of this row and the rows before it, newest first. Runge-Kutta stages are rows that leave
x alone; predictors live in `e*`, correctors in `s*`; start-up steps and padding are rows like any other. The number of
network calls is the number of rows whose `call` is true.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gendyn.tree import namespace, pytree, static


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanInfo:
    """What a plan is, apart from its numbers; never seen by the compiled program."""

    name: str
    order: int
    process: Any
    notes: str = ""
    field: str = "denoised"
    """What is called must return this: "denoised", "velocity", a consistency model's "jump", the drift of an SDE."""


@pytree
class SamplerPlan:
    """R rows of coefficients, with a window of W past outputs and of N past draws (all float64 on the host).

    Attributes:
        t: time of each evaluation on the process's clock, [R].
        call: whether the row calls the network, [R] bool.
        ex, ec, oy, om, sx, sc: [R] or, per element of the data, [R, *data].
        em, sm: [R, W] or [R, W, *data].
        en, sn: [R, N] or [R, N, *data]; N = 0 means that the plan is deterministic and draws nothing.
        clock: [R, 2], the interval of row i on the Brownian clock, see `gendyn.samplers.brownian`.
        info: name, order of convergence, process; static, and stripped before compilation.
    """

    t: Any
    call: Any
    ex: Any
    em: Any
    en: Any
    ec: Any
    oy: Any
    om: Any
    sx: Any
    sm: Any
    sn: Any
    sc: Any
    clock: Any
    info: PlanInfo | None = static(default=None)

    @property
    def rows(self) -> int:
        """Number of rows R."""
        return self.t.shape[-1]

    @property
    def window(self) -> int:
        """Number of remembered outputs W."""
        return self.em.shape[self.t.ndim]

    @property
    def draws(self) -> int:
        """Number of remembered draws N; zero for a deterministic plan."""
        return self.en.shape[self.t.ndim]

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of per-element coefficients, () when every coefficient is one number per row."""
        return self.sx.shape[self.t.ndim :]

    @property
    def nfe(self) -> int:
        """Network calls: the rows whose `call` is true."""
        return int(np.asarray(self.call).sum())

    @property
    def noise_rows(self) -> int:
        """Rows whose own draw is used, by themselves or by a later row."""
        used = np.zeros(self.rows + self.draws, bool)
        for lag in range(self.draws):
            both = np.stack([np.asarray(self.en)[:, lag], np.asarray(self.sn)[:, lag]], axis=1)
            active = np.any(both.reshape(self.rows, -1), axis=1)
            used[: self.rows - lag] |= active[lag:]
        return int(used.sum())

    @property
    def order(self) -> int:
        """Order of convergence of the rule (weak order for stochastic plans), start-up and last steps aside."""
        return self._described.order

    @property
    def name(self) -> str:
        return self._described.name

    @property
    def process(self) -> Any:
        return self._described.process

    @property
    def field(self) -> str:
        """What `run` must be given to call: a denoiser ("denoised"), a velocity, the drift of an SDE."""
        return self._described.field

    @property
    def _described(self) -> PlanInfo:
        if self.info is None:
            raise ValueError("this plan carries no description (name, order, process); it was stripped or stacked.")
        return self.info

    def pad(self, rows: int | None = None, window: int | None = None, draws: int | None = None) -> SamplerPlan:
        """The same sampler in a larger table: identity rows appended, windows widened with zeros.

        Plans padded to one shape share one compiled program. Padded rows call nothing (under `vmap` over plans they
        still compute).
        """
        rows, window, draws = rows or self.rows, window or self.window, self.draws if draws is None else draws
        if rows < self.rows or window < self.window or draws < self.draws:
            raise ValueError(
                f"pad can only enlarge: the plan has rows={self.rows}, window={self.window}, draws={self.draws}; "
                f"asked for rows={rows}, window={window}, draws={draws}."
            )
        grow = {"em": window, "sm": window, "en": draws, "sn": draws}
        fill = {"sx": 1.0, "ex": 1.0, "t": self.t[-1]}

        def enlarge(name: str, value: Any) -> Any:
            value = np.asarray(value)
            widths = [(0, rows - self.rows)] + [(0, 0)] * (value.ndim - 1)
            if name in grow:
                widths[1] = (0, grow[name] - value.shape[1])
            return np.pad(value, widths, constant_values=fill.get(name, 0))

        leaves = {name: enlarge(name, getattr(self, name)) for name in LEAVES}
        return dataclasses.replace(self, **leaves)

    def table(self) -> str:
        """The plan as aligned text, one line per row; per-element coefficients are shown by their mean."""
        header = ["row", "call", "t", "ex", "em", "en", "ec", "oy", "om", "sx", "sm", "sn", "sc"]
        lines = [header]
        for i in range(self.rows):
            cells = [_cell(np.asarray(getattr(self, name))[i], name) for name in header[2:]]
            lines.append([str(i), "x" if self.call[i] else ".", *cells])
        widths = [max(len(line[j]) for line in lines) for j in range(len(header))]
        body = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)
        title = f"{self.info.name}: order {self.info.order}, " if self.info else ""
        return f"{title}{self.nfe} network calls, {self.rows} rows, {self.noise_rows} draws\n{body}"

    def _repr_html_(self) -> str:
        """A notebook shows the table."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        return self.table() if np.ndim(self.t) == 1 and not isinstance(self.t, jax.core.Tracer) else repr(self)


LEAVES = tuple(f.name for f in dataclasses.fields(SamplerPlan) if f.name != "info")
VECTORS = ("em", "sm", "en", "sn")


def _cell(value: np.ndarray, name: str) -> str:
    if name in VECTORS:
        return " ".join(f"{v:.5g}" for v in value.reshape(len(value), -1).mean(1)) if len(value) else "-"
    return f"{value.mean():.5g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One row as a solver writes it: missing terms are zero, and by default the network sees x and D is remembered."""

    t: Any
    ex: Any = 1.0
    em: Sequence[Any] = ()
    en: Sequence[Any] = ()
    ec: Any = 0.0
    oy: Any = 0.0
    om: Any = 1.0
    sx: Any = 1.0
    sm: Sequence[Any] = ()
    sn: Sequence[Any] = ()
    sc: Any = 0.0
    call: bool = True
    clock: tuple[Any, Any] = (0.0, 0.0)


def assemble(
    process: Any, rows: Sequence[Row], *, name: str, order: int, notes: str = "", field: str = "denoised"
) -> SamplerPlan:
    """Stack rows into a plan with the smallest windows that hold them.

    The array module follows the rows (numpy on the host; jax when a tuned grid is differentiated).

    Raises:
        ValueError: if a coefficient is not finite, naming the row; noise on a process whose own noise is not Gaussian.
    """
    xp = namespace(*jax.tree.leaves([dataclasses.astuple(row) for row in rows]))
    shape = np.broadcast_shapes(*{np.shape(leaf) for row in rows for leaf in _coefficients(row)})
    window = max(1, *(max(len(row.em), len(row.sm)) for row in rows))
    draws = max(max(len(row.en), len(row.sn)) for row in rows)
    if draws and not process.gaussian_noise:
        raise ValueError(
            f"{name} adds Gaussian noise to the state, but the noise of {process} is not Gaussian (its denoiser gives "
            "no score); use a deterministic sampler: ddim, heun, dpmpp, unipc, deis, ..., or eta=0."
        )

    def scalar(value: Any) -> Any:
        return xp.broadcast_to(xp.asarray(value, float), shape)

    def vector(values: Sequence[Any], width: int) -> Any:
        padded = [scalar(v) for v in values] + [scalar(0.0)] * (width - len(values))
        return xp.stack(padded) if padded else xp.zeros((0, *shape))

    widths = {"em": window, "sm": window, "en": draws, "sn": draws}
    leaves = {k: xp.stack([vector(getattr(row, k), n) for row in rows]) for k, n in widths.items()}
    leaves |= {k: xp.stack([scalar(getattr(row, k)) for row in rows]) for k in ("ex", "ec", "oy", "om", "sx", "sc")}
    plan = SamplerPlan(
        t=xp.stack([xp.asarray(row.t, float) for row in rows]),
        call=np.array([row.call for row in rows]),
        clock=xp.stack([xp.asarray(row.clock, float) for row in rows]),
        info=PlanInfo(name=name, order=order, process=process, notes=notes, field=field),
        **leaves,
    )
    _require_finite(plan)
    return plan


def _coefficients(row: Row) -> list[Any]:
    return [row.ex, row.ec, row.oy, row.om, row.sx, row.sc, *row.em, *row.en, *row.sm, *row.sn]


def _require_finite(plan: SamplerPlan) -> None:
    if any(isinstance(getattr(plan, name), jax.core.Tracer) for name in LEAVES):
        return
    for name in LEAVES:
        value = np.asarray(getattr(plan, name), float).reshape(plan.rows, -1)
        bad = np.flatnonzero(~np.isfinite(value).all(1))
        if len(bad):
            raise ValueError(
                f"{plan.name}: coefficient {name} of row {bad[0]} (t = {float(plan.t[bad[0]]):g}) is not finite; the "
                "grid touches an end where this solver is undefined: pass t_start=/t_end= strictly inside the clock, "
                "or final_zero=False."
            )


def stack(plans: Sequence[SamplerPlan]) -> SamplerPlan:
    """Plans padded to one shape and stacked on a leading axis, for `jax.vmap(lambda plan: run(plan, D, x))`."""
    if not plans:
        raise ValueError("stack needs at least one plan; got none.")
    sizes = {k: max(getattr(plan, k) for plan in plans) for k in ("rows", "window", "draws")}
    padded = [dataclasses.replace(plan.pad(**sizes), info=None) for plan in plans]
    shapes = {plan.data_shape for plan in padded}
    if len(shapes) > 1:
        raise ValueError(f"stack needs plans with coefficients of one shape; got data shapes {sorted(shapes)}.")
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
