"""What a computation does with each parameter: found in its jaxpr, whatever the library that wrote it.

A kernel is known by what consumes it, not by its name or layout: dimensions that a `dot_general` or a convolution sums
over are its fan-in, the others its fan-out. Parameters are followed through casts, transposes, reshapes, broadcasts,
multiplication by a number, and into jitted, rematerialised, custom-derivative, scanned and branching parts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array

from gendyn.jaxprs import bind, called, closed
from gendyn.tree import paths

Sides = frozenset[int]


@dataclass(frozen=True)
class Use:
    """One way in which a parameter is consumed.

    Attributes:
        how: "contracted" with an activation, its rows "looked up", or added or multiplied "elementwise".
        fan_in, fan_out: dimensions of the parameter on the two sides; what is in neither is a batch of kernels, the
            extent of a depthwise convolution, or the layers of a scan.
    """

    how: Literal["contracted", "looked up", "elementwise"]
    fan_in: Sides
    fan_out: Sides


@dataclass(frozen=True)
class Origin:
    """A value that is a parameter, perhaps rearranged: for each of its axes the parameter's dimensions in it."""

    path: str
    axes: tuple[Sides, ...]

    def side(self, axes: Sequence[int]) -> Sides:
        return frozenset().union(*(self.axes[axis] for axis in axes))


@dataclass
class Found:
    """What a pass over a computation collects.

    Attributes:
        uses: path of a parameter -> what is done with it.
        activations: what comes out of every kernel, and of products of two activations.
        products: how many numbers are summed over in each product of two activations, in order.
    """

    uses: dict[str, set[Use]] = field(default_factory=lambda: defaultdict(set))
    activations: dict[str, Array] = field(default_factory=dict)
    products: list[int] = field(default_factory=list)

    def keep(self, name: str, value: Array) -> None:
        """A value under its name; a kernel used several times makes several, told apart by a count."""
        count = sum(1 for known in self.activations if known.split("#")[0] == name)
        self.activations[f"{name}#{count + 1}" if count else name] = value


def uses(apply: Callable[..., Any], params: Any, *inputs: Any) -> dict[str, frozenset[Use]]:
    """Path -> what apply(params, *inputs) does with that parameter, on shapes alone.

    Args:
        params, inputs: arrays or `jax.ShapeDtypeStruct`s.

    Returns:
        An empty set for a parameter that is not consumed by anything known here.

    >>> import jax.numpy as jnp
    >>> apply = lambda params, x: x @ params["kernel"] + params["bias"]
    >>> found = uses(apply, {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, jnp.ones((2, 3)))
    >>> [(use.how, set(use.fan_in), set(use.fan_out)) for use in found["kernel"]]
    [('contracted', {0}, {1})]
    """
    found = look(apply, params, *inputs)
    return {path: frozenset(found.uses[path]) for path, _ in paths(params)}


def look(apply: Callable[..., Any], params: Any, *inputs: Any) -> Found:
    """Everything that one pass over apply(params, *inputs) finds, on shapes alone."""
    found = Found()
    jax.eval_shape(lambda params, inputs: _followed(apply, params, inputs, found), params, inputs)
    return found


def activations(apply: Callable[..., Any], params: Any, *inputs: Any) -> tuple[Any, dict[str, Array]]:
    """apply(params, *inputs), and what comes out of every kernel on the way; can be jitted, mapped and differentiated.

    Names are the kernels' paths without "/kernel"; products of two activations (attention) are "product", numbered
    from the second on. Inside scans and loops nothing is recorded.

    >>> import jax.numpy as jnp
    >>> apply = lambda params, x: jnp.tanh(x @ params["one"]) @ params["two"]
    >>> params = {"one": jnp.ones((3, 4)), "two": jnp.ones((4, 1))}
    >>> {name: value.shape for name, value in activations(apply, params, jnp.ones((2, 3)))[1].items()}
    {'one': (2, 4), 'two': (2, 1)}
    """
    found = Found()
    output = _followed(apply, params, inputs, found)
    return output, found.activations


