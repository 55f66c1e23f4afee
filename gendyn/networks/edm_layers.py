"""Layers of the EDM family with their published initialisation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import variance_scaling, zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from gendyn.networks.edm_layout import Family
from gendyn.networks.layers import Attention, Conv, Dense
from gendyn.networks.resampling import filtered

XAVIER = variance_scaling(1.0, "fan_avg", "uniform")
KAIMING = variance_scaling(1 / 3, "fan_in", "uniform")


def initialisers(family: Family, fan_in: int, last: bool) -> dict[str, Any]:
    """Of kernel and bias, by name, as published."""
    if family.initial == "xavier":
        return {"init": variance_scaling(1e-10, "fan_avg", "uniform") if last else XAVIER, "bias": zeros}
    return {"init": zeros, "bias": zeros} if last else {"init": KAIMING, "bias": Centred(fan_in**-0.5)}


class Centred(NamedTuple):
    """Initialiser: uniform between -bound and bound."""

    bound: float

    def __call__(self, key: Any, shape: Any, dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -self.bound, self.bound)


def conv(
    family: Family,
    inputs: int,
    outputs: int,
    axes: tuple[str, str],
    *,
    last: bool = False,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> Conv:
    """A 3x3 convolution; the `last` of a branch or of the network starts at zero or nearly there."""
    return Conv(inputs, outputs, axes, spatial=2, dtype=dtype, rngs=rngs, **initialisers(family, 9 * inputs, last))  # type: ignore[arg-type]


def halving_conv(
    family: Family, inputs: int, outputs: int, axes: tuple[str, str], *, dtype: DTypeLike, rngs: nnx.Rngs
) -> "HalvingConv":
    """A `HalvingConv` with the family's filter."""
    start = initialisers(family, 9 * inputs, last=False)
    return HalvingConv(inputs, outputs, axes, taps=family.taps, spatial=2, dtype=dtype, rngs=rngs, **start)


def dense(
    family: Family,
    inputs: int,
    outputs: int,
    axes: tuple[str, str],
    *,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> Dense:
    """A linear layer, or 1x1 convolution."""
    return Dense(inputs, outputs, axes, dtype=dtype, rngs=rngs, **initialisers(family, inputs, last=False))  # type: ignore[arg-type]


def attention(family: Family, width: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Attention:
    """Self-attention whose last kernel starts at zero or nearly there."""
    # One published kernel makes query, key and value: fan 4 width for what is 2 width in each of ours, hence 0.2/2.
    init = variance_scaling(0.1, "fan_avg", "uniform") if family.initial == "xavier" else KAIMING
    bias, out = initialisers(family, width, last=False)["bias"], initialisers(family, width, last=True)["init"]
    return Attention(width, heads, init=init, bias=bias, out_init=out, dtype=dtype, rngs=rngs)


class HalvingConv(Conv):
    """Convolution and halving as NCSN++ fuses them: what the filter sees beyond the border are the convolution's
    own responses there, not zeros; the bias comes last."""

    def __init__(self, *args: Any, taps: tuple[float, ...], **options: Any) -> None:
        super().__init__(*args, **options)
        self.taps = taps

    def __call__(self, x: Float[Array, "batch side side inputs"]) -> Float[Array, "batch half half outputs"]:
        reach = 1 + (len(self.taps) - 1) // 2
        y = self.correlate(x, [(reach, reach)] * 2)
        for axis in (1, 2):
            y = filtered(y, self.taps, axis, stride=2)
        return y + self.bias.astype(self.dtype)  # type: ignore[union-attr]
