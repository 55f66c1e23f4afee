"""The networks of the EDM release (DDPM++, NCSN++, ADM) as one U-Net, for training and for published weights."""

from collections.abc import Iterator
from functools import partial
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.networks import edm_layers as layers
from gendyn.networks.edm_conditioning import Conditioning
from gendyn.networks.edm_layout import Family, Row, layout, named
from gendyn.networks.halves import Encoded, scaled
from gendyn.networks.layers import GroupNorm, Remat, across, checked_remat, dropout, modulate, rematerialise, split
from gendyn.networks.resampling import resample

WITHOUT_PARAMETERS = ("image_down", "image_up")


class EDMUNet(nnx.Module):
    """U-Net of the EDM family for square pictures [resolution, resolution, channels].

    The condition is None, classes [batch] (`num_classes`, or None, is no class), rows [batch, num_classes] (one-hot,
    or mixtures), or a mapping {"classes": any of these, "augment": [batch, augment]}, either of which may be left out.

    Args:
        resolution, channels: of the data.
        family: "ddpmpp", "ncsnpp", "adm", or a `Family` of one's own.
        width: channels of the finest level when its multiplier is 1.
        multipliers: channels of each level, in units of `width`; each level but the first halves the picture.
        blocks: residual blocks per level of the encoder (the decoder has one more).
        attention: resolutions with self-attention; the deepest block of the decoder attends in any case.
        conditioning: features of the vector that modulates the blocks, in units of the width.
        num_classes: None, or the number of classes.
        augment: length of the augmentation label, 0 for none.
        dropout: rate inside the blocks, drawn from the call's `key`.
        out_channels: `channels` unless given (2 * channels for a learned-variance head).
        dtype: of the blocks' arithmetic; parameters, conditioning, norm statistics, softmax and output are float32.
        remat: recompute blocks in the backward pass instead of keeping their activations; True, or what to keep
            (`layers.POLICIES`).

    As published, "ddpmpp" and "ncsnpp" start near the zero function and "adm" at it. The frequencies of "fourier" are
    stored with the weights and have no gradient.

    >>> import jax.numpy as jnp
    >>> net = EDMUNet(8, 3, family="adm", width=8, multipliers=(1, 2), blocks=1, rngs=nnx.Rngs(0))
    >>> net(jnp.ones((2, 8, 8, 3)), 0.3).shape
    (2, 8, 8, 3)

    Karras et al. 2022, arXiv:2206.00364; Song et al. 2021, arXiv:2011.13456; Dhariwal and Nichol 2021,
    arXiv:2105.05233.
    """

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        *,
        family: str | Family = "ddpmpp",
        width: int = 128,
        multipliers: tuple[int, ...] = (2, 2, 2),
        blocks: int = 4,
        attention: tuple[int, ...] = (16,),
        conditioning: int = 4,
        num_classes: int | None = None,
        augment: int = 0,
        dropout: float = 0.0,
        out_channels: int | None = None,
        dtype: DTypeLike = jnp.float32,
        remat: Remat = False,
        rngs: nnx.Rngs,
    ) -> None:
        family = named(family)
        if resolution % 2 ** (len(multipliers) - 1):
            raise ValueError(
                f"{len(multipliers)} levels halve the picture {len(multipliers) - 1} times, so its side must be a "
                f"multiple of {2 ** (len(multipliers) - 1)}, got {resolution}; resize it or pass fewer multipliers."
            )
        self.family, self.taps, self.remat = family, family.taps, checked_remat(remat)
        self.shape = (resolution, resolution, channels)
        widths = tuple(width * multiplier for multiplier in multipliers)
        stem = width if family.stem == "width" else widths[0]
        encoder, decoder = layout(
            family, resolution, channels, out_channels or channels, widths, stem, blocks, attention
        )
        self.encoder_rows, self.decoder_rows = tuple(encoder), tuple(decoder)
        self.middle = next(i for i, row in enumerate(decoder) if row.joins)  # decoder rows that see no skip yet
        make = partial(
            _entry, family=family, conditioning=conditioning * width, dropout=dropout, dtype=dtype, rngs=rngs
        )
        self.conditioning = Conditioning(family, width, conditioning * width, num_classes, augment, rngs=rngs)
        self.stem = layers.conv(family, channels, stem, ("data", "embed"), dtype=dtype, rngs=rngs)
        self.encoder = nnx.Dict({row.name: make(row) for row in encoder if row.kind not in WITHOUT_PARAMETERS})
        inner = [row for row in decoder if row.kind == "block"]
        self.decoder = nnx.Dict({row.name: make(row) for row in inner})
        self.readout = nnx.Dict({row.name: make(row) for row in decoder if row.kind == "readout"})

    def __call__(
        self,
        x: Float[Array, "batch side side channels"],
        label: Any,
        cond: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch side side out"]:
        """Evaluate at noise levels `label` and conditions `cond`; a `key` switches dropout on."""
        self._check(x.shape)
        c = self.conditioning(label, cond, x.shape[0])
        keys = iter(split(key, len(self.encoder) + len(self.decoder)))
        return self._decode(self._encode(x, c, keys), c, keys)

    def encode(self, x: Float[Array, "batch side side channels"], label: Any, cond: Any = None) -> Encoded:
        """The features that the decoder joins, the blocks before the first connection included: see `halves`."""
        self._check(x.shape)
        return self._encode(x, self.conditioning(label, cond, x.shape[0]), repeat(None))

    def decode(
        self, encoded: Encoded, label: Any, cond: Any = None, *, skip_scale: Any = None
    ) -> Float[Array, "batch side side out"]:
        """The output from features, at noise levels `label`; `skip_scale` as in `halves.scaled`."""
        c = self.conditioning(label, cond, encoded.h.shape[0])
        return self._decode(Encoded(encoded.h, scaled(encoded.skips, skip_scale)), c, repeat(None))

    def _check(self, shape: tuple[int, ...]) -> None:
        if shape[1:] != self.shape:
            raise ValueError(
                f"this EDMUNet expects [batch, {', '.join(map(str, self.shape))}] (channels last), got "
                f"{list(shape)}; build it with that resolution and those channels."
            )

    def _encode(self, x: Array, c: Array, keys: Iterator[Any]) -> Encoded:
        image, h = x, self.stem(x)
        skips = [h]
        for row in self.encoder_rows:
            if row.kind == "image_down":
                image = resample(image, "down", self.taps)
            elif row.kind == "image_skip":
                h = skips[-1] = h + self.encoder[row.name](image)
            elif row.kind == "image_residual":
                h = skips[-1] = image = (h + self.encoder[row.name](image)) * 0.5**0.5
            else:
                h = rematerialise(self.encoder[row.name], self.remat)(h, c, next(keys))
                skips.append(h)
        for row in self.decoder_rows[: self.middle]:
            h = rematerialise(self.decoder[row.name], self.remat)(h, c, next(keys))
        return Encoded(h, tuple(reversed(skips)))

    def _decode(self, encoded: Encoded, c: Array, keys: Iterator[Any]) -> Array:
        h, skips = encoded.h, iter(encoded.skips)
        image: Any = 0.0
        for row in self.decoder_rows[self.middle :]:
            if row.kind == "image_up":
                image = resample(image, "up", self.taps)
            elif row.kind == "readout":
                image = image + self.readout[row.name](h)
            else:
                h = jnp.concatenate([h, next(skips)], axis=-1) if row.joins else h
                h = rematerialise(self.decoder[row.name], self.remat)(h, c, next(keys))
        return image


class Block(nnx.Module):
    """h = g (skip(x) + W2 dropout(silu(modulated(W1 resample(silu(norm x)))))), then g (h + attention(norm h))."""

    def __init__(
        self, row: Row, *, family: Family, conditioning: int, dropout: float, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.resample, self.taps, self.gain, self.rate = row.resample, family.taps, family.gain, dropout
        inputs, outputs = row.inputs, row.outputs
        conv = partial(layers.conv, family, dtype=dtype, rngs=rngs)
        norm = partial(GroupNorm, eps=family.eps, rngs=rngs)
        self.shift_only = family.modulation == "shift"
        modulation = outputs if self.shift_only else 2 * outputs
        self.norm = norm(inputs)
        self.hidden = conv(inputs, outputs, ("embed", "mlp"))
        axes = ("conditioning", "modulation")
        self.modulation = layers.dense(family, conditioning, modulation, axes, dtype=dtype, rngs=rngs)
        self.hidden_norm = norm(outputs, axis="mlp")
        self.out = conv(outputs, outputs, ("mlp", "embed"), last=True)
        projects = inputs != outputs or (row.resample is not None and family.skip == "dense")
        skip = partial(layers.dense, family, inputs, outputs, ("embed", "embed"), dtype=dtype, rngs=rngs)
        self.skip = skip() if projects else None
        self.attention_norm = norm(outputs) if row.heads else None
        self.attention = layers.attention(family, outputs, row.heads, dtype=dtype, rngs=rngs) if row.heads else None

    def __call__(self, x: Array, c: Array, key: PRNGKeyArray | None) -> Array:
        h = self.hidden(resample(jax.nn.silu(self.norm(x)), self.resample, self.taps))
        h = self.out(dropout(jax.nn.silu(self._modulated(h, c)), self.rate, key))
        x = resample(x, self.resample, self.taps)
        h = (h + (x if self.skip is None else self.skip(x))) * self.gain
        return h if self.attention is None else (h + self._attend(h)) * self.gain

    def _modulated(self, h: Array, c: Array) -> Array:
        if self.shift_only:
            return self.hidden_norm(h + across(self.modulation(c), h))
        scale, shift = jnp.split(self.modulation(c), 2, axis=-1)
        return modulate(self.hidden_norm(h), shift, scale)

    def _attend(self, h: Array) -> Array:
        tokens = self.attention_norm(h).reshape(h.shape[0], -1, h.shape[-1])  # type: ignore[misc]
        return self.attention(tokens).reshape(h.shape)  # type: ignore[misc]


class Readout(nnx.Module):
    """Norm, SiLU, convolution to the channels of the data, in float32."""

    def __init__(self, row: Row, family: Family, rngs: nnx.Rngs) -> None:
        self.norm = GroupNorm(row.inputs, eps=family.eps, rngs=rngs)
        self.out = layers.conv(family, row.inputs, row.outputs, ("embed", "data"), last=True, rngs=rngs)

    def __call__(self, h: Array) -> Array:
        return self.out(jax.nn.silu(self.norm(h.astype(jnp.float32))))


def _entry(row: Row, *, family: Family, conditioning: int, dropout: float, dtype: DTypeLike, rngs: nnx.Rngs) -> Any:
    """The module of a row."""
    if row.kind == "readout":
        return Readout(row, family, rngs)
    if row.kind == "image_skip":
        return layers.dense(family, row.inputs, row.outputs, (row.reads, "embed"), dtype=dtype, rngs=rngs)
    if row.kind == "image_residual":
        return layers.halving_conv(family, row.inputs, row.outputs, (row.reads, "embed"), dtype=dtype, rngs=rngs)
    return Block(row, family=family, conditioning=conditioning, dropout=dropout, dtype=dtype, rngs=rngs)
