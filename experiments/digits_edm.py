"""Can a laptop train a class-conditional diffusion model of handwritten digits in minutes?

Run:      gendyn train digits_edm --out runs/digits      (or `make digits`: train, sample, evaluate)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import gendyn as gd


@dataclass(frozen=True, kw_only=True)
class Config:
    """EDM on scikit-learn's 8x8 digits."""

    width: int = 128
    depth: int = 4
    dropout: float = 0.1
    batch_size: int = 128
    steps: int = 3000
    learning_rate: float = 1e-3
    warmup: int = 100
    seed: int = 0

    def experiment(self) -> gd.training.Experiment:
        process = gd.processes.EDM()
        network = gd.networks.functional(
            partial(gd.networks.DiT, (8, 8, 1), patch=2, width=self.width, depth=self.depth, heads=4, num_classes=10, dropout=self.dropout)
        )
        rate = gd.training.schedule("cosine", self.learning_rate, steps=self.steps, warmup=min(self.warmup, self.steps))
        return gd.training.Experiment(
            network=network,
            objective=gd.objectives.Denoising(process=process, drop=0.1, null=10),
            source=partial(gd.data.digits, "train"),
            test=partial(gd.data.digits, "test"),
            shape=(8, 8, 1),
            num_classes=10,
            batch_size=self.batch_size,
            steps=self.steps,
            optimizer=gd.training.adamw(rate, weight_decay=0.01),
            schedule=rate,
            seed=self.seed,
            sampling=gd.training.Sampling(sampler="heun", nfe=19, guidance=1.5),
            snapshot_every=max(self.steps // 10, 1),
            sample_every=max(self.steps // 4, 1),
        )
