"""Does training on its own pairs straighten a flow, and does a straight flow need one step?

Run:      gendyn train reflow_mixture --out runs/reflow_mixture
          gendyn reflow runs/reflow_mixture --out runs/reflow_mixture/reflow --rounds 2 --pairs 20000 --nfe 50 \\
              --distill 1 --measured 4096 --batch 2048
          (both: make experiment-reflow_mixture)
Takes:    under 3 minutes on two CPU cores shared with other work.
Expect:   for seed 0, of the flow, after one round and after two: straightness 0.98, 2.5e-4, 1.1e-4; transport cost
          E|z|^2 0.3892, 0.3856, 0.3848 (independent pairs: 4.0); rmse of one Euler step to the flow's own fine solution
          0.990, 0.035, 0.027. The second round distilled to one step: 0.014.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

import gendyn as gd


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rectified flow, velocity prediction, from noise to eight Gaussians on a circle."""

    name: str = "gaussians8"
    """Set of the plane, as in gendyn.data.synthetic2d."""
    width: int = 64
    depth: int = 3
    batch_size: int = 256
    steps: int = 3000
    learning_rate: float = 3e-3
    seed: int = 0

    def experiment(self) -> gd.training.Experiment:
        rate = gd.training.schedule("cosine", self.learning_rate, steps=self.steps, warmup=100)
        times = gd.objectives.noise_levels.UniformT()
        return gd.training.Experiment(
            network=gd.networks.functional(partial(gd.networks.MLP, 2, width=self.width, depth=self.depth)),
            objective=gd.objectives.Denoising(
                process=gd.processes.RectifiedFlow(),
                predicts="velocity",
                precondition=gd.predictions.Identity(),
                noise_levels=gd.objectives.noise_levels.Stratified(levels=times),
                weight=gd.objectives.weights.Uniform(),
            ),
            source=partial(gd.data.synthetic2d, self.name, n=50_000, seed=1),
            test=partial(gd.data.synthetic2d, self.name, n=2_000, seed=2),
            shape=(2,),
            batch_size=self.batch_size,
            steps=self.steps,
            optimizer=gd.training.adamw(rate),
            schedule=rate,
            seed=self.seed,
            sampling=gd.training.Sampling(sampler="euler", nfe=50, grid="uniform_t"),
            decode=np.asarray,
            sample_every=self.steps,
        )
