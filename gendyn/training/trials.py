"""An experiment as `gendyn.parametrization` tries it: a loss, fixed batches, and what its network is given."""

from __future__ import annotations

import dataclasses
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gendyn.data import batches
from gendyn.networks import Network
from gendyn.parametrization import Trial
from gendyn.training.experiment import Experiment
from gendyn.training.step import check_source, mean_loss


def trial(experiment: Experiment) -> Trial:
    """Its network, objective and optimiser; the mean over a batch is the loss."""
    return Trial(
        network=experiment.network,
        loss=lambda network, params, key, batch: mean_loss(
            dataclasses.replace(experiment, network=network), params, key, batch, 0
        ),
        optimizer=experiment.optimizer,
    )


def first_batches(experiment: Experiment, count: int) -> list[dict[str, Array]]:
    """The first batches of a run of the experiment, on one device."""
    source = experiment.open_source()
    check_source(experiment, source)
    loader = batches(source, batch_size=experiment.batch_size, seed=experiment.seed, transforms=experiment.transforms)
    return [jax.tree.map(jnp.asarray, batch) for batch in islice(loader, count)]


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
