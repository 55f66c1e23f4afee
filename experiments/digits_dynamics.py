"""Do all one-sided dynamics draw the same digits, each trained by its own literature's recipe?

Run:      gendyn train digits_dynamics --dynamics rectified_flow --out runs/dynamics/rectified_flow
          (all of them, measured side by side: python -m benchmarks.digits_dynamics)
Takes:    about 2 minutes a run on two CPU cores.
Expect:   docs/explanation/dynamics.md has the table: class agreement, Frechet and nearest-training distances.
Writes:   RUN/samples/*.png while training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import gendyn as gd

STD = 0.75
"""Standard deviation of the digits in [-1, 1]."""


def karras_recipe(process: gd.processes.Process) -> dict[str, Any]:
    """EDM's preconditioning, weight and log-normal levels: of EDM, and unchanged of PFGM++."""
    return {
        "process": process,
        "precondition": gd.predictions.EDMPreconditioner(sigma_data=STD),
        "noise_levels": gd.objectives.noise_levels.LogNormal(mean=-0.8, std=1.2),
        "weight": gd.objectives.weights.EDM(sigma_data=STD),
    }


def flow_recipe(process: gd.processes.Process) -> dict[str, Any]:
    """Velocity regression with unit weight and logit-normal times: of rectified flow and one-sided interpolants."""
    return {
        "process": process,
        "predicts": "velocity",
        "precondition": gd.predictions.Identity(),
        "noise_levels": gd.objectives.noise_levels.LogitNormal(),
        "weight": gd.objectives.weights.Uniform(),
        "label": "thousand",
    }


def vp_recipe(process: gd.processes.Process) -> dict[str, Any]:
    """v-prediction with unit weight, uniform on the clock: of variance-preserving diffusion."""
    return {
        "process": process,
        "predicts": "v",
        "precondition": gd.predictions.Identity(),
        "noise_levels": gd.objectives.noise_levels.UniformT(),
        "weight": gd.objectives.weights.Uniform(),
        "label": "thousand",
    }


def poisson(D: float) -> gd.processes.Process:
    """PFGM++ on the digits' levels; D = inf is EDM."""
    levels = {"sigma_min": 0.02, "sigma_max": 20.0}
    return gd.processes.EDM(**levels) if math.isinf(D) else gd.processes.PFGMPP(D=D, **levels)


RECIPES = {
    "edm": lambda config: karras_recipe(poisson(math.inf)),
    "pfgmpp": lambda config: karras_recipe(poisson(config.D)),
    "vp": lambda config: vp_recipe(gd.processes.VPCosine()),
    "rectified_flow": lambda config: flow_recipe(gd.processes.RectifiedFlow()),
    "one_sided": lambda config: flow_recipe(gd.processes.GVP()),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """One network and one optimiser for every dynamics; only the objective changes."""

    dynamics: Literal["edm", "vp", "rectified_flow", "one_sided", "pfgmpp"] = "edm"
    D: float = 128.0
    """Extra dimensions of PFGM++; inf for EDM."""
    width: int = 96
    depth: int = 4
    batch_size: int = 128
    steps: int = 1800
    learning_rate: float = 2e-3
    warmup: int = 100
    seed: int = 0

    def experiment(self) -> gd.training.Experiment:
        recipe = RECIPES[self.dynamics](self)
        recipe["noise_levels"] = gd.objectives.noise_levels.Stratified(levels=recipe["noise_levels"])
        network = partial(gd.networks.DiT, (8, 8, 1), patch=2, width=self.width, depth=self.depth, heads=4)
        rate = gd.training.schedule("cosine", self.learning_rate, steps=self.steps, warmup=self.warmup)
        return gd.training.Experiment(
            network=gd.networks.functional(partial(network, num_classes=10)),
            objective=gd.objectives.Denoising(**recipe, drop=0.1, null=10),
            source=partial(gd.data.digits, "train"),
            test=partial(gd.data.digits, "test"),
            shape=(8, 8, 1),
            num_classes=10,
            batch_size=self.batch_size,
            steps=self.steps,
            optimizer=gd.training.adamw(rate),
            schedule=rate,
            seed=self.seed,
            sampling=gd.training.Sampling(sampler="dpmpp_2m", nfe=10, guidance=1.35),
            sample_every=max(self.steps // 4, 1),
        )
