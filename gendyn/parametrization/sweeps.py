"""Many short runs of one size as one program: hyperparameters are arguments, and runs are mapped over.

A number that reaches the loss or the optimiser only through arithmetic (a learning rate, a weight decay, a coefficient
of the loss) may be a traced value, so that all points of a grid share one compiled program; their runs are cut over the
devices there are. A number that decides something in Python (a warm-up's length, a name) gets a program of its own.
Which is which is found by trying.

Where a run is a loop inside the program there is no dispatch between steps, which is what small networks wait for. On
a CPU, XLA's convolutions inside a loop are ten times slower than outside (measured, 28x28 U-Net), so that networks with
convolutions are stepped from Python there; points still share the program of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from gendyn.jaxprs import primitives
from gendyn.parametrization.points import Point
from gendyn.parametrization.trial import Trial, keys

AXIS = "runs"
CHUNK = 50
"""Steps per call: batches of so many steps are on the device at once."""
UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@dataclass(frozen=True)
class Ran:
    """A finished run: its numbers at the start and at the end, and the loss of every step."""

    point: dict[str, Any]
    start: dict[str, float]
    end: dict[str, float]
    losses: np.ndarray


def sweep(
    make: Callable[..., Trial],
    points: Sequence[Point],
    *,
    batches: Callable[[int], Iterable[Any]],
    seeds: Iterable[int],
    devices: Sequence[jax.Device] | None = None,
    together: int | None = None,
) -> Iterator[tuple[int, list[Ran]]]:
    """Train make(**point) at every point and seed; yields (seed, its runs in the order of the points).

    A run is the same as one on its own: parameters, noise and batches depend on the seed alone.

    Args:
        make: hyperparameters -> `Trial` with a score.
        batches: seed -> the batches of its runs, as many as there are steps.
        devices: over which runs are cut; this process's by default.
        together: runs vectorised at once on a device; 0 for a call per step and run. By default one on a CPU, where
            vectorised runs are no faster (0 with convolutions), and all of them elsewhere.

    Cost: one program for all points that differ in traceable numbers alone; memory for the state of every point.
    """
    seeds, groups = list(seeds), _groups(make, points)
    if together is None:
        together = len(points)
        if jax.default_backend() == "cpu":
            together = 0 if _convolves(make(**points[0]), next(iter(batches(seeds[0])), None)) else 1
    devices = jax.local_devices() if devices is None else devices
    executors = [
        Stepwise.of(make, fixed, members, devices)
        if together == 0
        else Mapped.of(make, fixed, members, devices, together)
        for fixed, members in groups
    ]
    for seed in seeds:
        found: dict[int, Ran] = {}
        for each in executors:
            found |= each.run(jax.random.key(seed), batches(seed))
        yield seed, [found[i] for i in range(len(points))]


def _convolves(trial: Trial, batch: Any) -> bool:
    def step(key: PRNGKeyArray) -> Any:
        return trial.update(*trial.start(key), key, batch)

    return batch is not None and "conv_general_dilated" in primitives(jax.make_jaxpr(step)(jax.random.key(0)).jaxpr)


Member = tuple[int, dict[str, Any]]
"""Place among all points, and the traced numbers of the point."""


def _groups(make: Callable[..., Trial], points: Sequence[Point]) -> list[tuple[dict[str, Any], list[Member]]]:
    """Points that differ in traceable numbers alone, with what they share."""
    first = points[0]
    traced = [name for name in first if _traceable(make, first, name)]
    groups: dict[tuple[Any, ...], tuple[dict[str, Any], list[Member]]] = {}
    for i, point in enumerate(points):
        fixed = {name: value for name, value in point.items() if name not in traced}
        members = groups.setdefault(tuple(fixed.items()), (fixed, []))[1]
        members.append((i, {name: point[name] for name in traced}))
    return list(groups.values())


def _traceable(make: Callable[..., Trial], point: Point, name: str) -> bool:
    if not isinstance(point[name], float):
        return False

    def started(value: Any) -> Any:
        return make(**{**point, name: value}).start(jax.random.key(0))

    try:
        jax.eval_shape(started, jax.ShapeDtypeStruct((), jnp.float32))
    except UNTRACEABLE:
        return False
    return True


@dataclass(frozen=True)
class Mapped:
    """A group whose runs are loops inside one program, mapped over its points."""

    members: list[Member]
    fixed: dict[str, Any]
    values: dict[str, Array]
    begin: Callable[..., Any]
    advance: Callable[..., Any]
    score: Callable[..., Any]

    @classmethod
    def of(
        cls,
        make: Callable[..., Trial],
        fixed: dict[str, Any],
        members: list[Member],
        devices: Sequence[jax.Device],
        together: int,
    ) -> Mapped:
        devices = devices[: len(members)]
        mesh = Mesh(np.array(devices), (AXIS,))
        padded = members + [members[-1]] * (-len(members) % len(devices))
        cut = NamedSharding(mesh, PartitionSpec(AXIS))
        values = {
            name: jax.device_put(np.array([own[name] for _, own in padded], np.float32), cut) for name in members[0][1]
        }
        values["index"] = jax.device_put(np.arange(len(padded)), cut)  # so that there is always something to map over

        def trial(own: dict[str, Array]) -> Trial:
            return make(**fixed, **{name: value for name, value in own.items() if name != "index"})

        over = partial(_over_runs, mesh=mesh, together=together)
        return cls(
            members,
            fixed,
            values,
            begin=jax.jit(over(lambda own, key: trial(own).start(key))),
            advance=jax.jit(over(lambda own, *rest: _advanced(trial(own), *rest), carried=True), donate_argnums=1),
            score=jax.jit(over(lambda own, state: _scored(trial(own), state[0]), carried=True)),
        )

    def run(self, key: PRNGKeyArray, batches: Iterable[Any]) -> dict[int, Ran]:
        """Every member from its start to the end of the batches."""
        key_params, key_run = keys(key)
        state = self.begin(self.values, key_params)
        start, losses, step = self.score(self.values, state), [], 0
        for stacked, count in _chunks(batches):
            state, loss = self.advance(self.values, state, key_run, step, stacked, count)
            losses.append(np.asarray(loss)[:, :count])
            step += count
        _check_ran(losses)
        end, curve = self.score(self.values, state), np.concatenate(losses, axis=1)
        first, last = ({name: np.asarray(v) for name, v in found.items()} for found in (start, end))
        return {
            i: Ran(
                self.fixed | own,
                _finite({name: v[row] for name, v in first.items()}),
                _finite({name: v[row] for name, v in last.items()}),
                curve[row],
            )
            for row, (i, own) in enumerate(self.members)
        }


@dataclass(frozen=True)
class Stepwise:
    """A group whose runs are stepped from Python, in turn, by one program for all of its points."""

    members: list[Member]
    fixed: dict[str, Any]
    devices: Sequence[jax.Device]
    begin: Callable[..., Any]
    step: Callable[..., Any]
    score: Callable[..., Any]

    @classmethod
    def of(
        cls, make: Callable[..., Trial], fixed: dict[str, Any], members: list[Member], devices: Sequence[jax.Device]
    ) -> Stepwise:
        def step(own: dict[str, Array], state: Any, key: PRNGKeyArray, k: Array, batch: Any) -> Any:
            params, inner = state
            params, inner, loss = make(**fixed, **own).update(params, inner, jax.random.fold_in(key, k), batch)
            return (params, inner), loss

        return cls(
            members,
            fixed,
            devices[: len(members)],
            begin=jax.jit(lambda own, key: make(**fixed, **own).start(key)),
            step=jax.jit(step, donate_argnums=1),
            score=jax.jit(lambda own, state: _scored(make(**fixed, **own), state[0])),
        )

    def run(self, key: PRNGKeyArray, batches: Iterable[Any]) -> dict[int, Ran]:
        """Every member from its start to the end of the batches."""
        places = [self.devices[row % len(self.devices)] for row in range(len(self.members))]
        owns = [
            {name: jax.device_put(np.float32(value), place) for name, value in own.items()}
            for place, (_, own) in zip(places, self.members)
        ]
        on = {place: jax.device_put(keys(key), place) for place in self.devices}
        states = [self.begin(own, on[place][0]) for own, place in zip(owns, places)]
        start, losses = [self.score(*each) for each in zip(owns, states)], []
        for k, batch in enumerate(batches):
            here = {place: jax.device_put(batch, place) for place in self.devices}
            stepped = [
                self.step(own, state, on[place][1], k, here[place]) for own, state, place in zip(owns, states, places)
            ]
            states = [state for state, _ in stepped]
            losses.append([loss for _, loss in stepped])
        _check_ran(losses)
        curve = np.array(jax.device_get(losses)).T
        end = [self.score(*each) for each in zip(owns, states)]
        return {
            i: Ran(self.fixed | own, _finite(start[row]), _finite(end[row]), curve[row])
            for row, (i, own) in enumerate(self.members)
        }


def _check_ran(losses: list[Any]) -> None:
    if not losses:
        raise ValueError("a sweep takes one batch or more.")


def _over_runs(run: Callable[..., Any], *, mesh: Mesh, together: int, carried: bool = False) -> Callable[..., Any]:
    """`run` over the leading axis of its first argument (first two if `carried`), cut over the mesh."""
    mapped = 2 if carried else 1
    each, whole = PartitionSpec(AXIS), PartitionSpec()

    def program(*arguments: Any) -> Any:
        own, shared = arguments[:mapped], arguments[mapped:]

        def local(own: Any, shared: Any) -> Any:
            size = None if together == 1 else together
            return jax.lax.map(lambda one: run(*one, *shared), own, batch_size=size)

        return jax.shard_map(local, mesh=mesh, in_specs=(each, whole), out_specs=each, check_vma=False)(own, shared)

    return program


def _advanced(trial: Trial, state: Any, key: PRNGKeyArray, first: Array, batches: Any, count: Array) -> Any:
    """`count` steps from step `first` on: (state, losses [CHUNK])."""

    def one(i: Array, carry: Any) -> Any:
        params, inner, losses = carry
        batch = jax.tree.map(lambda a: a[i], batches)
        params, inner, loss = trial.update(params, inner, jax.random.fold_in(key, first + i), batch)
        return params, inner, losses.at[i].set(loss)

    params, inner, losses = jax.lax.fori_loop(0, count, one, (*state, jnp.zeros(CHUNK)))
    return (params, inner), losses


def _scored(trial: Trial, params: Any) -> dict[str, Array]:
    if trial.score is None:
        raise ValueError("a sweep needs trials with a score, (network, params) -> {'score': ...}, on fixed draws.")
    return trial.score(trial.network, params)


def _chunks(batches: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    """CHUNK batches at a time, stacked; the last ones are padded with copies, so that there is one shape."""
    waiting = iter(batches)
    while chunk := list(islice(waiting, CHUNK)):
        count = len(chunk)
        chunk += [chunk[-1]] * (CHUNK - count)
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *chunk), count


def _finite(found: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of one run; what is not finite has diverged and is infinitely bad."""
    return {name: float(v) if np.isfinite(v) else float("inf") for name, v in found.items()}
