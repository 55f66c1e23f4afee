"""The tiny experiment as a rectified flow: labelled points in the plane, a narrow MLP that predicts the velocity."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

import gendyn as gd

CLASSES = 3


def points(count: int) -> gd.data.Source:
    """Points around three centres, classes in turn."""
    label = np.arange(count) % CLASSES
    spread = np.random.default_rng(0).standard_normal((count, 2))
    centre = np.stack([np.cos(2.0 * label), np.sin(2.0 * label)], axis=1)
    return gd.data.arrays(1.5 * centre + 0.2 * spread, label)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rectified flow on labelled points."""

    width: int = 16
    process: str = "rectified_flow"
    batch_size: int = 16
    steps: int = 20
    checkpoint_every: int = 9
    learning_rate: float = 1e-2
    ema: tuple[float, ...] = field(default=(0.1,))

    def experiment(self) -> gd.training.Experiment:
        rate = gd.training.schedule("cosine", self.learning_rate, steps=self.steps, warmup=2)
        network = partial(gd.networks.MLP, 2, width=self.width, depth=1, num_classes=CLASSES)
        return gd.training.Experiment(
            network=gd.networks.functional(network),
            objective=gd.objectives.Denoising(
                process=gd.processes.PROCESSES[self.process](),
                predicts="velocity",
                precondition=gd.predictions.Identity(),
                noise_levels=gd.objectives.noise_levels.UniformT(),
                weight=gd.objectives.weights.Uniform(),
                drop=0.1,
                null=CLASSES,
            ),
            source=partial(points, 512),
            test=partial(points, 256),
            shape=(2,),
            num_classes=CLASSES,
            batch_size=self.batch_size,
            steps=self.steps,
            optimizer=gd.training.adamw(rate),
            schedule=rate,
            ema=self.ema,
            sampling=gd.training.Sampling(sampler="euler", nfe=4, grid="uniform_t", guidance=1.5),
            decode=np.asarray,
            log_every=5,
            checkpoint_every=self.checkpoint_every,
        )
