"""The one bridge between flax.nnx and everything else.

nnx is pleasant for *writing* networks; a hot path should see pure functions and nested dicts (dispatching
`nnx.jit` cost 8 to 16 times as much as `jax.jit` on a plain dict, 10 to 200 layers on a CPU). So a module
is split once, abstractly, into a blueprint and parameters, and merged again inside the compiled program:

    make(rngs=...) --nnx.eval_shape--> blueprint + {path: ShapeDtypeStruct}        no memory, milliseconds
    apply(params, x, label, cond)  =   merge(blueprint, params)(x, label, cond)    while tracing only
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import getitem
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.networks.naming import name_outputs

Params = dict[str, Any]  # a nested dict of arrays
Path = tuple[Any, ...]  # nnx's own path of a parameter: attribute names and list positions


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """Pure functions that make and evaluate a network: what the rest of gendyn calls one.

    Any library's network is a `Network(init=..., apply=...)`; those of this room come from `functional`.

    Attributes:
        init: `init(key) -> params`, a nested dict of float32 arrays; can be jitted, so parameters are born
            sharded.
        apply: `apply(params, x, label, cond) -> output`, evaluation mode. One hashable object: as a static
            argument, or under `jax.tree_util.Partial`, other weights do not recompile.
        train: `train(params, x, label, cond, key) -> output`, with dropout drawn from `key`;
            without one given, `apply` with the key ignored.
        axes: nested dict like params; per parameter one name of `parametrization.axes.AXES` for each
            dimension.
        roles: nested dict like params; per parameter one of `parametrization.axes.ROLES`. Axes and roles are
            None for networks that declare nothing.
        table: the `parametrization.ParamTable` it is drawn, multiplied and trained under; stored in checkpoints, which
            are not read under another.

    >>> import jax, jax.numpy as jnp
    >>> shrink = Network(
    ...     init=lambda key: {"gain": jnp.ones(())},
    ...     apply=lambda params, x, label, cond: params["gain"] * x / 2,
    ... )
    >>> params = shrink.init(jax.random.key(0))
    >>> float(shrink.train(params, jnp.ones((1, 1)), 0.3, None, jax.random.key(1))[0, 0])
    0.5
    """

    init: Callable[[PRNGKeyArray], Params]
    apply: Callable[..., Any]
    train: Callable[..., Any] = None  # type: ignore[assignment]  # filled in below when absent
    axes: dict[str, Any] | None = None
    roles: dict[str, Any] | None = None
    table: Any = None

    def __post_init__(self) -> None:
        if self.train is None:
            object.__setattr__(self, "train", Keyless(self.apply))


def functional(make: Callable[..., nnx.Module]) -> Network:
    """Split a module into pure functions, without allocating its weights.

    Args:
        make: builds the module from `rngs`, given by keyword: `partial(MLP, 2, width=64)` is one. The module
            is called as `module(x, label, cond, key=key)` and holds nothing but `nnx.Param`.

    Returns:
        A `Network`. Two networks of equal configuration have equal `apply`, so they share compiled programs.

    Raises:
        ValueError: if the module holds state other than parameters, or annotates only some of them.

    >>> import jax, jax.numpy as jnp
    >>> from functools import partial
    >>> from gendyn.networks import MLP
    >>> network = functional(partial(MLP, 2, width=16, depth=1))
    >>> params = jax.eval_shape(network.init, jax.random.key(0))
    >>> jax.eval_shape(network.apply, params, jnp.ones((3, 2)), 0.5).shape
    (3, 2)
    >>> network.axes["readout"]["kernel"], network.roles["readout"]["kernel"]
    (('embed', 'data'), 'output')
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    variables = dict(nnx.to_flat_state(state))
    _only_parameters(variables)
    blueprint = Blueprint(graphdef, tuple(variables))

    def init(key: PRNGKeyArray) -> Params:
        made = dict(nnx.to_flat_state(nnx.state(make(rngs=nnx.Rngs(params=key)))))
        return _nested({path: variable.get_value() for path, variable in made.items()})

    return Network(
        init=init,
        apply=Evaluate(blueprint),
        train=Train(blueprint),
        axes=_metadata(variables, "axes"),
        roles=_metadata(variables, "role"),
    )


def initialise(network: Network, key: PRNGKeyArray, shardings: Any = None) -> Params:
    """Parameters of a network, compiled for a single run and born with their shardings (no full copy anywhere).

    Args:
        shardings: as `out_shardings` of `jax.jit`: one sharding or a tree of them; None leaves the choice to jax.

    >>> import jax
    >>> from functools import partial
    >>> from gendyn.networks import MLP
    >>> network = functional(partial(MLP, 2, width=16, depth=1))
    >>> initialise(network, jax.random.key(0))["readout"]["kernel"].shape
    (16, 2)
    """
    # Drawing each parameter is a kernel of its own that the CPU compiler would optimise for seconds (6 to 8 s for a
    # small U-Net), and nothing here runs twice.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(network.init, out_shardings=shardings, compiler_options=options)(key)


