"""Layers that cannot be built without naming their axes.

Every parameter of this room is created by `parameter`, which asks for one axis name per dimension and
derives the role. Parameters are float32; a layer computes in its `dtype`; normalisation statistics and
softmax are float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, lecun_normal, zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from gendyn.distributed import check_heads, constrain
from gendyn.parametrization.axes import role

LECUN = lecun_normal()  # variance 1/fan_in, where fan_in is everything before the last axis


def parameter(rngs: nnx.Rngs, init: Initializer, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
    """A float32 parameter carrying `axes` (one name per dimension) and the `role` that follows from them.

    Raises:
        ValueError: if the names do not match the dimensions one to one, or are not in the vocabulary.
    """
    if len(axes) != len(shape):
        raise ValueError(
            f"a parameter of shape {shape} needs {len(shape)} axis names, got {axes}; name each dimension."
        )
    make = nnx.with_metadata(init, axes=tuple(axes), role=role(axes))
    return nnx.Param(make(rngs.params(), shape, jnp.float32))


class Dense(nnx.Module):
    """y = x W + b over the last axis (no b where `bias` is None); also the 1x1 convolution of any dimensions."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        axes: tuple[str, str],
        *,
        init: Initializer = LECUN,
        bias: Initializer | None = zeros,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel = parameter(rngs, init, (inputs, outputs), axes)
        self.bias = None if bias is None else parameter(rngs, bias, (outputs,), axes[-1:])
        self.axis, self.dtype = axes[-1], jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        y = x.astype(self.dtype) @ self.kernel.astype(self.dtype)
        return constrain(y if self.bias is None else y + self.bias.astype(self.dtype), self.axis)


