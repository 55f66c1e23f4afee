"""How far does rectified flow with a small transformer get on MNIST?

Run:      gendyn train mnist_flow --data PATH/TO/mnist --out runs/mnist_flow
          (a folder with train.parquet and test.parquet in Hugging Face layout)
Takes:    hours on CPU cores, minutes on one accelerator.
Writes:   RUN/samples/*.png; `gendyn evaluate` prints distances with floors and nearest training images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import gendyn as gd


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rectified flow, velocity prediction, logit-normal times, DiT on 28x28 digits."""

    data: str = "data/mnist"
    """Folder with train.parquet and test.parquet."""
    limit: int | None = None
    """Read only so many images of each split."""
    width: int = 192
    depth: int = 6
    heads: int = 6
    patch: int = 4
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = 256
    steps: int = 20_000
    learning_rate: float = 5e-4
    warmup: int = 500
    seed: int = 0

    def experiment(self) -> gd.training.Experiment:
        network = partial(
            gd.networks.DiT,
            (28, 28, 1),
            patch=self.patch,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            num_classes=10,
            dtype=self.dtype,
        )
        rate = gd.training.schedule("constant", self.learning_rate, steps=self.steps, warmup=self.warmup)
        return gd.training.Experiment(
            network=gd.networks.functional(network),
            objective=gd.objectives.Denoising(
                process=gd.processes.RectifiedFlow(),
                predicts="velocity",
                precondition=gd.predictions.Identity(),
                noise_levels=gd.objectives.noise_levels.LogitNormal(),
                weight=gd.objectives.weights.Uniform(),
                drop=0.1,
                null=10,
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
            sampling=gd.training.Sampling(sampler="euler", nfe=50, grid="uniform_t", guidance=1.5),
            snapshot_every=max(self.steps // 20, 1),
            sample_every=max(self.steps // 20, 1),
        )
