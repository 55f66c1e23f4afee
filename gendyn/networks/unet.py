"""A convolutional U-Net in one, two or three dimensions, laid out by a table of blocks.

    stem -> encoder rows -> middle rows -> decoder rows -> norm, SiLU, convolution

Every row is the same residual block; a row says how many channels come and go, whether the block halves or
doubles the grid, attends, and joins a skip connection. Another U-Net of this family is another table.
"""

from collections.abc import Iterator
from functools import partial
from itertools import repeat
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.networks.conditioning import Conditioning, Told
from gendyn.networks.conditions import Conditions, has_tokens, image_channels
from gendyn.networks.embeddings import FREQUENCIES
from gendyn.networks.halves import Encoded, scaled
from gendyn.networks.layers import (
    Attention,
    Conv,
    Dense,
    GroupNorm,
    Remat,
    checked_remat,
    dropout,
    modulate,
    rematerialise,
    split,
)


class Row(NamedTuple):
    """One block of the U-Net."""

    inputs: int  # channels that come, the joined skip included
    outputs: int
    resample: Literal["down", "up"] | None = None
    attention: bool = False
    joins: bool = False  # concatenates the newest unused skip connection


def layout(widths: tuple[int, ...], blocks: int, attention: tuple[int, ...]) -> tuple[list[Row], list[Row], list[Row]]:
    """Encoder, middle and decoder rows of a U-Net, as ADM arranges them.

    Each encoder row (and the stem) leaves a skip connection; the decoder has `blocks + 1` joining rows a
    level and so takes each exactly once. The middle attends if any level does.

    Args:
        widths: channels of each level, finest first.
        blocks: encoder blocks per level.
        attention: levels whose blocks attend.

    >>> [row.resample for row in layout((8, 16), 1, ())[0]], [row.inputs for row in layout((8, 16), 1, ())[2]]
    ([None, 'down', None], [32, 24, 16, 24, 16])

    Dhariwal and Nichol 2021, arXiv:2105.05233.
    """
    channels, skips = widths[0], [widths[0]]
    encoder, decoder = [], []
    for level, width in enumerate(widths):
        rows = [Row(channels, channels, "down")] if level else []
        rows += [Row(c, width, attention=level in attention) for c in (channels, *(width,) * (blocks - 1))]
        encoder += rows
        skips += [row.outputs for row in rows]
        channels = width
    middle = [Row(channels, channels, attention=bool(attention)), Row(channels, channels)]
    for level in reversed(range(len(widths))):
        for _ in range(blocks + 1):
            decoder.append(Row(channels + skips.pop(), widths[level], None, level in attention, joins=True))
            channels = widths[level]
        if level:
            decoder.append(Row(channels, channels, "up"))
    return encoder, middle, decoder


