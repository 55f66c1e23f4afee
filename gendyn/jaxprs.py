"""Walking through computations: the parts that an equation of a jaxpr evaluates, and values taken out by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
from jax.extend import core
from jaxtyping import Array

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
"""Primitives that evaluate a jaxpr once, on their own inputs -> the parameter that holds it."""

REMATERIALISED = ("remat", "remat2", "checkpoint")

Taken: TypeAlias = dict[str, list[Array]]


def called(eqn: Any) -> Any:
    """The jaxpr that an equation evaluates once on its own inputs, or None."""
    name = CALLS.get(eqn.primitive.name)
    return None if name is None else closed(eqn.params[name])


def closed(jaxpr: Any) -> Any:
    """A jaxpr with its constants."""
    return jaxpr if hasattr(jaxpr, "consts") else core.ClosedJaxpr(jaxpr, ())


def parts(eqn: Any) -> Iterator[Any]:
    """All computations that an equation holds, run once, several times or perhaps: their jaxprs, without constants."""
    for value in eqn.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each


def primitives(jaxpr: Any) -> Iterator[str]:
    """The names of all primitives of a jaxpr, those in its parts too, each as often as it stands there.

    >>> import jax.numpy as jnp
    >>> whole = jax.make_jaxpr(lambda x: jax.lax.scan(lambda y, _: (jnp.sin(y), None), x, length=9)[0])(1.0)
    >>> sorted(primitives(whole.jaxpr))
    ['scan', 'sin']
    """
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for part in parts(eqn):
            yield from primitives(part)


def bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The outputs of one equation."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a pair before jax 0.10
    outs = eqn.primitive.bind(*functions, *values, **params)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def named_values(
    function: Callable[..., Any], *inputs: Any, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[Any, dict[str, Array]]:
    """function(*inputs), and the values that `jax.ad_checkpoint.checkpoint_name` calls by a wanted name on the way.

    A name that occurs several times gets a count from the second on ("h", "h#2"). Values are found in jitted and
    rematerialised parts, which stay so, and in scans, where they are stacked along a new first axis; not in
    conditionals and loops of unknown length. Can be jitted, mapped and differentiated.

    >>> import jax.numpy as jnp
    >>> from jax.ad_checkpoint import checkpoint_name
    >>> named_values(lambda x: checkpoint_name(2 * x, "twice") + 1, jnp.ones(()))[1]
    {'twice': Array(2., dtype=float32)}
    """
    whole, shape = jax.make_jaxpr(function, return_shape=True)(*inputs)
    results, taken = _evaluate(whole, jax.tree.leaves(inputs), wanted)
    counted = {
        f"{name}#{i + 1}" if i else name: value for name, values in taken.items() for i, value in enumerate(values)
    }
    return jax.tree.unflatten(jax.tree.structure(shape), results), counted


def _evaluate(whole: Any, values: Sequence[Any], wanted: Callable[[str], bool]) -> tuple[list[Any], Taken]:
    """The outputs of a closed jaxpr, and what was taken; parts without a wanted name are evaluated as they are."""
    env: dict[Any, Any] = dict(zip([*whole.jaxpr.constvars, *whole.jaxpr.invars], [*whole.consts, *values]))
    taken: Taken = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for eqn in whole.jaxpr.eqns:
        ins = [read(atom) for atom in eqn.invars]
        found: Taken = {}
        if eqn.primitive.name == "name" and wanted(eqn.params["name"]):
            outs, found = ins, {eqn.params["name"]: ins}
        elif (inner := called(eqn)) is not None and _names(inner, wanted):
            outs, found = _inside(eqn, inner, wanted)(*ins)
        elif eqn.primitive.name == "scan" and _names(eqn.params["jaxpr"], wanted):
            outs, found = _scanned(eqn, ins, wanted)
        else:
            outs = bind(eqn, ins)
        env.update(zip(eqn.outvars, outs))
        for name, more in found.items():
            taken[name] = [*taken.get(name, []), *more]
    return [read(atom) for atom in whole.jaxpr.outvars], taken


def _names(whole: Any, wanted: Callable[[str], bool]) -> bool:
    """Whether a jaxpr gives a wanted name to a value that can be taken out."""
    for eqn in whole.jaxpr.eqns:
        if eqn.primitive.name == "name" and wanted(eqn.params["name"]):
            return True
        inner = eqn.params["jaxpr"] if eqn.primitive.name == "scan" else called(eqn)
        if inner is not None and _names(inner, wanted):
            return True
    return False


def _inside(eqn: Any, inner: Any, wanted: Callable[[str], bool]) -> Callable[..., tuple[list[Any], Taken]]:
    def evaluated(*values: Any) -> tuple[list[Any], Taken]:
        return _evaluate(inner, values, wanted)

    if eqn.primitive.name in REMATERIALISED:
        return jax.checkpoint(evaluated, policy=eqn.params["policy"], prevent_cse=eqn.params["prevent_cse"])
    return evaluated


def _scanned(eqn: Any, values: Sequence[Any], wanted: Callable[[str], bool]) -> tuple[list[Any], Taken]:
    held, carried = eqn.params["num_consts"], eqn.params["num_carry"]
    fixed, start, rows = values[:held], values[held : held + carried], values[held + carried :]

    def body(carry: Any, row: Any) -> Any:
        outs, taken = _evaluate(eqn.params["jaxpr"], [*fixed, *carry, *row], wanted)
        return outs[:carried], (outs[carried:], taken)

    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    end, (stacked, taken) = jax.lax.scan(body, start, rows, **options)
    return [*end, *stacked], taken
