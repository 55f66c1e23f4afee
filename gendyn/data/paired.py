"""Two data sets as the two ends of a path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from gendyn.data.loader import example_at, take
from gendyn.data.sources import Source
from gendyn.data.transforms import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Paired:
    """A source whose example i has another source's example as its "base"; made by `paired`."""

    data: Source
    base: Source
    partner: Int[np.ndarray, " n"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def num_classes(self) -> int | None:
        return self.data.num_classes

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int, /) -> Batch:
        return {key: value[0] for key, value in self.take(np.asarray([index])).items()}

    def take(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """The examples at `indices` with their partners' data as "base"."""
        return {**take(self.data, indices), "base": take(self.base, self.partner[indices])["data"]}

    def example_at(self, positions: Int[np.ndarray, " rows"], *, seed: int) -> Int[np.ndarray, " rows"]:
        """The order of the data's own source, which may be a mixture."""
        return example_at(self.data, positions, seed=seed)


def paired(data: Source, base: Source, *, seed: int = 0) -> Paired:
    """The source `data`, with labels, each example with one of `base`, in an order of its own that `seed` decides.

    Where `base` is shorter its examples come again, all equally often (to one); where it is longer some are left out.
    The pairs are the same in every epoch: an objective that should see independent ends pairs each batch anew, with
    `coupling=Shuffled()`, `MinibatchOT()` or another of `gendyn.processes.couplings`.

    Raises:
        ValueError: sources of different shapes, or an empty base.

    >>> from gendyn.data import arrays
    >>> source = paired(arrays(np.zeros([5, 2])), arrays(np.ones([3, 2])))
    >>> len(source), sorted(source[4])
    (5, ['base', 'data'])
    """
    if tuple(data.shape) != tuple(base.shape) or not len(base):
        raise ValueError(
            f"both ends of a path are shaped alike; got data of shape {tuple(data.shape)} and a base of "
            f"{len(base)} examples of shape {tuple(base.shape)}: resize one to the other."
        )
    rounds = -(-len(data) // len(base))
    random = np.random.default_rng(seed)
    partner = np.concatenate([random.permutation(len(base)) for _ in range(rounds)])[: len(data)]
    return Paired(data=data, base=base, partner=partner)
