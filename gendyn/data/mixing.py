"""Several data sets in one run, in exact proportions.

Where an example comes from is a function of its position alone: a pattern of as many places as the weights need, in
which each data set stands evenly spaced, again and again. Weights 2 : 1 give

    position   0 1 2 | 3 4 5 | 6 ...
    from       a b a | a b a | a ...
    its own    0 0 1 | 2 1 3 | 4 ...

and each data set sees the permutations of its own epochs at its own positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from jaxtyping import Int

from gendyn.data.loader import example_at, take
from gendyn.data.sources import Source
from gendyn.data.transforms import Batch, philox

LONGEST = 2**22
"""Places of a pattern."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Mixture:
    """Sources end to end as one, and the order in which a run sees them; made by `mix`.

    Attributes:
        counts: of each source, in one pattern.
    """

    sources: tuple[Source, ...]
    counts: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.sources[0].shape)

    @property
    def num_classes(self) -> int | None:
        return self.sources[0].num_classes

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int, /) -> Batch:
        return {name: value[0] for name, value in self.take(np.asarray([index])).items()}

    def take(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """The examples at `indices` of the sources end to end, stacked."""
        indices = np.asarray(indices)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"indices must lie in 0..{len(self) - 1}, got {indices.min()} to {indices.max()}")
        which = np.searchsorted(self._starts, indices, side="right") - 1
        rows = {c: np.flatnonzero(which == c) for c in np.unique(which)}
        parts = {c: take(self.sources[c], indices[at] - self._starts[c]) for c, at in rows.items()}
        first = next(iter(parts.values()))
        batch = {name: np.empty((len(indices), *value.shape[1:]), value.dtype) for name, value in first.items()}
        for c, part in parts.items():
            if part.keys() != batch.keys():
                raise ValueError(f"sources of a mixture give the same entries, got {sorted(batch)} and {sorted(part)}")
            for name, value in part.items():
                batch[name][rows[c]] = value
        return batch

    def example_at(self, positions: Int[np.ndarray, " rows"], *, seed: int) -> Int[np.ndarray, " rows"]:
        """Which example of the sources end to end stands at each position of a run (positions ascend)."""
        which, rank = self._pattern
        rounds, places = np.divmod(positions, len(which))
        found = np.empty(len(positions), np.int64)
        for c in np.unique(which[places]):
            at = which[places] == c
            own = rounds[at] * self.counts[c] + rank[places[at]]
            found[at] = self._starts[c] + example_at(self.sources[c], own, seed=component_seed(seed, int(c)))
        return found

    def __repr__(self) -> str:
        return f"Mixture({' + '.join(f'{n} x {source!r}' for n, source in zip(self.counts, self.sources))})"

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *map(len, self.sources)])

    @cached_property
    def _pattern(self) -> tuple[np.ndarray, np.ndarray]:
        """At each place, which source, and how many of it stand before: place j of n is due at (j + 1/2) / n."""
        which = np.repeat(np.arange(len(self.counts)), self.counts)
        rank = np.concatenate([np.arange(n) for n in self.counts])
        order = np.argsort((rank + 0.5) / np.asarray(self.counts)[which], kind="stable")
        return which[order], rank[order]


def mix(weights: Mapping[Source, float]) -> Mixture:
    """A source whose run takes from each source in proportion to its weight, exactly.

    Weights are positive numbers on any scale, read as the decimals that they are written as: {a: 0.7, b: 0.3} is 7 : 3
    in every ten positions that begin at a multiple of ten. A source that is used up before another begins its next
    epoch. In the loader all of it is a function of (seed, position), so neither the number of processes nor a restart
    changes it. (As a sequence, and to whatever takes examples by their number, a mixture is the sources end to end.)

    Raises:
        ValueError: no sources; weights that are not positive or whose pattern is longer than 2^22; sources that are
            empty or of several shapes or numbers of classes.

    >>> from gendyn.data import arrays
    >>> a, b = arrays(np.zeros([4, 1])), arrays(np.ones([4, 1]))
    >>> from gendyn.data import Batches
    >>> Batches(source=mix({a: 2, b: 1}), batch_size=6, seed=0)[0]["data"].ravel().tolist()
    [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    """
    sources = tuple(weights)
    if not sources:
        raise ValueError("a mixture needs at least one source, got none")
    kinds = {(tuple(source.shape), source.num_classes) for source in sources}
    if len(kinds) > 1 or not all(map(len, sources)):
        found = ", ".join(map(repr, sources))
        raise ValueError(f"sources of a mixture have examples, one shape and one number of classes, got {found}")
    return Mixture(sources=sources, counts=_counts(list(weights.values())))


def component_seed(seed: int, component: int) -> int:
    """The seed of one source of a mixture: two sources of one length do not go through them in step."""
    return int(philox(seed, stream=2**64 - 1, counter=component).random_raw(1)[0])


def _counts(weights: list[float]) -> tuple[int, ...]:
    """The smallest whole numbers in the proportions of the weights."""
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"weights of a mixture must be positive and finite, got {weights}; leave out sources of none")
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    counts = tuple(n // math.gcd(*whole) for n in whole)
    if sum(counts) > LONGEST:
        raise ValueError(f"weights {weights} repeat only after {sum(counts):,} positions; round them to fewer digits")
    return counts
