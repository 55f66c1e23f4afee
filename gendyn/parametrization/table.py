"""`ParamTable`: one row per parameter, from which initialisation, forward multipliers and optimiser follow."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from gendyn.parametrization.kinds import kind
from gendyn.parametrization.rules import DECAYS, DEPTHS, LEARNING, OPTIMIZERS, RULES, Multipliers
from gendyn.parametrization.uses import Found, Use, look
from gendyn.parametrization.widths import Growth, Sizes, depths, growth, narrow, scaled_sizes
from gendyn.tree import paths


@dataclass(frozen=True)
class Row:
    """A parameter: its kind, its growth on both sides and in number, and its multipliers (`rules.Multipliers`)."""

    path: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    axes: tuple[str, ...]
    kind: str
    m_in: float
    m_out: float
    m_depth: float
    multipliers: Multipliers


@dataclass(frozen=True)
class ParamTable:
    """How every parameter of a network is initialised and trained, relative to a smaller one that was tuned.

    Made by `table`. Printable, and JSON by `to_json` and `from_json`; nothing is ever rescaled when it is read.

    Attributes:
        rule, optimizer, decay, depth: the names that decided the multipliers.
        base, target: sizes.
        deep: names of the sizes that add blocks instead of widening them.
        branch_scale: of every residual branch, 1 where the depth is the base's.
        attention_scale: of the logits, where heads get longer; None leaves the network's own.
    """

    rows: tuple[Row, ...]
    rule: str
    optimizer: str
    decay: str
    depth: str
    base: dict[str, Any]
    target: dict[str, Any]
    deep: tuple[str, ...] = ()
    branch_scale: float = 1.0
    attention_scale: float | None = None

    def tree(self, name: str, like: Any) -> Any:
        """One multiplier as a tree of numbers like the parameters: "init", "forward", "learning_rate", ...

        Raises:
            ValueError: parameters that are not those of the table.
        """
        self.check(like)
        return self.named({row.path: getattr(row.multipliers, name) for row in self.rows}, like)

    def named(self, values: Mapping[str, Any], like: Any) -> Any:
        """Values by path as a tree like the parameters."""
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

    def difference(self, other: ParamTable) -> str | None:
        """The first entry in which two tables differ, in words; None for equal ones."""
        for field in dataclasses.fields(self):
            here, there = getattr(self, field.name), getattr(other, field.name)
            if field.name != "rows" and here != there:
                return f"{field.name} {here!r} and {there!r}"
        rows = [{row.path: dataclasses.asdict(row) for row in table.rows} for table in (self, other)]
        for path in sorted(rows[0].keys() | rows[1].keys()):
            here, there = (side.get(path, {}) for side in rows)
            if name := next((name for name in here | there if here.get(name) != there.get(name)), None):
                return f"{path}, {name} {here.get(name, 'absent')} and {there.get(name, 'absent')}"
        return None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ParamTable:
        known = json.loads(text)
        rows = tuple(_read(row) for row in known.pop("rows"))
        return cls(rows=rows, deep=tuple(known.pop("deep")), **known)

    def __str__(self) -> str:
        """One aligned line per parameter."""
        names = [field.name for field in dataclasses.fields(Multipliers)]
        cells = [("parameter", "shape", "kind", "m_in", "m_out", "m_depth", *names)]
        for row in self.rows:
            values = [f"{v:g}" for v in (row.m_in, row.m_out, row.m_depth, *dataclasses.astuple(row.multipliers))]
            cells.append((row.path, str(row.shape), row.kind, *values))
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        head = (
            f"{self.rule}, {self.optimizer}, {self.decay} weight decay, depth {self.depth}, base {self.base}, target "
            f"{self.target}, branches times {self.branch_scale:g}"
        )
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
    depth: str | None = None,
    inputs: tuple[Any, ...] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> ParamTable:
    """The table of make_network(**target), relative to make_network(**base), from shapes alone.

    A size that adds parameters is a depth, one that lengthens them a width (`widths`). Kinds follow from which
    dimensions grow on the two sides of a kernel: as the computation uses it if `inputs` are given, and otherwise in
    the house layout, whose last axis is the output.

    Args:
        make_network: sizes by name -> `Network`, or anything with its init, apply and axes.
        base: the sizes at which hyperparameters were tuned; target: those to be trained.
        rule: one of `RULES`; optimizer: one of `OPTIMIZERS`; decay: one of `DECAYS`.
        depth: one of `DEPTHS`; CompleteP under muP and "none" under the other rules, unless given.
        inputs: what `apply` takes after the parameters, as arrays or shapes, for example (x, label, cond). With them
            networks of any library and layout are understood, declared axes are checked against what is computed, and
            attention whose heads get longer has its logits scaled as 1/length instead of 1/sqrt(length).
        kinds: regular expression of a path -> kind, where neither way is right.

    Raises:
        ValueError: unknown names; sizes or networks of which the widths cannot be told (see `widths.growth`); a
            parameter used in two ways, or otherwise than its axes say.

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
    depth = depth or ("completep" if rule in LEARNING else "none")
    named = (("rule", rule, RULES), ("optimizer", optimizer, OPTIMIZERS), ("decay", decay, DECAYS))
    for what, name, known in (*named, ("depth", depth, DEPTHS)):
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(known)}.")
    deep = depths(make_network, base, target)
    entries = growth(make_network, base, target, deep)
    seen = None if inputs is None else _look(make_network, target, inputs)
    small = None
    if inputs is not None and rule in LEARNING:
        small = _look(make_network, narrow(base, target, deep), inputs)
    rows = tuple(
        _row(entry, frozenset(seen.uses[entry.path]) if seen else None, kinds or {}, rule, optimizer, decay, depth)
        for entry in entries
    )
    grown = any({row.m_in, row.m_out, row.m_depth} != {1.0} for row in rows)
    if rule != "sp" and scaled_sizes(base, target) and not grown:
        raise ValueError(
            f"no parameter grows with {', '.join(scaled_sizes(base, target))}; name the sizes that are widths."
        )
    return ParamTable(
        rows=rows,
        rule=rule,
        optimizer=optimizer,
        decay=decay,
        depth=depth,
        base=dict(base),
        target=dict(target),
        deep=tuple(deep),
        branch_scale=_branch_scale(entries, depth),
        attention_scale=_attention_scale(small.products, seen.products) if small and seen else None,
    )


