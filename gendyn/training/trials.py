"""An experiment as `gendyn.parametrization` tries it: a loss, a score, its batches, and what its network is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gendyn.data import Source, batches
from gendyn.data.loader import take
from gendyn.networks import Network
from gendyn.parametrization import Trial
from gendyn.training.experiment import Experiment
from gendyn.training.step import check_source, mean_loss, needs

Score = Callable[[Any, Any], dict[str, Array]]
"""(network, params) -> numbers by name, of which "score" is what a sweep minimises."""

SCORED, DRAWS, LEVELS = 512, 4, 4
"""Held-out examples, draws of time and noise for each, and groups of noise levels."""


def trial(experiment: Experiment, score: Score | None = None) -> Trial:
    """Its network, objective and optimiser; the mean over a batch is the loss."""
    return Trial(
        network=experiment.network,
        loss=lambda network, params, key, batch: mean_loss(
            dataclasses.replace(experiment, network=network), params, key, batch, 0
        ),
        optimizer=experiment.optimizer,
        score=score,
    )


def run_batches(experiment: Experiment, source: Source | None = None) -> Iterator[dict[str, np.ndarray]]:
    """The batches of a run of the experiment, from the first to the last, on the host."""
    source = experiment.open_source() if source is None else source
    check_source(experiment, source)
    loader = batches(source, batch_size=experiment.batch_size, seed=experiment.seed, transforms=experiment.transforms)
    return islice(loader, experiment.steps)


def first_batches(experiment: Experiment, count: int) -> list[dict[str, Array]]:
    """The first batches of a run of the experiment, on one device."""
    return [jax.tree.map(jnp.asarray, batch) for batch in islice(run_batches(experiment), count)]


def fixed_score(experiment: Experiment) -> Score:
    """The experiment's own score, or the held-out loss over one fixed set of (example, time, noise) draws.

    The latter is a mean over SCORED examples of the test source (of the training source where there is none) with DRAWS
    draws each, without dropout; "level1" to "level4" are its means over the quarters of the draws from the least to
    the most noise.

    Raises:
        ValueError: an objective that changes as the run goes on, whose losses cannot be compared.
    """
    if "step" in needs(experiment):
        raise ValueError(
            f"{type(experiment.objective).__name__} changes with the step, so that its losses cannot be "
            "compared; tune on an experiment with a fixed objective."
        )
    if experiment.score is not None:
        return experiment.score
    source = experiment.open_source() if experiment.test is None else experiment.test()
    rows = take(source, np.arange(min(SCORED, len(source))))
    return partial(_held_out, experiment, jax.tree.map(jnp.asarray, rows))


def _held_out(experiment: Experiment, rows: dict[str, Array], network: Any, params: Any) -> dict[str, Array]:
    cond = experiment.condition(rows)
    more = {name: rows[name] for name in needs(experiment)}

    def drawn(key: Array) -> tuple[Array, Array]:
        loss, aux = experiment.objective(network.apply, params, key, rows["data"], cond, **more)
        return loss, -aux["lam"] if "lam" in aux else aux["t"]

    losses, noise = jax.lax.map(drawn, jax.random.split(jax.random.key(0), DRAWS))
    by_level = jnp.array_split(losses.ravel()[jnp.argsort(noise.ravel())], LEVELS)
    return {"score": losses.mean()} | {f"level{i}": part.mean() for i, part in enumerate(by_level, 1)}


def network_inputs(experiment: Experiment, batch: dict[str, Array]) -> tuple[Any, ...]:
    """What the objective gives the network for one batch: (x, label, cond), of one fixed draw of noise."""
    seen: list[tuple[Any, ...]] = []

    def recorded(params: Any, *inputs: Any) -> Any:
        seen.append(inputs)
        return experiment.network.apply(params, *inputs)

    params = experiment.network.init(jax.random.key(experiment.seed))
    watched = dataclasses.replace(experiment, network=Network(init=experiment.network.init, apply=recorded))
    mean_loss(watched, params, jax.random.key(experiment.seed), batch, 0)
    return seen[0]
