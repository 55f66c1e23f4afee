"""Which dimensions of a network's parameters are widths: found by building it larger, on shapes alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import jax

from gendyn.parametrization.axes import FINITE
from gendyn.tree import paths

SCALES = (1, 2, 3)
"""Joint multiples of the scaled sizes at which the network is built: two of them cannot tell a r + b from a r."""

Sizes = Mapping[str, Any]


@dataclass(frozen=True)
class Growth:
    """How a parameter grows from base to target.

    Attributes:
        path, shape, base_shape: of the parameter.
        axes: names of its dimensions; () where there are none.
        ratios: per dimension, target over base where it is a width, None where it is finite.
        depth: target over base of the sizes that multiply the blocks it stands in.
    """

    path: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    axes: tuple[str, ...]
    ratios: tuple[float | None, ...]
    depth: float = 1.0


def scaled_sizes(base: Sizes, target: Sizes) -> tuple[str, ...]:
    """The names of the sizes that differ between base and target.

    Raises:
        ValueError: sizes that are not the same names, or that differ and are no positive whole numbers.
    """
    if not base or set(base) != set(target):
        raise ValueError(
            f"base and target name the same sizes, for example {{'width': 64}}; got {sorted(base)} and "
            f"{sorted(target)}."
        )
    names = tuple(name for name in base if base[name] != target[name])
    for name in names:
        for value in (base[name], target[name]):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"a size that is scaled is a positive whole number; got {name} = {value!r}.")
    return names


def growth(
    make: Callable[..., Any], base: Sizes, target: Sizes, deep: Mapping[str, frozenset[str]]
) -> tuple[Growth, ...]:
    """One entry per parameter of make(**target), where `deep` are the `depths` of make, base and target.

    The network is built, with the target's depth, at one, two and three times those base widths that the target
    changes, all together, and each dimension is fitted as a r + b: a width if b = 0, finite if a = 0, and otherwise a
    width glued to something finite, of which no rule can be right. A target that changes no width has kinds all the
    same: all of the sizes are grown then, as far as the network can be built so.

    Raises:
        ValueError: such a dimension, one that grows faster than the sizes, or a finite axis that grows; and networks
            that do not have the same parameters at every size.
    """
    start = narrow(base, target, deep)
    wide = [name for name in scaled_sizes(base, target) if name not in deep] or _growing(make, start, deep)
    built = [_built(make, {**start, **{name: base[name] * r for name in wide}})[0] for r in SCALES]
    final, named = _built(make, target)
    if any(shapes.keys() != final.keys() for shapes in built):
        other = sorted(set(built[0]) ^ set(final))
        raise ValueError(
            "the network has other parameters at base and target sizes"
            + (f" ({other[0]})" if other else "")
            + "; scale sizes that widen its layers or add blocks, and nothing else."
        )
    found = []
    for path, shape in final.items():
        dims = list(zip(*(shapes[path] for shapes in built)))
        axes = named.get(path, ())
        ratios = tuple(_ratio(path, i, dim, shape[i], axes) for i, dim in enumerate(dims))
        depth = math.prod(target[name] / base[name] for name, inside in deep.items() if pattern(path) in inside)
        found.append(Growth(path, shape, built[0][path], axes, ratios, depth))
    return tuple(found)


def _growing(make: Callable[..., Any], sizes: Sizes, deep: Iterable[str]) -> list[str]:
    """Sizes that are widths, where no change says so: all together if that can be built, or the first that can be."""
    whole = [n for n, v in sizes.items() if isinstance(v, int) and not isinstance(v, bool) and v > 0 and n not in deep]
    for names in ([whole] if whole else []) + [[name] for name in whole]:
        try:
            one, two, three = (_built(make, {**sizes, **{name: sizes[name] * r for name in names}})[0] for r in SCALES)
            if not one.keys() == two.keys() == three.keys():
                continue  # a depth among them
            for path in one:
                for i, dims in enumerate(zip(one[path], two[path], three[path])):
                    _ratio(path, i, dims, dims[0], ())
        except Exception:  # a maker refuses what it cannot build in any way it likes
            continue
        return names
    return []


def depths(make: Callable[..., Any], base: Sizes, target: Sizes) -> dict[str, frozenset[str]]:
    """The scaled sizes that add blocks instead of widening them, each with the patterns it multiplies.

    Blocks are parameters of their own, or stacked along an axis "layers".

    >>> from types import SimpleNamespace
    >>> init = lambda width, depth: {"in": jax.numpy.ones(width), "blocks": [jax.numpy.ones(width)] * depth}
    >>> make = lambda width, depth: SimpleNamespace(init=lambda key: init(width, depth))
    >>> depths(make, {"width": 4, "depth": 2}, {"width": 8, "depth": 6})
    {'depth': frozenset({'blocks/*'})}
    """
    names = scaled_sizes(base, target)
    count = lambda sizes: _counted(*_built(make, sizes))
    start = count(base)
    each = {name: count({**base, name: 2 * base[name]}) - start for name in names}
    return {name: frozenset(more) for name, more in each.items() if more}


def _counted(shapes: Mapping[str, tuple[int, ...]], axes: Mapping[str, tuple[str, ...]]) -> Counter[str]:
    """Pattern of a path -> how many blocks have such a parameter."""
    found: Counter[str] = Counter()
    for path, shape in shapes.items():
        own = dict(zip(axes.get(path, ()), shape))
        found[pattern(path)] += own.get("layers", 1)
    return found


def narrow(base: Sizes, target: Sizes, deep: Iterable[str]) -> dict[str, Any]:
    """The base's widths with the target's depth: the same parameters and the same order of operations as the target."""
    return {**base, **{name: target[name] for name in deep}}


def pattern(path: str) -> str:
    """A path with its list positions left open.

    >>> pattern("blocks/12/out/kernel")
    'blocks/*/out/kernel'
    """
    return "/".join("*" if part.isdigit() else part for part in path.split("/"))


Built: TypeAlias = tuple[dict[str, tuple[int, ...]], dict[str, tuple[str, ...]]]
"""Path -> shape, and path -> names of axes where there are any."""


def _built(make: Callable[..., Any], sizes: Sizes) -> Built:
    """make(**sizes), once for sizes that can be remembered: a sweep asks for the same ones in every run."""
    try:
        return _remembered(make, tuple(sizes.items()))
    except TypeError:  # something that has no hash
        return _remembered.__wrapped__(make, tuple(sizes.items()))


@lru_cache(maxsize=64)
def _remembered(make: Callable[..., Any], sizes: tuple[tuple[str, Any], ...]) -> Built:
    network = make(**dict(sizes))
    shapes = {path: tuple(leaf.shape) for path, leaf in paths(jax.eval_shape(network.init, jax.random.key(0)))}
    axes = getattr(network, "axes", None)
    return shapes, dict(paths(axes, is_leaf=lambda node: isinstance(node, tuple))) if axes else {}


def _ratio(path: str, index: int, dims: tuple[int, ...], target: int, axes: tuple[str, ...]) -> float | None:
    one, two, three = dims
    slope, rest = two - one, 2 * one - two
    if three - two != slope:
        raise ValueError(
            f"dimension {index} of {path} grows as {one}, {two}, {three} with the sizes, which is not linear; scale "
            "sizes whose product is no dimension (heads, and not their length too)."
        )
    if slope == 0:
        return None
    if rest:
        raise ValueError(
            f"dimension {index} of {path} is a width of {slope} and {rest} that do not grow: two things concatenated, "
            "for which one kernel has no right scale; give each part a kernel of its own and add the results."
        )
    if axes and axes[index] in FINITE:
        raise ValueError(
            f"dimension {index} of {path} is the finite axis {axes[index]!r}, but it grows with the sizes; leave that "
            "size out of base and target, or name the axis as a width."
        )
    return target / one


def one_name(sizes: Sequence[Sizes]) -> str:
    """The name in which sizes of a comparison differ."""
    names = {name for each in sizes for name in each}
    differing = {name for name in names if len({each.get(name) for each in sizes}) > 1} or names
    if len(differing) != 1 or len({tuple(each.values()) for each in sizes}) < len(sizes):
        raise ValueError(
            f"sizes differ in one name and occur once, for example width = 32, 64, 128; got {[dict(s) for s in sizes]}."
        )
    return differing.pop()
