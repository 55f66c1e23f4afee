"""The smallest experiment that has everything in it: labelled points in the plane and a narrow MLP."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

import gendyn as gd

CLASSES = 3


@dataclass(frozen=True, kw_only=True)
class Points:
    """512 points around three centres; example `poison` is not a number, TINY_UNREADABLE stands on a broken disk."""

    poison: int | None = None
    shape: tuple[int, ...] = (2,)
    num_classes: int | None = CLASSES

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {key: value[0] for key, value in self.take(np.array([index])).items()}

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        if int(os.environ.get("TINY_UNREADABLE", -1)) in indices:
            raise OSError("shard 3 of the data cannot be read")
        label = (indices % CLASSES).astype(np.int32)
        data = np.stack([np.cos(2.0 * label), np.sin(2.0 * label)], axis=1) + 1e-3 * indices[:, None]
        data = np.where(indices[:, None] == self.poison, np.nan, data).astype(np.float32)
        return {"data": data, "label": label} if self.num_classes else {"data": data}


def points(count: int, classes: int | None, poison: int | None) -> gd.data.Source:
    """What `Config.source` opens; TINY_NO_DATA stands for a machine without the data."""
    if os.environ.get("TINY_NO_DATA"):
        raise OSError("the training data was opened")
    return gd.data.arrays(np.zeros((0, 2))) if count == 0 else Points(poison=poison, num_classes=classes)


def pause(batch, rng):
    """Slow a run down (TINY_PAUSE seconds a batch), so that a test can interrupt it in the middle."""
    time.sleep(float(os.environ.get("TINY_PAUSE", 0)))
    return batch


@dataclass(frozen=True, kw_only=True)
class Config:
    """EDM on labelled points."""

    width: int = 16
    """Width of the network."""
    classes: int | None = CLASSES
    count: int = 512
    poison: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    steps: int = 20
    log_every: int = 5
    checkpoint_every: int = 9
    keep_last: int = 3
    snapshot_every: int | None = None
    sample_every: int | None = None
    seed: int = 0

    def experiment(self) -> gd.training.Experiment:
        rate = gd.training.schedule("cosine", 1e-2, steps=self.steps, warmup=2)
        network = partial(gd.networks.MLP, 2, width=self.width, depth=1, num_classes=self.classes, dropout=0.1)
        return gd.training.Experiment(
            network=gd.networks.functional(network),
            objective=gd.objectives.Denoising(
                process=gd.processes.EDM(), drop=0.1 if self.classes else 0.0, null=CLASSES
            ),
            source=partial(points, self.count, self.classes, self.poison),
            test=partial(points, self.count, self.classes, None),
            shape=(2,),
            num_classes=self.classes,
            transforms=(pause,),
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            steps=self.steps,
            optimizer=gd.training.adamw(rate, weight_decay=0.01),
            schedule=rate,
            seed=self.seed,
            sampling=gd.training.Sampling(sampler="ddim", nfe=4),
            decode=np.asarray,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            keep_last=self.keep_last,
            snapshot_every=self.snapshot_every,
            sample_every=self.sample_every,
        )