@dataclass(frozen=True)
class Blueprint:
    """A module without its parameters: hashable, compared by value."""

    graphdef: Any
    paths: tuple[Path, ...]

    @cached_property
    def _hash(self) -> int:
        return hash((self.graphdef, self.paths))

    def __hash__(self) -> int:
        # jax hashes static arguments at every dispatch; walking the graph took 170 us for 60 layers.
        return self._hash

    def module(self, params: Params) -> Any:
        """The module with these parameters in place."""
        # Through explicit paths: nnx.merge matches leaves by sorted position, so a dict that names list items
        # "0", "1", "10", "2" would be merged in the wrong order without a word.
        flat = {path: _leaf(params, path) for path in self.paths}
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat))


@dataclass(frozen=True)
class Evaluate:
    """`apply` of a functional network: evaluation mode, no randomness.

    Attributes:
        named: whether every submodule's output is called by its path while tracing, for `features`.
    """

    blueprint: Blueprint
    named: bool = False

    def __call__(
        self, params: Params, x: Float[Array, "batch *data"], label: Any, cond: Any = None
    ) -> Float[Array, "batch *out"]:
        return self._module(params)(x, label, cond)

    def encode(self, params: Params, x: Float[Array, "batch *data"], label: Any, cond: Any = None) -> Any:
        """The first half of a network in two halves (see `halves`): features for `decode`."""
        return self._half("encode", params)(x, label, cond)

    def decode(
        self, params: Params, encoded: Any, label: Any, cond: Any = None, *, skip_scale: Any = None
    ) -> Float[Array, "batch *out"]:
        """The second half: decode(params, encode(params, x, label, cond), label, cond) is the network."""
        return self._half("decode", params)(encoded, label, cond, skip_scale=skip_scale)

    def tapped(self) -> "Evaluate":
        """The same function, in which every submodule's output has its path as `checkpoint_name`."""
        return replace(self, named=True)

    def _module(self, params: Params) -> Any:
        module = self.blueprint.module(params)
        if self.named:
            name_outputs(module)
        return module

    def _half(self, name: str, params: Params) -> Callable[..., Any]:
        module = self._module(params)
        if not hasattr(module, name):
            raise ValueError(
                f"{type(module).__name__} has no encoder and decoder to call apart, as UNet and EDMUNet have; give it "
                "encode(x, label, cond) and decode(encoded, label, cond, *, skip_scale=None), or use one of these."
            )
        return getattr(module, name)


@dataclass(frozen=True)
class Train:
    """`train` of a functional network: the same call with a key for dropout."""

    blueprint: Blueprint

    def __call__(
        self, params: Params, x: Float[Array, "batch *data"], label: Any, cond: Any, key: PRNGKeyArray
    ) -> Float[Array, "batch *out"]:
        return self.blueprint.module(params)(x, label, cond, key=key)


@dataclass(frozen=True)
class Keyless:
    """`train` of a network that has no randomness of its own."""

    apply: Callable[..., Any]

    def __call__(self, params: Params, x: Any, label: Any, cond: Any, key: PRNGKeyArray) -> Any:
        return self.apply(params, x, label, cond)


def _leaf(params: Params, path: Path) -> jax.Array:
    try:
        return reduce(getitem, map(str, path), params)  # type: ignore[return-value, arg-type]
    except KeyError:
        raise KeyError(
            f"the network needs a parameter {'/'.join(map(str, path))!r} that these params lack; "
            "they were made for another network or another configuration of it."
        ) from None


def _nested(flat: dict[Path, Any]) -> Params:
    """Names instead of list positions: integer keys would come back from a checkpoint as strings."""
    tree: Params = {}
    for path, leaf in flat.items():
        *parents, name = map(str, path)
        reduce(lambda node, parent: node.setdefault(parent, {}), parents, tree)[name] = leaf
    return tree


def _metadata(variables: dict[Path, Any], name: str) -> Params | None:
    found = {path: variable.get_metadata().get(name) for path, variable in variables.items()}
    missing = ["/".join(map(str, path)) for path, value in found.items() if value is None]
    if len(missing) == len(found):
        return None
    if missing:
        raise ValueError(
            f"either every parameter carries {name!r} metadata or none does, but {missing[0]!r} has none; "
            "create it with gendyn.networks.layers.parameter."
        )
    return _nested(found)


def _only_parameters(variables: dict[Path, Any]) -> None:
    for path, variable in variables.items():
        if not isinstance(variable, nnx.Param):
            name, kind = "/".join(map(str, path)), type(variable).__name__
            raise ValueError(
                f"a network holds parameters only, but {name!r} is a {kind}; "
                "pass random keys through the call (key=...) and keep statistics outside the module."
            )
