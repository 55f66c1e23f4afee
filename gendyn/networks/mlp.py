"""A residual MLP for vectors: two-dimensional sets, latents, embeddings."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.networks.conditioning import Conditioning, Told
from gendyn.networks.conditions import Conditions, has_tokens, image_channels
from gendyn.networks.embeddings import FREQUENCIES
from gendyn.networks.layers import Dense, LayerNorm, Remat, checked_remat, dropout, modulate, rematerialise, split


class MLP(nnx.Module):
    """Residual SiLU network whose blocks are gated and modulated by the noise level and the conditions.

        h <- h + branch_scale * gate * W2 silu(W1 modulate(norm(h), shift, scale)),   depth times

    Args:
        dim: length of a data vector.
        width: of the residual stream, of the hidden layers and of the conditioning.
        depth: number of residual blocks.
        num_classes: None, or the number of classes; `cond == num_classes` (or None) is the null class.
        conditions: what else the network is told, by name (`gendyn.networks.conditions`): classes and vectors here, and
            `Image(n)`, n numbers beside the data.
        dropout: rate inside the blocks, drawn from the call's `key`.
        out_channels: length of the output, `dim` unless given.
        time_features, frequencies: of the sinusoids of the label; fixed whatever the width.
        branch_scale: multiplies every residual branch (1/depth ratio for depth transfer).
        dtype: of the blocks' arithmetic; parameters and output are float32.
        remat: recompute blocks in the backward pass instead of keeping their activations; True, or what to keep
            (`layers.POLICIES`).

    At initialisation gates and readout are zero: the output is exactly 0.

    >>> import jax.numpy as jnp
    >>> net = MLP(2, width=16, depth=2, num_classes=3, rngs=nnx.Rngs(0))
    >>> net(jnp.ones((5, 2)), 0.3, jnp.zeros(5, int)).shape
    (5, 2)
    """

    def __init__(
        self,
        dim: int,
        *,
        width: int = 256,
        depth: int = 4,
        num_classes: int | None = None,
        conditions: Conditions | None = None,
        dropout: float = 0.0,
        out_channels: int | None = None,
        time_features: int = 64,
        frequencies: tuple[float, float] = FREQUENCIES,
        branch_scale: float = 1.0,
        dtype: DTypeLike = jnp.float32,
        remat: Remat = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.dim, self.remat = dim, checked_remat(remat)
        if has_tokens(conditions):
            raise ValueError("an MLP does not attend to tokens; give it a Vector, or build a DiT.")
        self.conditioning = Conditioning(width, num_classes, time_features, frequencies, conditions, rngs=rngs)
        self.stem = Dense(dim + image_channels(conditions), width, ("data", "embed"), dtype=dtype, rngs=rngs)
        block = partial(Block, width, dropout=dropout, branch_scale=branch_scale, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(block() for _ in range(depth))
        self.norm = LayerNorm()
        self.readout = Dense(width, out_channels or dim, ("embed", "data"), init=zeros, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch dim"],
        label: Any,
        cond: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch out"]:
        """Evaluate at noise levels `label` and conditions `cond`; a `key` switches dropout on."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(
                f"this MLP expects [batch, {self.dim}], got {list(x.shape)}; flatten the data or change dim=."
            )
        c = self.conditioning(label, cond, x.shape[0])
        h = self.stem(self.conditioning.beside(x, cond))
        for block, own in zip(self.blocks, split(key, len(self.blocks))):
            h = rematerialise(block, self.remat)(h, c, own)
        return self.readout(self.norm(h))


class Block(nnx.Module):
    """One gated residual branch; the modulation starts at zero, so the block starts as the identity."""

    def __init__(self, width: int, *, dropout: float, branch_scale: float, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.rate, self.branch_scale = dropout, branch_scale
        axes = ("conditioning", "modulation")
        self.modulation = Dense(width, 3 * width, axes, init=zeros, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm()
        self.hidden = Dense(width, width, ("embed", "mlp"), dtype=dtype, rngs=rngs)
        self.out = Dense(width, width, ("mlp", "embed"), dtype=dtype, rngs=rngs)

    def __call__(self, h: Array, c: Told, key: PRNGKeyArray | None) -> Array:
        shift, scale, gate = jnp.split(self.modulation(c.vector), 3, axis=-1)
        y = jax.nn.silu(self.hidden(modulate(self.norm(h), shift, scale)))
        return h + self.branch_scale * gate * self.out(dropout(y, self.rate, key))