def _followed(apply: Callable[..., Any], params: Any, inputs: tuple[Any, ...], found: Found) -> Any:
    closed, shape = jax.make_jaxpr(lambda p, i: apply(p, *i), return_shape=True)(params, inputs)
    named = [Origin(path, tuple(frozenset({d}) for d in range(leaf.ndim))) for path, leaf in paths(params)]
    values = [*jax.tree.leaves(params), *jax.tree.leaves(inputs)]
    origins = [*named, *[None] * (len(values) - len(named))]
    results, _ = _evaluate(closed.jaxpr, closed.consts, values, origins, found)
    return jax.tree.unflatten(jax.tree.structure(shape), results)


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], values: Sequence[Any], origins: Sequence[Origin | None], found: Found
) -> tuple[list[Any], list[Origin | None]]:
    """The outputs of a jaxpr and which of them are parameters still; fills `found`."""
    env: dict[Any, tuple[Any, Origin | None]] = {}
    env.update(zip(jaxpr.constvars, ((c, None) for c in consts)))
    env.update(zip(jaxpr.invars, zip(values, origins)))

    def read(atom: Any) -> tuple[Any, Origin | None]:
        return (atom.val, None) if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        pairs = [read(atom) for atom in eqn.invars]
        ins, origin = [v for v, _ in pairs], [o for _, o in pairs]
        if (inner := called(eqn)) is not None:
            outs, out_origins = _evaluate(inner.jaxpr, inner.consts, ins, origin, found)
        else:
            outs = bind(eqn, ins)
            out_origins = [None] * len(outs)
            if any(o is not None for o in origin):
                out_origins = _consume(eqn, ins, origin, outs, found)
            elif eqn.primitive.name == "dot_general":
                found.keep("product", outs[0])
                found.products.append(math.prod(ins[0].shape[d] for d in eqn.params["dimension_numbers"][0][0]))
        env.update(zip(eqn.outvars, zip(outs, out_origins)))
    results = [read(atom) for atom in jaxpr.outvars]
    return [v for v, _ in results], [o for _, o in results]


# --- What each primitive does with a parameter ----------------------------------------------------------------------


def _consume(
    eqn: Any, values: Sequence[Any], origins: Sequence[Origin | None], outs: Sequence[Any], found: Found
) -> list[Origin | None]:
    """Note a use, or follow the parameter through; the origins of the outputs."""
    name = eqn.primitive.name
    nothing: list[Origin | None] = [None] * len(outs)
    if name in LOOPS:
        LOOPS[name](eqn, values, origins, found)
    elif name in FOLLOWED and origins[0] is not None:
        return [Origin(origins[0].path, FOLLOWED[name](eqn, values[0].shape, origins[0].axes))]
    elif name in ("mul", "div") and (kept := _times_a_number(values, origins)) is not None:
        return [kept]
    elif name == "dot_general":
        _contracted(eqn, origins, outs[0], found)
    elif name == "conv_general_dilated" and origins[1] is not None:
        _convolved(eqn, values, origins[1], outs[0], found)
    elif name == "gather" and origins[0] is not None:
        numbers = eqn.params["dimension_numbers"]
        rows = frozenset(numbers.collapsed_slice_dims) | frozenset(numbers.operand_batching_dims)
        rest = [axis for axis in range(values[0].ndim) if axis not in rows]
        use = Use("looked up", origins[0].side(sorted(rows)), origins[0].side(rest))
        found.uses[origins[0].path].add(use)
        found.keep(_layer(origins[0].path), outs[0])
    elif name in ELEMENTWISE:
        for origin in origins:
            if origin is not None:
                found.uses[origin.path].add(Use("elementwise", frozenset(), origin.side(range(len(origin.axes)))))
    return nothing


ELEMENTWISE = ("add", "sub", "mul", "div", "max", "min", "select_n", "add_any", "atan2", "pow")


def _layer(path: str) -> str:
    return path.removesuffix("/kernel")


def _contracted(eqn: Any, origins: Sequence[Origin | None], out: Any, found: Found) -> None:
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    for origin, contracting, batch in zip(origins, (left, right), (left_batch, right_batch)):
        if origin is None:
            continue
        free = [axis for axis in range(len(origin.axes)) if axis not in contracting and axis not in batch]
        found.uses[origin.path].add(Use("contracted", origin.side(contracting), origin.side(free)))
        found.keep(_layer(origin.path), out)


def _convolved(eqn: Any, values: Sequence[Any], origin: Origin, out: Any, found: Found) -> None:
    """Spatial extents are on the fan-in side; a depthwise kernel sums over nothing that grows."""
    spec = eqn.params["dimension_numbers"].rhs_spec
    use = Use("contracted", origin.side(spec[1:]), origin.side(spec[:1]))
    if eqn.params["feature_group_count"] > 1 and values[1].shape[spec[1]] == 1:
        use = Use("elementwise", frozenset(), origin.side(spec[:1]))
    found.uses[origin.path].add(use)
    found.keep(_layer(origin.path), out)


