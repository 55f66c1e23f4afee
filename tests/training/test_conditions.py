"""A run whose model is told more than a class: from the fields of the source to guided samples."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

import gendyn as gd
from gendyn.networks import Image, Vector
from gendyn.training import conditions, guided, plan_for, sample
from gendyn.training.costs import abstract_batch, call_flops

KINDS = {"place": Vector(2), "height": Image(1)}
NULL = gd.networks.null(KINDS, num_classes=2)


def lines(n=64):
    """Points at (place, height, class) exactly: what is told is what is drawn."""
    rng = np.random.default_rng(0)
    place, height = rng.uniform(-1, 1, (n, 2)), rng.uniform(-1, 1, (n, 1))
    label = np.arange(n) % 2
    data = np.concatenate([place, height, label[:, None]], axis=1)
    return gd.data.arrays(data, label, fields={"place": place, "height": height})


@pytest.fixture(scope="module")
def experiment():
    network = partial(gd.networks.MLP, 4, width=32, depth=1, num_classes=2, conditions=KINDS)
    return gd.training.Experiment(
        network=gd.networks.functional(network),
        objective=gd.objectives.Denoising(
            process=gd.processes.RectifiedFlow(),
            predicts="velocity",
            weight=gd.objectives.weights.Uniform(),
            drop={"place": 0.2, "label": 0.2},
            null=NULL,
        ),
        source=lines,
        test=lines,
        shape=(4,),
        num_classes=2,
        conditions=KINDS,
        batch_size=64,
        steps=250,
        optimizer=gd.training.adamw(1e-2),
        ema=(),
    )


@pytest.fixture(scope="module")
def denoiser(experiment, one):
    state, step, batches = gd.training.build(experiment, mesh=one)
    for _, batch in zip(range(experiment.steps), batches):
        state, _ = step(state, batch)
    return experiment.objective.denoiser(experiment.network.apply, state.params)


def drawn(experiment, denoiser, cond):
    plan = plan_for(experiment.process, gd.training.Sampling(sampler="ddim", nfe=4))
    return sample(denoiser, plan, experiment.shape, num=32, labels=cond)


def test_samples_are_what_the_model_was_told(experiment, denoiser):
    """Coordinates are uniform on [-1, 1]: whoever does not know them is wrong by 0.58 or more."""
    cond, labels = conditions(experiment, 32)
    wanted = lines().data[:32]
    error = lambda x: np.sqrt(np.mean((x - wanted) ** 2, axis=0))
    np.testing.assert_array_equal(labels, np.arange(32) % 2)
    assert error(drawn(experiment, denoiser, cond)).max() < 0.2
    assert error(drawn(experiment, guided(denoiser, 1.2, experiment.null), cond)).max() < 0.3
    untold = error(drawn(experiment, denoiser, cond | {"place": np.full((32, 2), np.nan, np.float32)}))
    assert untold[2:].max() < 0.2
    assert untold[:2].min() > 0.4


def test_costs_know_the_conditions(experiment):
    batch = abstract_batch(experiment, 3)
    assert {name: leaf.shape for name, leaf in batch.items() if name in KINDS} == {"place": (3, 2), "height": (3, 1)}
    assert call_flops(experiment) > 0


def test_a_missing_entry_is_named(experiment):
    short = replace(
        experiment, source=lambda: gd.data.arrays(lines().data, lines().labels, fields={"place": lines().data[:, :2]})
    )
    state, step, batches = gd.training.build(short)
    with pytest.raises(ValueError, match="the model is told height, but an example has only data, label, place"):
        step(state, next(iter(batches)))
    with pytest.raises(ValueError, match="samples of this model are made from place, height of test examples"):
        conditions(replace(experiment, test=None), 4)


def test_null_is_the_class_where_nothing_else_is_told(experiment):
    assert replace(experiment, conditions={}).null == 2
    assert replace(experiment, conditions={}, num_classes=None).null is None
    assert jax.tree.structure(experiment.null) == jax.tree.structure(experiment.condition(dict(lines()[0])))
