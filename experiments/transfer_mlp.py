"""Does one learning rate serve a perceptron of every width, if its parametrisation is muP?

Run:      gendyn transfer transfer_mlp --over width=32,64,128,256,512 --base 64 --sweep learning_rate=2^-13..2^-4
          (the control: the same with --rule sp; both: make experiment-transfer_mlp)
          gendyn coordcheck transfer_mlp --over width=64,128,256,512 --learning-rate 0.01
          gendyn coordcheck transfer_mlp --over width=64,128,256,512 --learning-rate 0.01 --rule sp     (the control)
          gendyn train transfer_mlp --width 512 --out runs/transfer_mlp
Takes:    a quarter of an hour of two CPU cores shared with other work for each sweep of 300 runs, and 90 s of one
          core for each check.
Expect:   the best learning rate shifts by -0.04 +- 0.06 octaves per doubling of the width under muP, and by
          -0.85 +- 0.10 under the standard parametrisation (docs/explanation/transfer.md). Of the check: slopes of all
          eleven activations within 0.05 of zero under muP (steepest -0.04 +- 0.12), and nine of them beyond their
          limits under the standard parametrisation (steepest +2.26 +- 0.19, output +1.10 +- 0.13).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gendyn as gd

DRAWS = 4096


def make(width, depth, **scales):
    """A denoiser of points of the plane."""
    return gd.networks.functional(partial(gd.networks.MLP, 2, width=width, depth=depth, **scales))


def circle():
    """The mixture that gendyn.data.synthetic2d("gaussians8") draws from."""
    angles, scale = 2 * np.pi * np.arange(8) / 8, np.sqrt(1.01)
    means = np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=1) / scale
    return gd.oracles.GaussianMixture(np.ones(8) / 8, means, np.full((8, 2), (0.1 / scale) ** 2))


def excess(objective, network, params):
    """Mean squared distance to the exact velocity, over fixed points of the path: the loss less its least value."""
    mixture, process = circle(), objective.process
    key_data, key_t, key_noise = jax.random.split(jax.random.key(0), 3)
    t = (jax.random.permutation(key_t, DRAWS) + 0.5) / DRAWS
    data = mixture.sample(key_data, DRAWS)
    x = process.state(data, jax.random.normal(key_noise, data.shape), t)
    difference = objective.denoiser(network.apply, params).output(x, t, None) - mixture.velocity(process)(x, t)
    error = jnp.mean(difference**2, axis=1)[jnp.argsort(-t)]  # from data to noise: this clock has data at 1
    return {"score": error.mean()} | {f"level{i}": part.mean() for i, part in enumerate(jnp.split(error, 4), 1)}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Flow matching to eight Gaussians on a circle, at any width and depth, tuned at width 64 and depth 2."""

    width: int = 64
    depth: int = 2
    base_width: int = 64
    """The width at which the learning rate is meant."""
    base_depth: int = 2
    rule: str = "mup"
    """mup, mup_plain, ntk or sp."""
    depth_rule: str | None = None
    """completep, depth_mup or none; completep under muP, unless given."""
    weight_decay: float = 0.0
    decay: str = "independent"
    """naive, independent or robust: how the weight decay follows the width."""
    batch_size: int = 128
    steps: int = 600
    learning_rate: float = 2**-8
    seed: int = 0

    def experiment(self) -> gd.training.Experiment:
        table = gd.parametrization.table(
            make,
            base={"width": self.base_width, "depth": self.base_depth},
            target={"width": self.width, "depth": self.depth},
            rule=self.rule,
            depth=self.depth_rule,
            decay=self.decay,
            optimizer="adam",
        )
        adam = optax.scale_by_adam(b2=0.99)
        objective = gd.objectives.Denoising(
            process=gd.processes.RectifiedFlow(),
            predicts="velocity",
            precondition=gd.predictions.Identity(),
            noise_levels=gd.objectives.noise_levels.UniformT(),
            weight=gd.objectives.weights.Uniform(),
        )
        return gd.training.Experiment(
            network=gd.parametrization.network(table, make),
            objective=objective,
            source=partial(gd.data.synthetic2d, "gaussians8", n=20_000, seed=1),
            test=partial(gd.data.synthetic2d, "gaussians8", n=2_000, seed=2),
            shape=(2,),
            batch_size=self.batch_size,
            steps=self.steps,
            optimizer=gd.parametrization.optimizer(
                table, adam, learning_rate=self.learning_rate, weight_decay=self.weight_decay
            ),
            seed=self.seed,
            score=partial(excess, objective),
            sampling=gd.training.Sampling(sampler="euler", nfe=20, grid="uniform_t"),
            decode=np.asarray,
        )
