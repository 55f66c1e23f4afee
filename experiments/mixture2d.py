"""Does a small network trained on a known mixture sample it as well as the exact denoiser does?

Run:      gendyn train mixture2d --out runs/mixture2d && gendyn evaluate runs/mixture2d
Takes:    about a minute on two CPU cores.
Expect:   `gendyn evaluate` prints distances of 2,000 samples to fresh draws of the mixture; sliced W2 close
          to its floor (two sets of real draws of the same size).
Writes:   RUN/samples/*.png, scatter plots while training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

import gendyn as gd


def mixture() -> gd.oracles.GaussianMixture:
    """Eight components on a circle of radius 1, unequal weights and widths."""
    angles = 2 * np.pi * np.arange(8) / 8
    widths = np.where(np.arange(8) % 2, 0.05, 0.12)
    means = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return gd.oracles.GaussianMixture(1.0 + np.arange(8) % 4, means, np.repeat(widths[:, None] ** 2, 2, axis=1))


def draws(n: int, seed: int) -> gd.data.Source:
    import jax

    return gd.data.arrays(np.asarray(mixture().sample(jax.random.key(seed), n)))


@dataclass(frozen=True, kw_only=True)
class Config:
    """A residual MLP on a two-dimensional mixture, under any Gaussian process."""

    process: Literal["edm", "vp_linear", "vp_cosine", "subvp", "ve", "gvp", "rectified_flow"] = "edm"
    width: int = 128
    depth: int = 3
    batch_size: int = 512
    steps: int = 3000
    learning_rate: float = 2e-3
    seed: int = 0

    def experiment(self) -> gd.training.Experiment:
        process = gd.processes.PROCESSES[self.process]()
        levels = gd.objectives.noise_levels.UniformLam(low=-4.4, high=4.6)
        rate = gd.training.schedule("cosine", self.learning_rate, steps=self.steps, warmup=100)
        return gd.training.Experiment(
            network=gd.networks.functional(partial(gd.networks.MLP, 2, width=self.width, depth=self.depth)),
            objective=gd.objectives.Denoising(
                process=process,
                precondition=gd.predictions.EDMPreconditioner(sigma_data=0.7),
                noise_levels=gd.objectives.noise_levels.Stratified(levels=levels),
                weight=gd.objectives.weights.EDM(sigma_data=0.7),
            ),
            source=partial(draws, 20_000, seed=1),
            test=partial(draws, 2_000, seed=2),
            shape=(2,),
            batch_size=self.batch_size,
            steps=self.steps,
            optimizer=gd.training.adamw(rate),
            schedule=rate,
            seed=self.seed,
            sampling=gd.training.Sampling(sampler="heun", nfe=35),
            decode=np.asarray,
            sample_every=max(self.steps // 3, 1),
        )
