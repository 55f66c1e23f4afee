"""What a round of reflow changes in an experiment."""

from functools import partial

import optax

import gendyn as gd
from gendyn.processes.couplings import Stored
from gendyn.training.rounds import Round


def test_a_round_leaves_augmentation_out():
    """Also where it is part of the objective: a pair must not lose its partner."""
    plain = gd.objectives.Denoising(process=gd.processes.EDM())
    experiment = gd.training.Experiment(
        network=gd.networks.functional(partial(gd.networks.MLP, 2)),
        objective=gd.objectives.Augmented(objective=plain, augment=gd.data.Augmentation(p=0.12)),
        source=None,
        shape=(8, 8, 1),
        batch_size=1,
        steps=1,
        optimizer=optax.sgd(0.1),
    )
    changed = Round(start="flow", pairs="pairs")(experiment)
    assert changed.objective == gd.objectives.Denoising(process=gd.processes.EDM(), coupling=Stored())
