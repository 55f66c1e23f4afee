"""`ParamTable`: one row per parameter, from which initialisation, forward multipliers and optimiser follow."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from gendyn.parametrization.rules import DECAYS, OPTIMIZERS, RULES, Multipliers
from gendyn.parametrization.widths import SCALES, Growth, Sizes, growth, scaled_sizes
from gendyn.tree import paths

NOT_FANS = ("layers",)
"""Axes that are neither fan-in nor fan-out."""


@dataclass(frozen=True)
class Row:
    """A parameter: its kind, its growth on both sides, and its multipliers (`rules.Multipliers`)."""

    path: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    axes: tuple[str, ...]
    kind: str
    m_in: float
    m_out: float
    multipliers: Multipliers


@dataclass(frozen=True)
class ParamTable:
    """How every parameter of a network is initialised and trained, relative to a smaller one that was tuned.

    Made by `table`. Printable, and JSON by `to_json` and `from_json`; nothing is ever rescaled when it is read.

    Attributes:
        rule, optimizer, decay: the names that decided the multipliers.
        base, target: sizes.
    """

    rows: tuple[Row, ...]
    rule: str
    optimizer: str
    decay: str
    base: dict[str, Any]
    target: dict[str, Any]

    def tree(self, name: str, like: Any) -> Any:
        """One multiplier as a tree of numbers like the parameters: "init", "forward", "learning_rate", ...

        Raises:
            ValueError: parameters that are not those of the table.
        """
        self.check(like)
        values = {row.path: getattr(row.multipliers, name) for row in self.rows}
        return jax.tree.unflatten(jax.tree.structure(like), [values[path] for path, _ in paths(like)])

    def check(self, params: Any) -> None:
        """Refuse parameters of another network or size."""
        found = {path: tuple(leaf.shape) for path, leaf in paths(params)}
        wanted = {row.path: row.shape for row in self.rows}
        for path in sorted(found.keys() | wanted.keys()):
            if found.get(path) != wanted.get(path):
                raise ValueError(
                    f"the table is of another network: {path} is {wanted.get(path, 'absent')} there and "
                    f"{found.get(path, 'absent')} here; make the table of this network."
                )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ParamTable:
        known = json.loads(text)
        rows = tuple(_read(row) for row in known.pop("rows"))
        return cls(rows=rows, **known)

    def __str__(self) -> str:
        """One aligned line per parameter."""
        names = [field.name for field in dataclasses.fields(Multipliers)]
        cells = [("parameter", "shape", "kind", "m_in", "m_out", *names)]
        for row in self.rows:
            values = [f"{v:g}" for v in (row.m_in, row.m_out, *dataclasses.astuple(row.multipliers))]
            cells.append((row.path, str(row.shape), row.kind, *values))
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        head = f"{self.rule}, {self.optimizer}, {self.decay} weight decay, base {self.base}, target {self.target}"
        lines = ("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in cells)
        return "\n".join([head, *lines])


def _read(row: dict[str, Any]) -> Row:
    """A row from JSON, where tuples are lists."""
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    plain["multipliers"] = Multipliers(**row["multipliers"])
    return Row(**plain)


def table(
    make_network: Callable[..., Any],
    *,
    base: Sizes,
    target: Sizes,
    rule: str = "mup",
    optimizer: str = "adam",
    decay: str = "independent",
) -> ParamTable:
    """The table of make_network(**target), relative to make_network(**base), from shapes alone.

    Kinds follow from which dimensions grow (`widths`) in the house layout: the last axis is the output, all before it
    are contracted. Depth is not a width: base and target have the same.

    Args:
        make_network: sizes by name -> `Network`.
        base: the sizes at which hyperparameters were tuned; target: those to be trained.
        rule: one of `RULES`; optimizer: one of `OPTIMIZERS`; decay: one of `DECAYS`.

    Raises:
        ValueError: unknown names; sizes or networks of which the widths cannot be told (see `widths.growth`).

    Example:
        >>> import jax.numpy as jnp
        >>> from types import SimpleNamespace
        >>> def make(width):
        ...     shapes = {"in": (2, width), "mid": (width, width), "out": (width, 2)}
        ...     init = lambda key: {name: jnp.ones(shape) for name, shape in shapes.items()}
        ...     return SimpleNamespace(init=init, axes=None)
        >>> for row in table(make, base={"width": 64}, target={"width": 256}).rows:
        ...     print(row.path, row.kind, row.multipliers.learning_rate, row.multipliers.forward)
        in input 1.0 1.0
        mid hidden 0.25 1.0
        out output 1.0 0.25
    """
    for what, name, known in (("rule", rule, RULES), ("optimizer", optimizer, OPTIMIZERS), ("decay", decay, DECAYS)):
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(known)}.")
    rows = tuple(_row(entry, rule, optimizer, decay) for entry in growth(make_network, base, target))
    if rule != "sp" and scaled_sizes(base, target) and not any(row.m_out > 1 or row.m_in > 1 for row in rows):
        raise ValueError(
            f"no parameter grows with {', '.join(scaled_sizes(base, target))}; name the sizes that are widths."
        )
    return ParamTable(rows, rule, optimizer, decay, dict(base), dict(target))


def _row(entry: Growth, rule: str, optimizer: str, decay: str) -> Row:
    fans = [ratio for i, ratio in enumerate(entry.ratios) if not (entry.axes and entry.axes[i] in NOT_FANS)]
    inputs, output = fans[:-1], fans[-1] if fans else None
    m_in = math.prod(ratio for ratio in inputs if ratio is not None)
    m_out = 1.0 if output is None else output
    kind = _kind(len(fans), any(ratio is not None for ratio in inputs), output is not None)
    found = RULES[rule](kind, m_in, m_out, OPTIMIZERS[optimizer])
    share = DECAYS[decay](kind, m_in, found.learning_rate) if kind not in ("vector", "scalar") else 0.0
    multipliers = dataclasses.replace(found, weight_decay=share)
    return Row(entry.path, entry.shape, entry.base_shape, entry.axes, kind, float(m_in), float(m_out), multipliers)


def _kind(fans: int, grows_in: bool, grows_out: bool) -> str:
    if fans <= 1:
        return "vector" if grows_out else "scalar"
    if grows_in:
        return "hidden" if grows_out else "output"
    return "input" if grows_out else "scalar"


def init(table: ParamTable, make_network: Callable[..., Any], key: Any) -> Any:
    """Parameters of the target, drawn by the network's own initialisers and rescaled to the table's deviations.

    How the initialisers themselves scale is measured, on the base network and on twice its size: exponents are
    multiples of one half, so a sample tells them. Parameters that start at zero stay there.
    """
    ratios = _own_exponents(table, make_network)
    params = make_network(**table.target).init(key)
    table.check(params)
    rows = {row.path: row for row in table.rows}

    def rescaled(path: str, leaf: Any) -> Any:
        row = rows[path]
        grown = row.m_in if row.kind in ("hidden", "output") else row.m_out
        return leaf * (row.multipliers.init / grown ** ratios[path])

    return jax.tree.unflatten(jax.tree.structure(params), [rescaled(path, leaf) for path, leaf in paths(params)])


def _own_exponents(table: ParamTable, make_network: Callable[..., Any]) -> dict[str, float]:
    """Path -> e, where the network's initialisers draw with a deviation that grows as the e-th power of the sizes."""
    names = scaled_sizes(table.base, table.target)
    sizes = [{**table.base, **{name: table.base[name] * r for name in names}} for r in SCALES[:2]]
    with jax.ensure_compile_time_eval():  # also where parameters are drawn inside a compiled function
        drawn = [dict(paths(make_network(**each).init(jax.random.key(0)))) for each in sizes]
        return {path: _exponent(*(np.std(np.asarray(side[path])) for side in drawn)) for path in drawn[0]}


def _exponent(small: float, large: float) -> float:
    return 0.0 if small == 0 or large == 0 else round(2 * math.log2(large / small)) / 2


def parametrised(network: Any, table: ParamTable) -> Any:
    """The network with the table's forward multipliers: each kernel counts as multiplier times itself.

    On a kernel this is a multiplier of its input, as in the published form; biases have none. Same parameters.
    """

    def scaled(params: Any) -> Any:
        return jax.tree.map(lambda p, c: p if c == 1 else c * p, params, table.tree("forward", params))

    return dataclasses.replace(
        network,
        apply=lambda params, x, label, cond=None: network.apply(scaled(params), x, label, cond),
        train=lambda params, x, label, cond, key: network.train(scaled(params), x, label, cond, key),
    )