class UNet(nnx.Module):
    """Residual U-Net for data of shape [*grid, channels].

    Args:
        spatial: number of grid axes, 1 to 3.
        channels: of the data.
        width: channels of the finest level when its multiplier is 1.
        multipliers: channels of each level, in units of `width`; each level but the first halves the grid.
        blocks: residual blocks per level of the encoder (the decoder has one more).
        attention: levels with self-attention, as indices into `multipliers` (negative from the coarsest);
            the middle attends unless this is empty.
        num_classes: None, or the number of classes; `cond == num_classes` (or None) is the null class.
        conditions: what else the network is told, by name (`gendyn.networks.conditions`); blocks with self-attention
            also attend to tokens.
        groups: of the group norms, at most a quarter of the channels (see `GroupNorm`).
        head_dim: features per attention head; levels with fewer channels have one head.
        dropout: rate inside the blocks, drawn from the call's `key`.
        out_channels: `channels` unless given (2 * channels for a learned-variance head).
        time_features, frequencies: of the sinusoids of the label; fixed whatever the width.
        attention_scale: of the logits; 1/sqrt(head features) unless given.
        branch_scale: multiplies every residual branch (for depth transfer).
        dtype: of the blocks' arithmetic; parameters, norm statistics, softmax and output are float32.
        remat: recompute blocks in the backward pass instead of keeping their activations; True, or what to keep
            (`layers.POLICIES`).

    At initialisation every branch and the readout are zero: the output is exactly 0.

    >>> import jax, jax.numpy as jnp
    >>> net = lambda x: UNet(1, 2, width=8, multipliers=(1, 2), blocks=1, rngs=nnx.Rngs(0))(x, 0.3)
    >>> jax.eval_shape(net, jnp.ones((3, 6, 2))).shape
    (3, 6, 2)

    Ronneberger et al. 2015, arXiv:1505.04597; Ho et al. 2020, arXiv:2006.11239; Dhariwal and Nichol 2021,
    arXiv:2105.05233.
    """

    def __init__(
        self,
        spatial: int = 2,
        channels: int = 1,
        *,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int = 2,
        attention: tuple[int, ...] = (-1,),
        num_classes: int | None = None,
        conditions: Conditions | None = None,
        groups: int = 32,
        head_dim: int = 64,
        dropout: float = 0.0,
        out_channels: int | None = None,
        time_features: int = 64,
        frequencies: tuple[float, float] = FREQUENCIES,
        attention_scale: float | None = None,
        branch_scale: float = 1.0,
        dtype: DTypeLike = jnp.float32,
        remat: Remat = False,
        rngs: nnx.Rngs,
    ) -> None:
        if spatial not in (1, 2, 3):
            raise ValueError(f"a UNet has 1, 2 or 3 spatial dimensions, got spatial={spatial}.")
        self.spatial, self.channels, self.levels = spatial, channels, len(multipliers)
        self.remat = checked_remat(remat)
        widths = tuple(width * multiplier for multiplier in multipliers)
        encoder, middle, decoder = layout(widths, blocks, levels(attention, self.levels))

        block = partial(Block, conditioning=4 * width, spatial=spatial, groups=groups, head_dim=head_dim)
        block = partial(block, attention_scale=attention_scale, dropout=dropout, branch_scale=branch_scale)
        block = partial(block, attends=has_tokens(conditions), dtype=dtype, rngs=rngs)
        if has_tokens(conditions) and not attention:
            raise ValueError("tokens are read where a UNet attends; name levels in attention=.")
        self.conditioning = Conditioning(4 * width, num_classes, time_features, frequencies, conditions, rngs=rngs)
        self.stem = Conv(
            channels + image_channels(conditions), widths[0], ("data", "embed"), spatial=spatial, dtype=dtype, rngs=rngs
        )
        self.encoder = nnx.List(block(row) for row in encoder)
        self.middle = nnx.List(block(row) for row in middle)
        self.decoder = nnx.List(block(row) for row in decoder)
        self.norm = GroupNorm(widths[0], groups, rngs=rngs)
        outputs = out_channels or channels
        self.readout = Conv(widths[0], outputs, ("embed", "data"), spatial=spatial, init=zeros, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch *grid channels"],
        label: Any,
        cond: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch *grid out"]:
        """Evaluate at noise levels `label` and conditions `cond`; a `key` switches dropout on."""
        self._check(x.shape)
        c = self.conditioning(label, cond, x.shape[0])
        keys = iter(split(key, len(self.encoder) + len(self.middle) + len(self.decoder)))
        return self._decode(self._encode(x, c, cond, keys), c, keys)

    def encode(self, x: Float[Array, "batch *grid channels"], label: Any, cond: Any = None) -> Encoded:
        """The features that the decoder joins, encoder and middle: see `halves`."""
        self._check(x.shape)
        return self._encode(x, self.conditioning(label, cond, x.shape[0]), cond, repeat(None))

    def decode(
        self, encoded: Encoded, label: Any, cond: Any = None, *, skip_scale: Any = None
    ) -> Float[Array, "batch *grid out"]:
        """The output from features, at noise levels `label`; `skip_scale` as in `halves.scaled`."""
        c = self.conditioning(label, cond, encoded.h.shape[0])
        return self._decode(Encoded(encoded.h, scaled(encoded.skips, skip_scale)), c, repeat(None))

    def _encode(self, x: Array, c: Told, cond: Any, keys: Iterator[Any]) -> Encoded:
        h = self.stem(self.conditioning.beside(x, cond))
        skips = [h]
        for block in self.encoder:
            h = rematerialise(block, self.remat)(h, c, next(keys))
            skips.append(h)
        for block in self.middle:
            h = rematerialise(block, self.remat)(h, c, next(keys))
        return Encoded(h, tuple(reversed(skips)))

    def _decode(self, encoded: Encoded, c: Told, keys: Iterator[Any]) -> Array:
        h, skips = encoded.h, iter(encoded.skips)
        for block in self.decoder:
            h = jnp.concatenate([h, next(skips)], axis=-1) if block.row.joins else h
            h = rematerialise(block, self.remat)(h, c, next(keys))
        return self.readout(jax.nn.silu(self.norm(h)))

    def _check(self, shape: tuple[int, ...]) -> None:
        *grid, channels = shape[1:]
        if len(grid) != self.spatial or channels != self.channels:
            expected = ", ".join(["batch", *["size"] * self.spatial, str(self.channels)])
            raise ValueError(
                f"this UNet expects [{expected}] (channels last), got {list(shape)}; "
                f"build it with spatial={len(grid)}, channels={channels} for such data."
            )
        unit = 2 ** (self.levels - 1)
        if any(size % unit for size in grid):
            raise ValueError(
                f"a UNet of {self.levels} levels halves the grid {self.levels - 1} times, so every size must be a "
                f"multiple of {unit}, got {tuple(grid)}; pad the data or pass fewer multipliers."
            )


class Block(nnx.Module):
    """h = skip(x) + f(x), then h + attention(h), then h + attention(h, tokens) where the network is told tokens.

    f = W2 dropout(silu(modulate(norm(W1 resample(silu(norm(x))))))); W2 and the attention's last kernel
    start at zero, so the block starts as its skip path: resampling and, where the channels change, a 1x1 convolution.
    """

    def __init__(
        self,
        row: Row,
        *,
        conditioning: int,
        spatial: int,
        groups: int,
        head_dim: int,
        attention_scale: float | None,
        attends: bool,
        dropout: float,
        branch_scale: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.row, self.rate, self.branch_scale = row, dropout, branch_scale
        inputs, outputs = row.inputs, row.outputs
        conv = partial(Conv, spatial=spatial, dtype=dtype, rngs=rngs)
        dense = partial(Dense, dtype=dtype, rngs=rngs)
        self.norm = GroupNorm(inputs, groups, rngs=rngs)
        self.hidden = conv(inputs, outputs, ("embed", "mlp"))
        self.modulation = dense(conditioning, 2 * outputs, ("conditioning", "modulation"))
        self.hidden_norm = GroupNorm(outputs, groups, axis="mlp", rngs=rngs)
        self.out = conv(outputs, outputs, ("mlp", "embed"), init=zeros)
        self.skip = dense(inputs, outputs, ("embed", "embed")) if inputs != outputs else None
        if row.attention:
            heads = max(1, outputs // head_dim)
            self.attention_norm = GroupNorm(outputs, groups, rngs=rngs)
            attention = partial(
                Attention, outputs, heads, scale=attention_scale, out_init=zeros, dtype=dtype, rngs=rngs
            )
            self.attention = attention()
            self.cross_norm = GroupNorm(outputs, groups, rngs=rngs) if attends else None
            self.cross = attention(context=conditioning) if attends else None

    def __call__(self, x: Array, c: Told, key: PRNGKeyArray | None) -> Array:
        resample = {"down": halve, "up": double, None: lambda h: h}[self.row.resample]
        shift, scale = jnp.split(self.modulation(c.vector), 2, axis=-1)
        h = self.hidden(resample(jax.nn.silu(self.norm(x))))
        h = jax.nn.silu(modulate(self.hidden_norm(h), shift, scale))
        h = self.branch_scale * self.out(dropout(h, self.rate, key))
        h = h + (resample(x) if self.skip is None else self.skip(resample(x)))
        return self._attend(h, c) if self.row.attention else h

    def _attend(self, h: Array, c: Told) -> Array:
        rows = (h.shape[0], -1, h.shape[-1])
        h = h + self.branch_scale * self.attention(self.attention_norm(h).reshape(rows)).reshape(h.shape)
        if self.cross is None or self.cross_norm is None:
            return h
        y = self.cross(self.cross_norm(h).reshape(rows), c.tokens, c.there)
        return h + self.branch_scale * y.reshape(h.shape)


def levels(indices: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Level indices with negative ones counted from the coarsest level.

    >>> levels((0, -1), 3)
    (0, 2)
    """
    for index in indices:
        if not -count <= index < count:
            raise ValueError(
                f"attention lists levels {-count} to {count - 1} (indices into multipliers, not resolutions), "
                f"got {index}; drop it or add multipliers."
            )
    return tuple(index % count for index in indices)


def halve(x: Float[Array, "batch *grid channels"]) -> Float[Array, "batch *half channels"]:
    """Mean over cells of two along every grid axis."""
    batch, *grid, channels = x.shape
    cells = [n for size in grid for n in (size // 2, 2)]
    return x.reshape(batch, *cells, channels).mean(axis=tuple(range(2, 2 * len(grid) + 1, 2)))


def double(x: Float[Array, "batch *grid channels"]) -> Float[Array, "batch *twice channels"]:
    """Nearest neighbour along every grid axis."""
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, 2, axis=axis)
    return x
