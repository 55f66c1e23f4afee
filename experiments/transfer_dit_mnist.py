"""Does a learning rate tuned on a transformer of width 32 serve one of width 256, on MNIST?

Run:      gendyn transfer transfer_dit_mnist --data PATH/TO/mnist --over width=32,64,128,256 --repeats 3
          gendyn transfer transfer_dit_mnist --data PATH/TO/mnist --over width=32,64,128,256 --repeats 3 --rule sp \
              --out transfer/transfer_dit_mnist_sp                                                     (the control)
          gendyn train transfer_dit_mnist --data PATH/TO/mnist --width 256 --from-transfer transfer/transfer_dit_mnist
Takes:    half an hour of two CPU cores shared with other work for 96 runs of 200 steps.
Expect:   the best learning rate shifts by +0.09 +- 0.06 octaves per doubling of the width under muP, width 256 is
          trained best with that of width 32, and wider is better. Under the standard parametrisation it shifts by
          -0.85 +- 0.04, and width 256 pays 364 % for the rate of width 32 (docs/explanation/transfer.md). Width 32 is
          narrower than a patch, which has 49 pixels: hence its loss.
Writes:   transfer/transfer_dit_mnist: the table of all runs, also by noise level, the figure, the best learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import gendyn as gd


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rectified flow on 28x28 digits by a transformer whose heads keep their length as it gets wider."""

    data: str = "data/mnist"
    """Folder with train.parquet and test.parquet."""
    limit: int | None = None
    """Read only so many images of each split."""
    width: int = 32
    base_width: int = 32
    """The width at which the learning rate is meant."""
    rule: str = "mup"
    """mup, mup_plain, ntk or sp."""
    optimizer: str = "adam"
    """adam, sgd, muon, lion, ..."""
    batch_size: int = 64
    steps: int = 200
    learning_rate: float = 2**-8
    seed: int = 0

    def network(self, width: int, **scales: float) -> gd.networks.Network:
        sizes = {"patch": 7, "width": width, "depth": 2, "heads": max(width // 16, 1), "num_classes": 10}
        return gd.networks.functional(partial(gd.networks.DiT, (28, 28, 1), **sizes, **scales))

    def experiment(self) -> gd.training.Experiment:
        sizes = {"base": {"width": self.base_width}, "target": {"width": self.width}}
        table = gd.parametrization.table(self.network, **sizes, rule=self.rule, optimizer=self.optimizer)
        return gd.training.Experiment(
            network=gd.parametrization.network(table, self.network),
            objective=gd.objectives.Denoising(
                process=gd.processes.RectifiedFlow(),
                predicts="velocity",
                precondition=gd.predictions.Identity(),
                noise_levels=gd.objectives.noise_levels.Stratified(levels=gd.objectives.noise_levels.LogitNormal()),
                weight=gd.objectives.weights.Uniform(),
                label="thousand",
                drop=0.1,
                null=10,
            ),
            source=partial(gd.data.image_parquet, self.data, "train", limit=self.limit),
            test=partial(gd.data.image_parquet, self.data, "test", limit=self.limit),
            shape=(28, 28, 1),
            num_classes=10,
            batch_size=self.batch_size,
            steps=self.steps,
            optimizer=gd.parametrization.optimizer(table, learning_rate=self.learning_rate),
            seed=self.seed,
            sampling=gd.training.Sampling(sampler="dpmpp_2m", nfe=20, guidance=1.5),
        )
