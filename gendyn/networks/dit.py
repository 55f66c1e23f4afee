"""The diffusion transformer: patches as tokens, conditioned through adaptive layer norms that start at zero."""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.nn.initializers import zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.networks import layers
from gendyn.networks.conditioning import Conditioning, Told
from gendyn.networks.conditions import Conditions, has_tokens, image_channels
from gendyn.networks.embeddings import FREQUENCIES, Positions, grid_sinusoids
from gendyn.networks.layers import Attention, Dense, LayerNorm, Remat, across, checked_remat, dropout, modulate
from gendyn.networks.stacking import scan as scanned
from gendyn.networks.stacking import stacked


class DiT(nnx.Module):
    """Transformer on the patches of data of shape [*grid, channels], one to three grid axes.

        h <- h + g1 attention(modulate(norm(h), b1, s1))
        h <- h + attention(norm(h), tokens)                only where the network is told tokens
        h <- h + g2 mlp(modulate(norm(h), b2, s2)),        (b1, s1, g1, b2, s2, g2) = W conditioning

    Args:
        shape: of one example, channels last.
        patch: edge of a patch; every grid size must be a multiple of it.
        width, depth, heads, mlp_ratio: features of a token, number of blocks, attention heads (they divide
            the width), hidden features per token in units of the width.
        num_classes: None, or the number of classes; `cond == num_classes` (or None) is the null class.
        conditions: what else the network is told, by name (`gendyn.networks.conditions`).
        positions: "sincos" (fixed) or "learned".
        dropout: rate on both branches of a block, drawn from the call's `key`.
        out_channels: as in the data unless given (twice that for a learned-variance head).
        time_features, frequencies: of the sinusoids of the label; fixed whatever the width.
        attention_scale: of the logits; 1/sqrt(width/heads) unless given.
        qk_norm: "rms" normalises queries and keys within each head; None leaves them.
        branch_scale: multiplies every residual branch (for depth transfer).
        dtype: of the blocks' arithmetic; parameters, norm statistics, softmax and output are float32.
        remat: recompute blocks in the backward pass instead of keeping their activations; True, or what to keep
            (`layers.POLICIES`).
        scan: keep the blocks' parameters stacked, [depth, ...], and run one compiled block in a loop: programs stay as
            small, and compile as fast, as those of one block. `stack_blocks` turns the parameters of either into the
            other's, whose outputs are the same up to rounding. A coordinate check does not look into the loop.

    At initialisation W, the last kernel of the attention to tokens and the readout are zero: the output is exactly 0.

    >>> import jax, jax.numpy as jnp
    >>> net = lambda x: DiT((8, 8, 1), patch=2, width=16, depth=1, heads=2, rngs=nnx.Rngs(0))(x, 0.3)
    >>> jax.eval_shape(net, jnp.ones((3, 8, 8, 1))).shape
    (3, 8, 8, 1)

    Peebles and Xie 2023, arXiv:2212.09748; the attention to tokens as in Chen et al. 2023, arXiv:2310.00426.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (32, 32, 3),
        *,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        num_classes: int | None = None,
        conditions: Conditions | None = None,
        positions: Literal["sincos", "learned"] = "sincos",
        dropout: float = 0.0,
        out_channels: int | None = None,
        time_features: int = 256,
        frequencies: tuple[float, float] = FREQUENCIES,
        attention_scale: float | None = None,
        qk_norm: Literal["rms"] | None = None,
        branch_scale: float = 1.0,
        dtype: DTypeLike = jnp.float32,
        remat: Remat = False,
        scan: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        *grid, channels = self.shape = tuple(shape)
        if not 1 <= len(grid) <= 3:
            raise ValueError(f"DiT takes shapes of one to three grid axes and channels, got shape={self.shape}.")
        if positions not in ("sincos", "learned"):
            raise ValueError(f'positions are "sincos" or "learned", got {positions!r}.')
        if any(size % patch for size in grid):
            raise ValueError(
                f"patches of edge {patch} must tile the grid, got {tuple(grid)}; change patch= or pad the data."
            )
        self.patch, self.width, self.depth, self.remat = patch, width, depth, checked_remat(remat)
        self.tokens = tuple(size // patch for size in grid)
        cell = patch ** len(grid)
        self.conditioning = Conditioning(width, num_classes, time_features, frequencies, conditions, rngs=rngs)
        self.stem = Dense(
            cell * (channels + image_channels(conditions)), width, ("patch", "embed"), dtype=dtype, rngs=rngs
        )
        count = math.prod(self.tokens)
        self.positions = Positions(count, width, rngs=rngs) if positions == "learned" else None
        block = partial(Block, width, heads, mlp_ratio, attention_scale=attention_scale, qk_norm=qk_norm)
        block = partial(block, attends=has_tokens(conditions), dropout=dropout, branch_scale=branch_scale)
        block = partial(block, dtype=dtype, rngs=rngs)
        blocks = [block() for _ in range(depth)]
        self.scan, self.blocks = scan, stacked(blocks) if scan else nnx.List(blocks)
        self.norm = LayerNorm()
        axes = ("conditioning", "modulation")
        self.modulation = Dense(width, 2 * width, axes, init=zeros, dtype=dtype, rngs=rngs)
        self.readout = Dense(width, cell * (out_channels or channels), ("embed", "patch"), init=zeros, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch *grid channels"],
        label: Any,
        cond: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch *grid out"]:
        """Evaluate at noise levels `label` and conditions `cond`; a `key` switches dropout on."""
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"this DiT expects [batch, {', '.join(map(str, self.shape))}], got {list(x.shape)}; "
                f"build it with shape={tuple(x.shape[1:])} for such data."
            )
        c = self.conditioning(label, cond, x.shape[0])
        h = self.stem(patches(self.conditioning.beside(x, cond), self.patch))
        h = h + self._table().astype(h.dtype)
        h = self._through(h, c, layers.split(key, self.depth))
        shift, scale = jnp.split(self.modulation(c.vector), 2, axis=-1)
        return unpatch(self.readout(modulate(self.norm(h), shift, scale)), self.tokens, self.patch)

    def _through(self, h: Array, c: Told, keys: list[Any]) -> Array:
        """All blocks, one after the other."""
        if self.scan:
            return scanned(self.blocks, h, c, keys, self.remat)
        for block, key in zip(self.blocks, keys):
            h = layers.rematerialise(block, self.remat)(h, c, key)
        return h

    def _table(self) -> Array:
        if self.positions is None:
            return jnp.asarray(grid_sinusoids(self.tokens, self.width), jnp.float32)
        return self.positions()


class Block(nnx.Module):
    """Attention and MLP, each normalised, modulated and gated by the conditioning ("adaLN-zero").

    A block that `attends` does so, between the two, to the tokens that the network is told.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        *,
        attention_scale: float | None,
        qk_norm: Literal["rms"] | None,
        attends: bool,
        dropout: float,
        branch_scale: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.rate, self.branch_scale = dropout, branch_scale
        hidden = round(mlp_ratio * width)
        axes = ("conditioning", "modulation")
        self.modulation = Dense(width, 6 * width, axes, init=zeros, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm()
        attention = partial(Attention, width, heads, scale=attention_scale, qk_norm=qk_norm, dtype=dtype, rngs=rngs)
        self.attention = attention()
        self.hidden = Dense(width, hidden, ("embed", "mlp"), dtype=dtype, rngs=rngs)
        self.out = Dense(hidden, width, ("mlp", "embed"), dtype=dtype, rngs=rngs)
        self.cross = attention(context=width, out_init=zeros) if attends else None

    def __call__(self, h: Array, c: Told, key: PRNGKeyArray | None) -> Array:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = jnp.split(self.modulation(c.vector), 6, axis=-1)
        attention_key, mlp_key = layers.split(key, 2)
        y = self.attention(modulate(self.norm(h), shift, scale))
        h = h + self.branch_scale * across(gate, h) * dropout(y, self.rate, attention_key)
        if self.cross is not None:
            h = h + self.branch_scale * self.cross(self.norm(h), c.tokens, c.there)
        y = self.out(jax.nn.gelu(self.hidden(modulate(self.norm(h), mlp_shift, mlp_scale))))
        return h + self.branch_scale * across(mlp_gate, h) * dropout(y, self.rate, mlp_key)


def patches(x: Float[Array, "batch *grid channels"], edge: int) -> Float[Array, "batch tokens features"]:
    """Cut into cubes of the given edge: tokens row-major, features ordered (place in the patch, channel).

    >>> import jax.numpy as jnp
    >>> patches(jnp.arange(4.0).reshape(1, 4, 1), 2).tolist()
    [[[0.0, 1.0], [2.0, 3.0]]]
    """
    grid, tokens, places = _names(x.ndim - 2)
    return rearrange(x, f"b {grid} c -> b ({tokens}) ({places} c)", **dict.fromkeys(places.split(), edge))


def unpatch(
    h: Float[Array, "batch tokens features"], counts: tuple[int, ...], edge: int
) -> Float[Array, "batch *grid out"]:
    """The inverse of `patches` for a grid of `counts` tokens."""
    grid, tokens, places = _names(len(counts))
    sizes = dict(zip(tokens.split(), counts)) | dict.fromkeys(places.split(), edge)
    return rearrange(h, f"b ({tokens}) ({places} c) -> b {grid} c", **sizes)


def _names(dims: int) -> tuple[str, str, str]:
    """einops names for `dims` axes, for instance "(h p) (w q)", "h w", "p q"."""
    tokens, places = "hwd"[:dims], "pqr"[:dims]
    return " ".join(f"({t} {p})" for t, p in zip(tokens, places)), " ".join(tokens), " ".join(places)
