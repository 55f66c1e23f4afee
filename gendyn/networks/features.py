"""Feature taps: what any block of a network returns, by the name that its parameters have."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import jax
from jaxtyping import Array

from gendyn.jaxprs import named_values


def features(call: Callable[..., Any], *inputs: Any, names: Sequence[str]) -> tuple[Any, dict[str, Array]]:
    """call(*inputs), and what the named blocks return on the way.

    Names are the paths of modules in the parameter tree ("stem", "encoder/3", "blocks/0/attention/query"); a block
    that is called again has a count ("#2"). Blocks of a scanned stack share one path, and their outputs come stacked
    along a new first axis. `feature_shapes` lists them all. Can be jitted, mapped and differentiated; rematerialised
    blocks stay so, and only what is asked for is kept.

    Args:
        call: `apply` of a functional network, or a denoiser made from one.
        inputs: what it takes: (params, x, label, cond) or (x, t, cond).
        names: which features.

    Returns:
        (output, name -> feature).

    Raises:
        ValueError: a name that the network does not have.

    Example:
        >>> import gendyn as gd, jax, jax.numpy as jnp
        >>> from functools import partial
        >>> network = gd.networks.functional(partial(gd.networks.MLP, 2, width=16, depth=3))
        >>> params = gd.networks.initialise(network, jax.random.key(0))
        >>> output, found = features(network.apply, params, jnp.ones((4, 2)), 0.3, names=["blocks/1"])
        >>> found["blocks/1"].shape
        (4, 16)
    """
    wanted = {name.split("#")[0] for name in names}
    output, found = named_values(_tapped(call), *inputs, wanted=wanted.__contains__)
    if missing := [name for name in names if name not in found]:
        near = get_close_matches(missing[0], feature_shapes(call, *inputs), n=3)
        raise ValueError(
            f"there is no feature {missing[0]!r}; {'near it are ' + ', '.join(near) if near else 'none is near it'} "
            "(gd.networks.feature_shapes lists all)."
        )
    return output, {name: found[name] for name in names}


def feature_shapes(call: Callable[..., Any], *inputs: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Every feature's name, shape and dtype, in the order in which they are made; nothing is computed.

    Args:
        call, inputs: as in `features`; arrays, or `jax.ShapeDtypeStruct`s of them.

    Example:
        >>> import gendyn as gd, jax, jax.numpy as jnp
        >>> from functools import partial
        >>> network = gd.networks.functional(partial(gd.networks.MLP, 2, width=16, depth=1))
        >>> params = jax.eval_shape(network.init, jax.random.key(0))
        >>> [name for name in feature_shapes(network.apply, params, jnp.ones((4, 2)), 0.3) if "blocks" in name]
        ['blocks/0/modulation', 'blocks/0/norm', 'blocks/0/hidden', 'blocks/0/out', 'blocks/0']
    """
    names: list[str] = []

    def found(*inputs: Any) -> dict[str, Array]:
        _, values = named_values(_tapped(call), *inputs)
        names.extend(values)
        return values

    shapes = jax.eval_shape(found, *inputs)
    return {name: shapes[name] for name in names}  # a dict that leaves a jax function is sorted


def _tapped(call: Any) -> Callable[..., Any]:
    if not hasattr(call, "tapped"):
        raise ValueError(
            f"features are found in what is made from gd.networks.functional: pass network.apply or a denoiser of it; "
            f"got {type(call).__name__}. (Any function whose values have a jax.ad_checkpoint.checkpoint_name: "
            "gendyn.jaxprs.named_values.)"
        )
    return call.tapped()
