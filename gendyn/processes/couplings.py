"""Couplings: which end of a path is paired with which.

A path joins two ends, a data point and a base point (the unit noise of a Gaussian path, a point of another data set in
a two-sided interpolant). A coupling says how the two are paired within a batch. The marginals of both ends stay what
they are; only the pairing changes, and with it how often paths cross.

Couplings that look for near partners permute the base points among rows of equal condition only. Otherwise noise and
condition would no longer be independent, and a conditional model, which at sampling time is given noise that knows
nothing of the condition, would be wrong. A condition that is different for every example therefore leaves nothing to
permute. Under data parallelism the permutation is found once for the global batch.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from gendyn.tree import constant


class Coupling(Protocol):
    """Rearranges the base points of a batch so that row i belongs to data row i.

    `needs` names entries of the batch without which there is nothing to pair: ("base",) where the other end is stored
    with the data, () where the process may draw it.
    """

    @property
    def needs(self) -> tuple[str, ...]: ...

    def __call__(
        self, key: PRNGKeyArray, base: Float[Array, "batch *data"], data: Float[Array, "batch *data"], cond: Any = None
    ) -> Float[Array, "batch *data"]: ...


@constant
class Independent:
    """Base and data as they were drawn, independent of each other."""

    needs = ()

    def __call__(self, key: PRNGKeyArray, base: Array, data: Array, cond: Any = None) -> Array:
        return base


@constant
class Stored:
    """Pairs that come with the data: every example has an entry "base", its own other end (reflow, two data sets)."""

    needs = ("base",)

    def __call__(self, key: PRNGKeyArray, base: Array, data: Array, cond: Any = None) -> Array:
        return base


@constant
class Shuffled:
    """A uniform permutation of the batch's base: independent ends from stored pairs, which come alike every epoch.

    Not within conditions: the base of two data sets knows nothing of the label.
    """

    needs = ()

    def __call__(self, key: PRNGKeyArray, base: Array, data: Array, cond: Any = None) -> Array:
        return jax.random.permutation(key, base)


@constant
class MinibatchOT:
    """The permutation of the batch with the least sum of |data - base|^2, by exact assignment.

    Pooladian et al. 2023 (arXiv 2304.14772), Tong et al. 2023 (arXiv 2302.00482). Base points are permuted, never drawn
    with replacement, so no row is lost or doubled. It targets the mean of the batches' optimal plans, which tends to
    the optimal plan as the batch grows but is not it. Rows are permuted within equal conditions (see the module).

    Cost: the Hungarian algorithm (ott), O(batch^3) and sequential, compiled into the step. Measured (python -m
    benchmarks.couplings, medians, two busy CPU cores): 10, 51, 364 ms at batch 128, 256, 512 for points of the plane;
    4, 14, 53 ms for 784 Gaussian entries, whose optima are found sooner.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> data = jnp.array([[-1.0], [1.0]])
        >>> MinibatchOT()(jax.random.key(0), -data, data).tolist()
        [[-1.0], [1.0]]
    """

    needs = ()

    def __call__(self, key: PRNGKeyArray, base: Array, data: Array, cond: Any = None) -> Array:
        return base[optimal(_agreement(base, data), _same(cond, len(data)))]


@constant
class EntropicOT:
    """A random permutation pi of the batch with probability proportional to exp(-sum_i |data_i - base_pi(i)|^2/reg).

    The entropic coupling on permutations: reg -> 0 is `MinibatchOT`, reg -> infinity a uniform permutation. With
    reg = 2 s^2 it pairs the ends of Brownian motion of standard deviation s, as Sinkhorn's plan does, but draws from
    that plan would repeat and drop rows. Drawn by Metropolis swaps of disjoint random pairs of rows, all at once,
    `sweeps` times, from the rows as they came: whatever the number of sweeps, the result is a permutation, so the
    marginals are exact, and only the nearness of partners is approximate. Rows are permuted within equal conditions.

    Cost: sweeps times O(batch), after one product [batch, batch]: 9, 27, 56 ms at batch 128, 256, 512 (measured alike).

    Args:
        reg: temperature, in units of squared distance (the sum over the entries of an example).
        sweeps: half a batch of proposed swaps each; small reg needs more.
    """

    reg: float = 1.0
    sweeps: int = 200
    needs = ()

    def __post_init__(self) -> None:
        if not self.reg > 0 or self.sweeps < 1:
            raise ValueError(
                f"reg and sweeps must be positive; got {self.reg} and {self.sweeps}; MinibatchOT is reg 0."
            )

    def __call__(self, key: PRNGKeyArray, base: Array, data: Array, cond: Any = None) -> Array:
        gain, same = 2 * _agreement(base, data) / self.reg, _same(cond, len(data))
        sweep = lambda i, pi: _swap(jax.random.fold_in(key, i), pi, gain, same)
        return base[jax.lax.fori_loop(0, self.sweeps, sweep, jnp.arange(len(data)))]


COUPLINGS = {
    "independent": Independent,
    "stored": Stored,
    "shuffled": Shuffled,
    "minibatch_ot": MinibatchOT,
    "entropic_ot": EntropicOT,
}
"""Name -> coupling; the shared tests read this list."""


def optimal(agreement: Float[Array, "n n"], same: Bool[Array, "n n"]) -> Int[Array, " n"]:
    """The permutation pi with the largest sum of agreement[i, pi(i)], among those with same[i, pi(i)] throughout.

    Pairs that are not allowed cost more than any allowed permutation can save; the identity is always allowed.
    """
    from ott.geometry.geometry import Geometry  # here: half a second to import
    from ott.tools.unreg import hungarian

    agreement = jnp.nan_to_num(agreement)  # the search would not end; the loss says that the data is not finite
    forbidden = 1.0 + len(agreement) * (agreement.max() - agreement.min())
    _, found = hungarian(Geometry(cost_matrix=jnp.where(same, -agreement, forbidden - agreement.min())))
    rows, columns = found.paired_indices
    return jnp.zeros(len(agreement), rows.dtype).at[rows].set(columns)


def _agreement(base: Array, data: Array) -> Float[Array, "n n"]:
    """data_i . base_j: up to terms that no permutation changes, -|data_i - base_j|^2/2."""
    flat = (a.reshape(len(a), -1).astype(jnp.promote_types(a.dtype, jnp.float32)) for a in (data, base))
    return jnp.einsum("id,jd->ij", *flat, precision="highest")


def _same(cond: Any, n: int) -> Bool[Array, "n n"]:
    """Which pairs of rows have equal conditions (every leaf, every entry; what is absent, a NaN, equals the absent)."""
    same = jnp.ones((n, n), bool)
    for leaf in jax.tree.leaves(cond):
        flat = jnp.reshape(leaf, (n, -1))
        absent = flat != flat
        same &= ((flat[:, None] == flat[None]) | (absent[:, None] & absent[None])).all(-1)
    return same


def _swap(key: PRNGKeyArray, pi: Int[Array, " n"], gain: Array, same: Array) -> Int[Array, " n"]:
    """Cut the rows into random pairs; each exchanges partners with Metropolis's probability."""
    key_pairs, key_accept = jax.random.split(key)
    i, j = jax.random.permutation(key_pairs, len(pi))[: len(pi) // 2 * 2].reshape(2, -1)
    change = gain[i, pi[j]] + gain[j, pi[i]] - gain[i, pi[i]] - gain[j, pi[j]]
    accept = same[i, j] & (jnp.log(jax.random.uniform(key_accept, i.shape)) < change)
    return pi.at[i].set(jnp.where(accept, pi[j], pi[i])).at[j].set(jnp.where(accept, pi[i], pi[j]))
