"""The smallest two-sided interpolant: points near 0 become points near 3."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

import gendyn as gd


def points(n: int, seed: int) -> gd.data.Source:
    random = np.random.default_rng(seed)
    base, data = (gd.data.arrays(centre + 0.1 * random.standard_normal((n, 2))) for centre in (0.0, 3.0))
    return gd.data.paired(data, base)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Linear path with a bridge, independent ends."""

    steps: int = 40

    def experiment(self) -> gd.training.Experiment:
        network = partial(gd.networks.MLP, 2, out_channels=4, width=32, depth=1)
        return gd.training.Experiment(
            network=gd.networks.functional(network),
            objective=gd.objectives.Interpolation(
                process=gd.processes.INTERPOLANTS["linear_bridge"](), coupling=gd.processes.couplings.Shuffled()
            ),
            source=partial(points, 256, 1),
            test=partial(points, 64, 2),
            shape=(2,),
            batch_size=64,
            steps=self.steps,
            optimizer=gd.training.adamw(3e-3),
            sampling=gd.training.Sampling(sampler="flow_heun", nfe=8),
            decode=np.asarray,
        )
