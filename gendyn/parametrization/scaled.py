"""A network as its table wants it: drawn, multiplied and scaled."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from gendyn.parametrization.table import ParamTable
from gendyn.parametrization.widths import SCALES, pattern, scaled_sizes
from gendyn.tree import paths


def network(table: ParamTable, make_network: Callable[..., Any]) -> Any:
    """The target network under its table: initial deviations, forward multipliers, branch and attention scales.

    Its parameters are those of make_network(**table.target), of the same shapes: what was trained under a table is read
    back with it and never rescaled. A kernel's forward multiplier is one of its input, as in the published form; biases
    have none.

    Args:
        make_network: as the table was made with. If the table scales branches or attention logits, it also takes
            `branch_scale` or `attention_scale`, as the networks of gendyn do.

    Raises:
        ValueError: it does not.

    Example:
        >>> from functools import partial
        >>> import gendyn as gd, jax
        >>> make = lambda width: gd.networks.functional(partial(gd.networks.MLP, 2, width=width, depth=1))
        >>> rows = gd.parametrization.table(make, base={"width": 16}, target={"width": 64})
        >>> network(rows, make).init(jax.random.key(0))["stem"]["kernel"].shape
        (2, 64)
    """
    made = make_network(**table.target, **_scales(table, make_network))
    return dataclasses.replace(
        made,
        init=Drawn(table, make_network),
        apply=Multiplied(made.apply, _forward(table)),
        train=Multiplied(made.train, _forward(table)),
        table=table,
    )


@dataclass(frozen=True)
class Multiplied:
    """apply(params, ...) with every leaf multiplied by its number; hashable, so that equal networks share programs."""

    apply: Callable[..., Any]
    factors: tuple[float, ...]

    def __call__(self, params: Any, *inputs: Any, **named: Any) -> Any:
        return self.apply(self._multiplied(params), *inputs, **named)

    def encode(self, params: Any, *inputs: Any) -> Any:
        """The first half of a network in two halves, multiplied likewise."""
        return self.apply.encode(self._multiplied(params), *inputs)  # type: ignore[attr-defined]

    def decode(self, params: Any, *inputs: Any, **named: Any) -> Any:
        """The second half."""
        return self.apply.decode(self._multiplied(params), *inputs, **named)  # type: ignore[attr-defined]

    def tapped(self) -> Multiplied:
        """The same, with the network's features by name."""
        return dataclasses.replace(self, apply=self.apply.tapped())  # type: ignore[attr-defined]

    def _multiplied(self, params: Any) -> Any:
        leaves, structure = jax.tree.flatten(params)
        scaled = [leaf if c == 1 else c * leaf for leaf, c in zip(leaves, self.factors, strict=True)]
        return jax.tree.unflatten(structure, scaled)


def _forward(table: ParamTable) -> tuple[float, ...]:
    return tuple(row.multipliers.forward for row in table.rows)


def _scales(table: ParamTable, make_network: Callable[..., Any]) -> dict[str, float]:
    wanted = {} if table.branch_scale == 1 else {"branch_scale": table.branch_scale}
    wanted |= {} if table.attention_scale is None else {"attention_scale": table.attention_scale}
    known = inspect.signature(make_network).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name in wanted:
        if name not in known and not takes_all:
            raise ValueError(
                f"the table scales the network by {name} = {wanted[name]:g}, but its maker does not take {name}=; pass "
                "it on to the network, for example lambda width, depth, **scales: functional(partial(MLP, ..., "
                "**scales))."
            )
    return wanted


def init(table: ParamTable, make_network: Callable[..., Any], key: Any) -> Any:
    """Parameters of the target, drawn by the network's own initialisers and rescaled to the table's deviations.

    How the initialisers themselves scale is measured, on the base network and on twice its size: exponents are
    multiples of one half, so a sample tells them. Parameters that start at zero stay there.
    """
    return Drawn(table, make_network)(key)


@dataclass(frozen=True, eq=False)
class Drawn:
    """`init` of one network, which measures its initialisers once."""

    table: ParamTable
    make_network: Callable[..., Any]

    @cached_property
    def exponents(self) -> dict[str, float]:
        return _own_exponents(self.table, self.make_network)

    def __call__(self, key: Any) -> Any:
        params = self.make_network(**self.table.target).init(key)
        self.table.check(params)
        rows = {row.path: row for row in self.table.rows}

        def rescaled(path: str, leaf: Any) -> Any:
            row = rows[path]
            grown = row.m_in if row.kind in ("hidden", "output") else row.m_out
            return leaf * (row.multipliers.init / grown ** self.exponents[pattern(path)])

        return jax.tree.unflatten(jax.tree.structure(params), [rescaled(path, leaf) for path, leaf in paths(params)])


def _own_exponents(table: ParamTable, make_network: Callable[..., Any]) -> dict[str, float]:
    """Pattern of a path -> e, where initialisers draw with a deviation that grows as the e-th power of the widths."""
    names = [name for name in scaled_sizes(table.base, table.target) if name not in table.deep]
    small, large = ({**table.base, **{name: table.base[name] * r for name in names}} for r in SCALES[:2])
    with jax.ensure_compile_time_eval():  # also where parameters are drawn inside a compiled function
        drawn = [_deviations(make_network(**sizes).init(jax.random.key(0))) for sizes in (small, large)]
    return {path: _exponent(drawn[0][path], drawn[1][path]) for path in drawn[0]}


def _deviations(params: Any) -> dict[str, float]:
    """Pattern of a path -> standard deviation in the first block."""
    found: dict[str, float] = {}
    for path, leaf in paths(params):
        found.setdefault(pattern(path), float(np.std(np.asarray(leaf))))
    return found


def _exponent(small: float, large: float) -> float:
    return 0.0 if small == 0 or large == 0 else round(2 * math.log2(large / small)) / 2
