"""Identical blocks as one block whose parameters have a leading axis "layers", run by a single compiled body.

    blocks/0/out/kernel [in, out], blocks/1/out/kernel, ...   <->   blocks/out/kernel [layers, in, out]

The compiled program then holds one block instead of all, and the tree of parameters as many leaves as one block has.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, PRNGKeyArray

from gendyn.networks.layers import rematerialise
from gendyn.parametrization.axes import role

BLOCKS = "blocks"


def stacked(blocks: Sequence[nnx.Module]) -> Any:
    """One module of the blocks' kind that holds the parameters of all of them."""
    states = [dict(nnx.to_flat_state(nnx.state(block))) for block in blocks]
    whole = {path: _stacked([state[path] for state in states]) for path in states[0]}
    return nnx.merge(nnx.graphdef(blocks[0]), nnx.from_flat_state(whole))


def _stacked(layers: Sequence[Any]) -> nnx.Param:
    axes = ("layers", *layers[0].get_metadata()["axes"])
    return nnx.Param(jnp.stack([layer.get_value() for layer in layers]), axes=axes, role=role(axes))


def scan(
    block: nnx.Module, h: Array, told: Any, keys: Sequence[PRNGKeyArray | None], remat: bool | str = False
) -> Array:
    """h <- block_i(h, told, key_i) for every layer i of a stacked block."""
    graphdef, state = nnx.split(block)
    each = None if keys[0] is None else jnp.stack(keys)  # type: ignore[arg-type]

    def layer(h: Array, own: Any) -> tuple[Array, None]:
        parameters, key = own
        return nnx.merge(graphdef, parameters)(h, told, key), None

    # The loop is a barrier of its own, so that the compiler cannot undo the recomputation.
    return jax.lax.scan(rematerialise(layer, remat, prevent_cse=False), h, (state, each))[0]


def stack_blocks(params: Any) -> Any:
    """Parameters of a network with `scan=False` as one with `scan=True` has them; also of averages and moments.

    >>> params = {"stem": np.ones(1), "blocks": {"0": {"gain": np.zeros(2)}, "1": {"gain": np.ones(2)}}}
    >>> stack_blocks(params)["blocks"]["gain"].tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    layers = params[BLOCKS]
    inner = [layers[str(i)] for i in range(len(layers))]
    library = np if isinstance(jax.tree.leaves(inner)[0], np.ndarray) else jnp
    return {**params, BLOCKS: jax.tree.map(lambda *each: library.stack(each), *inner)}


def unstack_blocks(params: Any) -> Any:
    """The inverse of `stack_blocks`.

    >>> params = {"blocks": {"gain": np.array([[0.0, 0.0], [1.0, 1.0]])}}
    >>> {name: layer["gain"].tolist() for name, layer in unstack_blocks(params)["blocks"].items()}
    {'0': [0.0, 0.0], '1': [1.0, 1.0]}
    """
    whole = params[BLOCKS]
    count = len(jax.tree.leaves(whole)[0])
    return {**params, BLOCKS: {str(i): jax.tree.map(lambda leaf, i=i: leaf[i], whole) for i in range(count)}}
