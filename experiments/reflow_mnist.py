"""What do reflow and distillation make of a small transformer on MNIST?

Run:      gendyn train reflow_mnist --data PATH/TO/mnist --out runs/reflow_mnist
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import gendyn as gd


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rectified flow, velocity prediction, uniform times, DiT on 28x28 digits, class-conditional without dropping."""

    data: str = "data/mnist"
    """Folder with train.parquet and test.parquet."""
    limit: int | None = None
    """Read only so many images of each split."""
    coupling: Literal["independent", "minibatch_ot"] = "independent"
    """How noise is paired with images of its class in the first flow."""
    width: int = 128
    depth: int = 4
    heads: int = 4
    patch: int = 4
    batch_size: int = 128
    steps: int = 10_000
    learning_rate: float = 1e-3
    seed: int = 0

    def experiment(self) -> gd.training.Experiment:
        sizes = {"patch": self.patch, "width": self.width, "depth": self.depth, "heads": self.heads}
        rate = gd.training.schedule("cosine", self.learning_rate, steps=self.steps, warmup=min(200, self.steps // 5))
        times = gd.objectives.noise_levels.UniformT()
        return gd.training.Experiment(
            network=gd.networks.functional(partial(gd.networks.DiT, (28, 28, 1), num_classes=10, **sizes)),
            objective=gd.objectives.Denoising(
                process=gd.processes.RectifiedFlow(),
                predicts="velocity",
                precondition=gd.predictions.Identity(),
                noise_levels=gd.objectives.noise_levels.Stratified(levels=times),
                weight=gd.objectives.weights.Uniform(),
                coupling=gd.processes.couplings.COUPLINGS[self.coupling](),
            ),
            source=partial(gd.data.image_parquet, self.data, "train", limit=self.limit),
            test=partial(gd.data.image_parquet, self.data, "test", limit=self.limit),
            shape=(28, 28, 1),
            num_classes=10,
            batch_size=self.batch_size,
            steps=self.steps,
            optimizer=gd.training.adamw(rate),
            schedule=rate,
            seed=self.seed,
            sampling=gd.training.Sampling(sampler="euler", nfe=50, grid="uniform_t"),
        )
