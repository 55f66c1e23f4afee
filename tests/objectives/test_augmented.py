"""An objective on augmented data: what the network is told, and what is left alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn.objectives import Augmented

DATA = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 4, 1)), jnp.float32)
CLASSES = jnp.arange(6)
PLAIN = gd.objectives.Denoising(process=gd.processes.EDM())


def marked(key, data):
    """Adds an amount to every picture and says which."""
    amounts = jnp.arange(1.0, 1 + len(data))
    return data + amounts[:, None, None, None], amounts[:, None]


def seen(objective, cond):
    """The condition that the network saw."""
    met = []

    def apply(params, x, label, cond):
        met.append(cond)
        return jnp.zeros_like(x)

    objective(apply, {}, jax.random.key(0), DATA, cond)
    return met[0]


def test_the_network_is_told_classes_and_label():
    told = seen(Augmented(objective=PLAIN, augment=marked), CLASSES)
    assert np.array_equal(told["classes"], CLASSES)
    assert np.array_equal(told["augment"][:, 0], [1, 2, 3, 4, 5, 6])


def test_without_classes_and_with_a_mapping():
    assert seen(Augmented(objective=PLAIN, augment=marked), None)["classes"] is None
    assert set(seen(Augmented(objective=PLAIN, augment=marked), {"classes": CLASSES})) == {"classes", "augment"}


def test_classes_are_dropped_and_labels_never():
    always = gd.objectives.Denoising(process=gd.processes.EDM(), drop=1.0, null=10)
    told = seen(Augmented(objective=always, augment=marked), CLASSES)
    assert np.array_equal(told["classes"], [10] * 6)
    assert np.array_equal(told["augment"][:, 0], [1, 2, 3, 4, 5, 6])


def test_it_is_the_objective_at_the_augmented_data():
    apply = lambda params, x, label, cond: params * x
    key = jax.random.key(3)
    loss, aux = Augmented(objective=PLAIN, augment=marked)(apply, 0.7, key, DATA)
    expected, _ = PLAIN(apply, 0.7, jax.random.split(key)[0], marked(None, DATA)[0])
    assert np.array_equal(loss, expected)
    assert set(aux) == {"lam", "error"}


def test_sampling_hears_nothing_of_augmentation():
    """The denoiser passes the condition on as it is; without a label a network is as at label 0."""
    met = []
    D = Augmented(objective=PLAIN, augment=marked).denoiser(lambda params, x, label, cond: met.append(cond) or x, {})
    D(DATA, 0.5, CLASSES)
    assert np.array_equal(met[0], CLASSES)


def test_the_published_pipeline_fits_the_published_network():
    sizes = {"family": "ddpmpp", "width": 4, "multipliers": (1,), "blocks": 1, "attention": (), "num_classes": 10}
    network = gd.networks.functional(partial(gd.networks.EDMUNet, 4, 1, augment=9, **sizes))
    objective = Augmented(objective=PLAIN, augment=gd.data.Augmentation(p=0.12))
    params = jax.eval_shape(network.init, jax.random.key(0))
    loss, _ = jax.eval_shape(partial(objective, network), params, jax.random.key(0), DATA, CLASSES)
    assert loss.shape == (6,)


def test_the_tree_survives_a_trip_through_its_leaves():
    """As the compiled training step takes it apart."""
    objective = Augmented(objective=PLAIN, augment=gd.data.Augmentation(p=0.12))
    leaves, structure = jax.tree.flatten(objective)
    assert jax.tree.unflatten(structure, leaves) == objective


def test_pairs_are_refused():
    stored = gd.objectives.Denoising(process=gd.processes.EDM(), coupling=gd.processes.couplings.Stored())
    with pytest.raises(ValueError, match="not the base that belongs"):
        Augmented(objective=stored, augment=marked)