def _times_a_number(values: Sequence[Any], origins: Sequence[Origin | None]) -> Origin | None:
    """The parameter, where the other factor is a single number."""
    (a, b), (first, second) = values, origins
    if first is not None and second is None and jnp.ndim(b) == 0:
        return first
    if second is not None and first is None and jnp.ndim(a) == 0:
        return second
    return None


def _reshaped(eqn: Any, shape: Sequence[int], axes: tuple[Sides, ...]) -> tuple[Sides, ...]:
    """New axes hold the dimensions of the old ones they are made of: both shapes are cut where their products agree."""
    new = eqn.params["new_sizes"]
    made: list[Sides] = [frozenset()] * len(new)
    i = j = 0
    while i < len(shape) or j < len(new):
        olds: list[int] = []
        news: list[int] = []
        old = size = 1
        while not olds or not news or old != size:
            if i < len(shape) and (old <= size or j >= len(new)):
                olds.append(i)
                old *= shape[i]
                i += 1
            elif j < len(new):
                news.append(j)
                size *= new[j]
                j += 1
            else:
                break
        inside = frozenset().union(*(axes[k] for k in olds))
        for k in news:
            made[k] = inside if new[k] != 1 or len(news) == 1 else frozenset()
    return tuple(made)


def _broadcast(eqn: Any, shape: Sequence[int], axes: tuple[Sides, ...]) -> tuple[Sides, ...]:
    made: list[Sides] = [frozenset()] * len(eqn.params["shape"])
    for source, target in enumerate(eqn.params["broadcast_dimensions"]):
        made[target] = axes[source]
    return tuple(made)


def _dropped(eqn: Any, shape: Sequence[int], axes: tuple[Sides, ...]) -> tuple[Sides, ...]:
    return tuple(axis for i, axis in enumerate(axes) if i not in eqn.params["dimensions"])


FOLLOWED: dict[str, Callable[[Any, Sequence[int], tuple[Sides, ...]], tuple[Sides, ...]]] = {
    "convert_element_type": lambda eqn, shape, axes: axes,
    "reduce_precision": lambda eqn, shape, axes: axes,
    "copy": lambda eqn, shape, axes: axes,
    "neg": lambda eqn, shape, axes: axes,
    "rev": lambda eqn, shape, axes: axes,
    "sharding_constraint": lambda eqn, shape, axes: axes,
    "slice": lambda eqn, shape, axes: axes,
    "dynamic_slice": lambda eqn, shape, axes: axes,
    "optimization_barrier": lambda eqn, shape, axes: axes,
    "transpose": lambda eqn, shape, axes: tuple(axes[i] for i in eqn.params["permutation"]),
    "reshape": _reshaped,
    "squeeze": _dropped,
    "expand_dims": _broadcast,
    "broadcast_in_dim": _broadcast,
}
"""Primitives after which a parameter is still that parameter -> its axes afterwards."""


def _scanned(eqn: Any, values: Sequence[Any], origins: Sequence[Origin | None], found: Found) -> None:
    """Uses inside the body; the leading axis of what is scanned over is neither fan-in nor fan-out."""
    held = eqn.params["num_consts"] + eqn.params["num_carry"]
    inside = [None if o is None else o if k < held else Origin(o.path, o.axes[1:]) for k, o in enumerate(origins)]
    _look(closed(eqn.params["jaxpr"]), inside, found)


def _looped(eqn: Any, values: Sequence[Any], origins: Sequence[Origin | None], found: Found) -> None:
    _look(closed(eqn.params["body_jaxpr"]), list(origins[eqn.params["cond_nconsts"] :]), found)


def _branched(eqn: Any, values: Sequence[Any], origins: Sequence[Origin | None], found: Found) -> None:
    for branch in eqn.params["branches"]:
        _look(closed(branch), list(origins[1:]), found)


LOOPS = {"scan": _scanned, "while": _looped, "cond": _branched}


def _look(closed: Any, origins: list[Origin | None], found: Found) -> None:
    """Uses inside a part that is not evaluated here."""
    inside = Found(uses=found.uses, products=found.products)
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
    jax.eval_shape(lambda *v: _evaluate(closed.jaxpr, closed.consts, v, origins, inside)[0], *shapes)
