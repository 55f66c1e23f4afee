"""Two network calls for a digit: can a consistency model be trained from scratch on a laptop in minutes?

Run:      gendyn train consistency_digits --out runs/consistency
          gendyn evaluate runs/consistency --nfe 2
          gendyn train consistency_digits --teacher runs/digits --out runs/distilled     (distils a digits_edm run)
Takes:    three minutes on two idle CPU cores; distillation five.
Expect:   docs/explanation/dynamics.md has the numbers, beside those of the diffusions (python -m
          benchmarks.digits_dynamics --only consistency). Distillation of the digits_edm run, 360 samples of sampling
          seed 0 (gendyn evaluate runs/distilled --nfe 1): agreement with the class 1.000 with one call and 0.997 with
          two, Frechet distance 1.67 and 1.73 times the floor, median nearest-training distance 1.19 and 1.18 times the
          test split's.
Writes:   RUN/samples/*.png while training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gendyn as gd


def taught_by(run, guidance):
    """The guided denoiser of a run; None where the run is gone, for a student that is only sampled."""
    if not Path(run).exists():
        return None
    model = gd.load(run)
    return gd.training.guided(model.denoiser, guidance, model.num_classes)


def evaluate(samples, labels, train, test):
    """Distances with floors, copying, and agreement with a classifier trained on the real digits."""
    judge = gd.metrics.digits_classifier(train["data"], train["label"], test["data"], test["label"])
    return gd.metrics.report(samples, labels, train["data"], test["data"], classifier=judge)


@dataclass(frozen=True, kw_only=True)
class Config:
    """iCT (or distillation) on scikit-learn's 8x8 digits, one condition per class, no guidance."""

    teacher: str | None = None
    """Run directory of a digits_edm model to distil; consistency training without one."""
    guidance: float = 1.35
    """Of the teacher."""
    width: int = 96
    depth: int = 4
    sigma_data: float = 0.75
    sigma_max: float = 10.0
    s0: int = 10
    s1: int = 80
    huber: float = 0.03
    mean: float = -0.8
    std: float = 1.6
    batch_size: int = 128
    steps: int = 2000
    learning_rate: float = 1e-3
    warmup: int = 100
    seed: int = 0

    def experiment(self) -> gd.training.Experiment:
        network = partial(
            gd.networks.DiT, (8, 8, 1), patch=2, width=self.width, depth=self.depth, heads=4, num_classes=10
        )
        rate = gd.training.schedule("cosine", self.learning_rate, steps=self.steps, warmup=self.warmup)
        process = gd.processes.EDM(sigma_min=0.02, sigma_max=self.sigma_max)
        choices = {"sigma_data": self.sigma_data, "huber": self.huber, "mean": self.mean, "std": self.std}
        choices |= {"curriculum": gd.objectives.curricula.Doubling(s0=self.s0, s1=self.s1, steps=self.steps)}
        if self.teacher is None:
            objective = gd.objectives.ConsistencyTraining(process=process, **choices)
        else:
            teacher = taught_by(self.teacher, self.guidance)
            objective = gd.objectives.ConsistencyDistillation(process=process, teacher=teacher, **choices)
        return gd.training.Experiment(
            network=gd.networks.functional(network),
            objective=objective,
            source=partial(gd.data.digits, "train"),
            test=partial(gd.data.digits, "test"),
            shape=(8, 8, 1),
            num_classes=10,
            batch_size=self.batch_size,
            steps=self.steps,
            optimizer=gd.training.adamw(rate),
            schedule=rate,
            seed=self.seed,
            evaluate=evaluate,
            sampling=gd.training.Sampling(sampler="consistency", nfe=2),
            snapshot_every=max(self.steps // 10, 1),
            sample_every=max(self.steps // 4, 1),
        )
