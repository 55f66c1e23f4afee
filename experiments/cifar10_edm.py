"""EDM on CIFAR-10 with the published network and augmentation: the accelerator experiment.

Run:      gendyn train cifar10_edm --data PATH/TO/cifar10 --out runs/cifar10
          (a folder with train.parquet and test.parquet in Hugging Face layout)
Takes:    days of one accelerator at full length (200M images); not run to the end by the authors.
Expect:   nothing is claimed. Images that went through JPEG must not be compared with published FIDs.
Follows:  Karras et al. 2022 (arXiv 2206.00364), table 7, DDPM++ on CIFAR-10: batch 512, Adam 1e-3 warmed up over 10M
          images, dropout 0.13, 128 channels x (2, 2, 2), four blocks per level, attention at 16x16, EMA, and
          the augmentation of its appendix F.2, of which the network is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import gendyn as gd


@dataclass(frozen=True, kw_only=True)
class Config:
    """Unconditional or class-conditional EDM on 32x32 colour images."""

    data: str = "data/cifar10"
    """Folder with train.parquet and test.parquet."""
    limit: int | None = None
    """Read only so many images of each split."""
    conditional: bool = True
    width: int = 128
    multipliers: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    dropout: float = 0.13
    augment: float = 0.12
    """Probability of each move of a picture; 0 for none."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: bool = False
    batch_size: int = 512
    accumulate: int = 1
    steps: int = 390_625
    learning_rate: float = 1e-3
    warmup: int = 19_532
    seed: int = 0

    def experiment(self) -> gd.training.Experiment:
        classes = 10 if self.conditional else None
        network = partial(
            gd.networks.EDMUNet,
            32,
            3,
            family="ddpmpp",
            width=self.width,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention=(16,),
            num_classes=classes,
            augment=9,
            dropout=self.dropout,
            dtype=self.dtype,
            remat=self.remat,
        )
        denoising = gd.objectives.Denoising(
            process=gd.processes.EDM(), drop=0.1 if self.conditional else 0.0, null=10 if self.conditional else None
        )
        rate = gd.training.schedule("constant", self.learning_rate, steps=self.steps, warmup=self.warmup)
        return gd.training.Experiment(
            network=gd.networks.functional(network),
            objective=gd.objectives.Augmented(objective=denoising, augment=gd.data.Augmentation(p=self.augment)),
            source=partial(gd.data.image_parquet, self.data, "train", limit=self.limit),
            test=partial(gd.data.image_parquet, self.data, "test", limit=self.limit),
            shape=(32, 32, 3),
            num_classes=classes,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            steps=self.steps,
            optimizer=gd.training.adamw(rate, clip=None),
            schedule=rate,
            seed=self.seed,
            sampling=gd.training.Sampling(sampler="heun", nfe=35),
            log_every=100,
            checkpoint_every=5_000,
            keep_every=50_000,
            snapshot_every=max(self.steps // 40, 1),
            sample_every=max(self.steps // 100, 1),
        )