def _row(
    entry: Growth,
    used: frozenset[Use] | None,
    kinds: Mapping[str, str],
    rule: str,
    optimizer: str,
    decay: str,
    depth: str,
) -> Row:
    found = kind(entry, used, kinds)
    name, m_in, m_out = found.name, found.m_in, found.m_out
    wide, deep = RULES[rule](name, m_in, m_out, OPTIMIZERS[optimizer]), DEPTHS[depth]
    share = DECAYS[decay](name, m_in, wide.learning_rate) if name not in ("vector", "scalar") else 0.0
    multipliers = dataclasses.replace(
        wide,
        learning_rate=wide.learning_rate * deep.rate(entry.depth, OPTIMIZERS[optimizer].power),
        weight_decay=share,
        eps=wide.eps * deep.branch(entry.depth),
    )
    return Row(entry.path, entry.shape, entry.base_shape, entry.axes, name, m_in, m_out, entry.depth, multipliers)


def _look(make_network: Callable[..., Any], sizes: Sizes, inputs: tuple[Any, ...]) -> Found:
    network = make_network(**sizes)
    return look(network.apply, jax.eval_shape(network.init, jax.random.key(0)), *inputs)


def _branch_scale(entries: Sequence[Growth], depth: str) -> float:
    """One number for all residual branches, so that all blocks must multiply alike."""
    ratios = {entry.depth for entry in entries} - {1.0}
    if len(ratios) > 1 and DEPTHS[depth].alpha:
        raise ValueError(
            f"blocks multiply by different ratios, {sorted(ratios)}, but a network has one branch scale; scale one "
            'depth, or all by the same ratio, or pass depth="none".'
        )
    return DEPTHS[depth].branch(ratios.pop()) if len(ratios) == 1 else 1.0


def _attention_scale(small: Sequence[int], large: Sequence[int]) -> float | None:
    """sqrt(base length)/length of a head, so that it is the usual 1/sqrt(length) at base; None if heads do not grow.

    Args:
        small, large: summands of each product of two activations, at the base's widths and at the target's.
    """
    pairs = {(a, b) for a, b in zip(small, large) if a != b}
    if not pairs:
        return None
    if len(pairs) > 1:
        raise ValueError(
            f"the products of activations grow differently, {sorted(pairs)} at base and target; grow the number of "
            "heads and leave their length."
        )
    length, longer = pairs.pop()
    return math.sqrt(length) / longer