class Conv(nnx.Module):
    """Convolution over all axes between the first (batch) and the last (channels), stride 1, zero padding.

    Args:
        spatial: number of spatial dimensions, 1 to 3.
        size: extent of the kernel along each of them (odd keeps the grid centred).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        axes: tuple[str, str],
        *,
        spatial: int,
        size: int = 3,
        init: Initializer = LECUN,
        bias: Initializer = zeros,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (size,) * spatial + (inputs, outputs)
        self.kernel = parameter(rngs, init, shape, ("spatial",) * spatial + tuple(axes))
        self.bias = parameter(rngs, bias, (outputs,), axes[-1:])
        self.axis, self.dtype = axes[-1], jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "batch *spatial inputs"]) -> Float[Array, "batch *spatial outputs"]:
        return constrain(self.correlate(x, "SAME") + self.bias.astype(self.dtype), self.axis)

    def correlate(self, x: Float[Array, "batch *spatial inputs"], padding: Any) -> Array:
        """The convolution without its bias, with zeros so far beyond the border."""
        grid = "HWD"[: x.ndim - 2]
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel.astype(self.dtype),
            window_strides=(1,) * len(grid),
            padding=padding,
            dimension_numbers=(f"N{grid}C", f"{grid}IO", f"N{grid}C"),
        )


class GroupNorm(nnx.Module):
    """Normalise over space and groups of channels, then scale and shift; statistics in float32.

    There are min(groups, channels // 4) groups, the rule of ADM and EDM. For transfer across widths choose
    `groups` small enough that the narrowest network already has them all: then their number does not change.

    Wu and He 2018, arXiv:1803.08494.
    """

    def __init__(
        self, channels: int, groups: int = 32, *, axis: str = "embed", eps: float = 1e-5, rngs: nnx.Rngs
    ) -> None:
        self.groups, self.eps = max(1, min(groups, channels // 4)), eps
        if channels % self.groups:
            raise ValueError(
                f"GroupNorm splits channels into equal groups, but {channels} channels do not divide into "
                f"{self.groups}; choose a width that does, or a smaller groups=."
            )
        self.scale = parameter(rngs, jax.nn.initializers.ones, (channels,), (axis,))
        self.bias = parameter(rngs, zeros, (channels,), (axis,))

    def __call__(self, x: Float[Array, "batch *spatial channels"]) -> Float[Array, "batch *spatial channels"]:
        flat = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
        centred = flat - self._mean(flat)
        gain = jax.lax.rsqrt(self._mean(jnp.square(centred)) + self.eps) * self.scale
        return (centred * gain + self.bias).reshape(x.shape).astype(x.dtype)

    def _mean(self, x: Float[Array, "batch places channels"]) -> Float[Array, "batch 1 channels"]:
        """The mean of each group, repeated for each of its channels."""
        # Space first, a contiguous sum: a fifth off a small U-Net's training step on a CPU.
        groups = x.mean(1).reshape(x.shape[0], 1, self.groups, -1).mean(-1)
        return jnp.repeat(groups, x.shape[-1] // self.groups, axis=-1)


class LayerNorm(nnx.Module):
    """Normalise each example's (or token's) features in float32; gain and shift are left to the modulation."""

    def __init__(self, *, eps: float = 1e-6) -> None:
        self.eps = eps

    def __call__(self, x: Float[Array, "batch *tokens features"]) -> Float[Array, "batch *tokens features"]:
        centred = x.astype(jnp.float32) - x.astype(jnp.float32).mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.eps)).astype(x.dtype)


class RMSNorm(nnx.Module):
    """x/sqrt(mean x^2) times a gain over the last axis, in float32 (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, size: int, *, axis: str, eps: float = 1e-6, rngs: nnx.Rngs) -> None:
        self.gain = parameter(rngs, jax.nn.initializers.ones, (size,), (axis,))
        self.eps = eps

    def __call__(self, x: Float[Array, "... features"]) -> Float[Array, "... features"]:
        wide = x.astype(jnp.float32)
        power = jnp.square(wide).mean(-1, keepdims=True)
        return (wide * jax.lax.rsqrt(power + self.eps) * self.gain).astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head attention over tokens: softmax(scale q k^T) v, softmax in float32.

    Args:
        width: features of a token; `heads` must divide it.
        context: features of a token of the other sequence, where keys and values come from one (cross-attention).
        scale: multiplies the logits; 1/sqrt(width/heads) unless given. Networks that grow by longer heads
            rather than by more of them want 1/head_dim for width transfer, normalised at the base width.
        init, bias: of query, key and value.
        qk_norm: "rms" normalises queries and keys over each head's features, which bounds the logits whatever the
            weights grow to (Dehghani et al. 2023, arXiv:2302.05442, with LayerNorm); None leaves them.
        out_init: of the last kernel of the branch; zeros makes the branch start as the zero function.

    Cost: O(tokens^2) time; memory too, unless the backend has a fused kernel.
    Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context: int | None = None,
        scale: float | None = None,
        init: Initializer = LECUN,
        bias: Initializer = zeros,
        out_init: Initializer = LECUN,
        qk_norm: Literal["rms"] | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if width % heads:
            raise ValueError(f"attention needs heads that divide the width, got {heads} heads for {width}.")
        if qk_norm not in (None, "rms"):
            raise ValueError(f'qk_norm is "rms" or None, got {qk_norm!r}.')
        self.heads = heads
        self.scale = (width // heads) ** -0.5 if scale is None else scale
        inner = partial(Dense, outputs=width, init=init, bias=bias, dtype=dtype, rngs=rngs)
        source = partial(inner, width if context is None else context)
        axis = "embed" if context is None else "conditioning"
        self.query = inner(width, axes=("embed", "heads"))
        self.key = source(axes=(axis, "heads"))
        self.value = source(axes=(axis, "heads"))
        self.out = Dense(width, width, ("heads", "embed"), init=out_init, dtype=dtype, rngs=rngs)
        norms = [] if qk_norm is None else [RMSNorm(width // heads, axis="head_dim", rngs=rngs) for _ in range(2)]
        self.norms = nnx.List(norms)

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        context: Float[Array, "#batch others features"] | None = None,
        there: Bool[Array, "#batch others"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Attend to x itself, or to the tokens of `context` that are `there`."""
        check_heads(self.heads)
        source = x if context is None else context
        query, key, value = self.query(x), self.key(source), self.value(source)
        query, key, value = (part.reshape(*part.shape[:2], self.heads, -1) for part in (query, key, value))
        if self.norms:
            query, key = (norm(part) for norm, part in zip(self.norms, (query, key)))
        key, value = (jnp.broadcast_to(part, (len(x), *part.shape[1:])) for part in (key, value))
        mask = None if there is None else there[:, None, None]
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask, scale=self.scale)
        return self.out(mixed.reshape(x.shape))


def modulate(
    x: Float[Array, "batch *tokens features"],
    shift: Float[Array, "#batch features"],
    scale: Float[Array, "#batch features"],
) -> Float[Array, "batch *tokens features"]:
    """x (1 + scale) + shift, one scale and shift per example (FiLM, Perez et al. 2018, arXiv:1709.07871)."""
    return x * (1 + across(scale, x)) + across(shift, x)


def across(value: Float[Array, "#batch features"], like: Array) -> Array:
    """Give per-example features as many middle axes as `like` has."""
    return value.reshape(value.shape[0], *(1,) * (like.ndim - 2), value.shape[-1])


def dropout(x: Float[Array, "..."], rate: float, key: PRNGKeyArray | None) -> Float[Array, "..."]:
    """Zero entries with probability `rate` and rescale the rest; without a key (evaluation) the identity."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def split(key: PRNGKeyArray | None, count: int) -> list[Any]:
    """One key per block; as many Nones when there is no key (evaluation)."""
    return [None] * count if key is None else list(jax.random.split(key, count))


Remat = bool | str

POLICIES = ("nothing", "dots", "dots_with_no_batch_dims", "everything")
"""What a block may keep for its backward pass: the policies `jax.checkpoint_policies.NAME_saveable`. "dots" keeps the
products, "dots_with_no_batch_dims" those with weights and not those of attention."""


def checked_remat(remat: Remat) -> Remat:
    """Refuse what is neither True, False nor the name of a policy."""
    if not isinstance(remat, bool) and remat not in POLICIES:
        raise ValueError(f"remat is True, False or one of {', '.join(POLICIES)}; got {remat!r}.")
    return remat


def rematerialise(block: Callable[..., Any], remat: Remat, *, prevent_cse: bool = True) -> Callable[..., Any]:
    """The block, or the block that is computed again in the backward pass from its inputs and what the policy keeps.

    Args:
        remat: False for the block itself, True for nothing but the inputs, or a name in `POLICIES`.
        prevent_cse: as in `jax.checkpoint`; not needed inside a scan.

    Chen et al. 2016, arXiv:1604.06174.
    """
    if checked_remat(remat) is False:
        return block
    policy = getattr(jax.checkpoint_policies, f"{'nothing' if remat is True else remat}_saveable")
    return jax.checkpoint(block, policy=policy, prevent_cse=prevent_cse)
