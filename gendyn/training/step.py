"""The training state, the compiled step, and `build`, which the command line, the notebooks and the tests share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from gendyn import distributed
from gendyn.data import Source, batches
from gendyn.data.sources import Batch
from gendyn.distributed import ShardingTable
from gendyn.networks import initialise
from gendyn.training import ema
from gendyn.training.experiment import Config, Experiment, resolve
from gendyn.tree import paths, pytree

Metrics: TypeAlias = dict[str, Array]
Step: TypeAlias = Callable[["TrainState", dict[str, Array]], tuple["TrainState", Metrics]]


@pytree
class TrainState:
    """Everything that changes while training. `step` is also the data position: batch k is a function of (seed, k).

    Attributes:
        params: nested dict of float32 arrays.
        opt_state: the optimiser's.
        ema: one float32 tree per tracked profile.
        step: optimiser steps done.
        key: the run's key; step k draws its noise from fold_in(key, k).
    """

    params: Any
    opt_state: Any
    ema: tuple[Any, ...]
    step: Int[Array, ""]
    key: PRNGKeyArray


def build(
    config: Config | Experiment,
    *,
    mesh: Mesh | None = None,
    start: int = 0,
    source: Source | None = None,
    init: Any = None,
) -> tuple[TrainState, Step, Iterator[dict[str, Array]]]:
    """Make the three things a training loop is made of.

    Args:
        config: an experiment file's Config, or an `Experiment`.
        mesh: devices; all of them by default.
        start: the step whose batch comes first (for resuming; the state is restored separately).
        source: the training data, if it is open already.
        init: parameters to start from (another run's) instead of fresh ones.

    Returns:
        (state, step, batches): state sharded from birth, `step(state, batch) -> (state, metrics)` compiled with the
        state donated, and an endless iterator of global batches on the mesh.

    Raises:
        ValueError: data of another shape than declared, labels missing, or a batch that does not divide over devices.

    Example:
        state, step, batches = gd.training.build(config)
        for _, batch in zip(range(config.steps), batches):
            state, metrics = step(state, batch)
    """
    experiment = resolve(config)
    mesh = distributed.data_mesh() if mesh is None else mesh
    distributed.check_divisible(experiment.batch_size, mesh, experiment.accumulate)
    source = experiment.open_source() if source is None else source
    check_source(experiment, source)
    loaders = [
        batches(
            source,
            batch_size=experiment.batch_size,
            seed=experiment.seed,
            start=start,
            transforms=experiment.transforms,
            process_index=block,
            process_count=blocks,
        )
        for block, blocks in distributed.own_blocks(mesh)
    ]
    loader = loaders[0] if len(loaders) == 1 else _end_to_end(loaders)
    return init_state(experiment, mesh, init), compiled_step(experiment, mesh), distributed.place(loader, mesh)


def _end_to_end(loaders: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """One loader of several blocks of rows."""
    for parts in zip(*loaders):
        yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_source(experiment: Experiment, source: Source) -> None:
    """The data must be what the experiment declared."""
    if not isinstance(source, Source):
        raise ValueError(
            f"the experiment's source is a {type(source).__name__}, without shape and num_classes; "
            "wrap it with gendyn.data.wrap."
        )
    if not len(source):
        raise ValueError("the experiment's source is empty; training needs at least one example.")
    if tuple(source.shape) != tuple(experiment.shape):
        raise ValueError(
            f"the experiment is for data of shape {tuple(experiment.shape)}, but the source has {tuple(source.shape)}; "
            "change the config's size or resize the data."
        )
    if experiment.num_classes is not None and source.num_classes != experiment.num_classes:
        found = "no labels" if source.num_classes is None else f"{source.num_classes} classes"
        raise ValueError(f"the experiment is for {experiment.num_classes} classes, but the source has {found}.")
    wanted = [name for name in needs(experiment) if name != "step"]
    if missing := sorted(set(wanted) - set(source[0])):
        raise ValueError(
            f"the objective reads {', '.join(missing)} with every example, but the source has only "
            f"{', '.join(sorted(source[0]))}; use a source of pairs, for example gendyn.data.arrays(data, fields=...)."
        )


def needs(experiment: Experiment) -> tuple[str, ...]:
    """What the objective reads besides data and condition; a plain function needs nothing more."""
    return tuple(getattr(experiment.objective, "needs", ()))


def init_state(experiment: Experiment, mesh: Mesh, init: Any = None) -> TrainState:
    """The first state, every leaf born with its final sharding; from the parameters `init` (copied) if given."""
    places = state_shardings(experiment, mesh)
    if init is None:
        params = initialise(experiment.network, _keys(experiment)[0], shardings=places.params)
    else:
        check_parameters(experiment, init)
        # Copies: the state is donated, and what was given must survive.
        params = distributed.put(jax.tree.map(lambda a: np.array(a, np.float32), init), places.params)
    return jax.jit(lambda params: _first_state(experiment, params), out_shardings=places)(params)


def sharding_table(experiment: Experiment, mesh: Mesh | AbstractMesh) -> ShardingTable:
    """Where the experiment's parameters lie on a mesh, which need not exist."""
    return ShardingTable.of(abstract_state(experiment).params, experiment.network.axes, mesh)


def state_shardings(experiment: Experiment, mesh: Mesh) -> TrainState:
    """A training state of shardings: optimiser and averages lie where their parameters do."""
    return sharding_table(experiment, mesh).shardings(abstract_state(experiment))


def check_parameters(experiment: Experiment, init: Any) -> None:
    """Refuse parameters of another network, naming the first that differs."""
    abstract = jax.eval_shape(experiment.network.init, _keys(experiment)[0])
    wanted, found = (dict(paths(tree)) for tree in (abstract, init))
    for name in sorted(wanted.keys() | found.keys()):
        shapes = [str(list(side[name].shape)) if name in side else "absent" for side in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the initial parameters are of another network: {name} is {shapes[0]} there and {shapes[1]} here; "
                "train with the network they come from, or start from fresh ones."
            )


def abstract_state(experiment: Experiment) -> TrainState:
    """Shapes and dtypes of the state; no memory."""
    return jax.eval_shape(lambda: _first_state(experiment, experiment.network.init(_keys(experiment)[0])))


def _keys(experiment: Experiment) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """The parameters' key and the run's key."""
    key_params, key_run = jax.random.split(jax.random.key(experiment.seed))
    return key_params, key_run


def _first_state(experiment: Experiment, params: Any) -> TrainState:
    return TrainState(
        params=params,
        opt_state=experiment.optimizer.init(params),
        ema=ema.start(params, experiment.ema),
        step=jnp.zeros((), jnp.int32),
        key=_keys(experiment)[1],
    )


@dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """`train_step` on a mesh, compiled: (state, batch) -> (state, metrics).

    `weights` are the arrays that the objective itself holds (a teacher's parameters), in the order of its leaves. They
    are arguments of the program, never constants of it: another teacher of the same shape reuses the program.
    """

    program: Any
    weights: tuple[Array, ...]
    mesh: Mesh

    def __call__(self, state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Metrics]:
        with jax.set_mesh(self.mesh):  # for `distributed.constrain` inside the network
            return self.program(state, batch, self.weights)

    def lower(self, state: TrainState, batch: dict[str, Array]) -> Any:
        """The lowered program, for its text, memory or cost."""
        with jax.set_mesh(self.mesh):
            return self.program.lower(state, batch, self.weights)


def compiled_step(experiment: Experiment, mesh: Mesh) -> CompiledStep:
    """`train_step` on a mesh: state placed by the sharding table and donated, batch cut over data and fsdp, the
    objective's own arrays replicated arguments."""
    whole, cut, places = distributed.replicated(mesh), distributed.split(mesh), state_shardings(experiment, mesh)
    leaves, structure = jax.tree.flatten(experiment.objective)
    held = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    rest = [None if own else leaf for own, leaf in zip(held, leaves)]  # the program keeps no reference to the arrays
    spared = dataclasses.replace(experiment, objective=None)

    def step(state: TrainState, batch: dict[str, Array], weights: tuple[Array, ...]) -> tuple[TrainState, Metrics]:
        given = iter(weights)
        objective = jax.tree.unflatten(structure, [next(given) if own else leaf for own, leaf in zip(held, rest)])
        return train_step(dataclasses.replace(spared, objective=objective), state, batch)

    program = jax.jit(step, in_shardings=(places, cut, whole), out_shardings=(places, whole), donate_argnums=0)
    weights = tuple(distributed.put(leaf, whole) for own, leaf in zip(held, leaves) if own)
    return CompiledStep(program=program, weights=weights, mesh=mesh)


def train_step(experiment: Experiment, state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Metrics]:
    """One optimiser step; the batch mean of the loss is taken here and nowhere else."""
    key = jax.random.fold_in(state.key, state.step)
    loss, grads = gradients(experiment, state.params, key, batch, state.step)
    updates, opt_state = experiment.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    average = ema.update(state.ema, params, step, experiment.ema)
    metrics = {"loss": loss, "grad_norm": optax.global_norm(grads), "param_norm": optax.global_norm(params)}
    if experiment.schedule is not None:
        metrics["learning_rate"] = jnp.asarray(experiment.schedule(state.step), jnp.float32)
    return TrainState(params=params, opt_state=opt_state, ema=average, step=step, key=state.key), metrics


def gradients(
    experiment: Experiment, params: Any, key: PRNGKeyArray, batch: dict[str, Array], step: Int[Array, ""]
) -> tuple[Array, Any]:
    """Mean loss and its gradient, over `accumulate` micro-batches that each take rows from every device."""
    value_and_grad = jax.value_and_grad(lambda params, key, rows: mean_loss(experiment, params, key, rows, step))
    n = experiment.accumulate
    if n == 1:
        return value_and_grad(params, key, batch)
    # Interleaved rows: reshape(n, -1) of a sharded batch would gather it, this moves nothing between devices.
    micro = jax.tree.map(lambda a: a.reshape(-1, n, *a.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, inputs: Any) -> tuple[Any, None]:
        index, rows = inputs
        part = value_and_grad(params, jax.random.fold_in(key, index), rows)
        return jax.tree.map(lambda t, p: t + p / n, total, part), None

    zeros = jax.tree.map(
        jnp.zeros_like, jax.eval_shape(value_and_grad, params, key, jax.tree.map(lambda a: a[0], micro))
    )
    return jax.lax.scan(add, zeros, (jnp.arange(n), micro))[0]


def mean_loss(experiment: Experiment, params: Any, key: PRNGKeyArray, rows: dict[str, Array], step: Any) -> Array:
    """The objective's mean over the rows of a batch."""
    more = {name: step if name == "step" else rows[name] for name in needs(experiment)}
    return experiment.objective(experiment.network, params, key, rows["data"], experiment.condition(rows), **more)[
        0
    ].mean()
