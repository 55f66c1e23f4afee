"""What a round of reflow changes in an experiment, as values that a run directory keeps beside its config."""

from __future__ import annotations

import dataclasses
from typing import Any

from gendyn.objectives import NOISE_LEVELS, Augmented, Denoising
from gendyn.objectives.noise_levels import Nodes
from gendyn.objectives.weights import Uniform
from gendyn.processes.couplings import Stored
from gendyn.training.experiment import Experiment, Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """The same experiment on stored pairs: entry "round" of a run's config.json.

    Attributes:
        start: the run whose weights it starts from.
        pairs: where its pairs lie, beside the run.
        noise_levels: name of another density of times, or None for the experiment's own.
        nodes: None for a flow; k to distil a k-step sampler, trained on the k times it visits and on nothing else.
    """

    start: str
    pairs: str
    noise_levels: str | None = None
    nodes: int | None = None

    def __call__(self, experiment: Experiment) -> Experiment:
        """The experiment as this round trains and samples it.

        Its `source` stays the original data, with which `gendyn evaluate` compares. Augmentation is left out, since it
        would change one end of a pair and not the other; guidance is 1, the flow that was rectified.
        """
        objective = experiment.objective
        if isinstance(objective, Augmented):
            objective = objective.objective
        if not isinstance(objective, Denoising):
            raise ValueError(
                f"reflow trains a gendyn.objectives.Denoising on pairs; this experiment's objective is a "
                f"{type(objective).__name__}."
            )
        objective = dataclasses.replace(objective, coupling=Stored(), **self._times())
        sampling = dataclasses.replace(experiment.sampling, guidance=1.0)
        if self.nodes:
            sampling = Sampling(sampler="euler", nfe=self.nodes, grid="uniform_t")
        return dataclasses.replace(experiment, objective=objective, transforms=(), sampling=sampling)

    def _times(self) -> dict[str, Any]:
        """Density of times and, for distillation, the unweighted error of the velocity: other weights may vanish at
        pure noise."""
        if self.nodes:
            return {"noise_levels": Nodes(k=self.nodes), "weight": Uniform(kind="velocity")}
        if self.noise_levels is None:
            return {}
        if self.noise_levels not in NOISE_LEVELS or self.noise_levels == "nodes":
            known = ", ".join(name for name in NOISE_LEVELS if name != "nodes")
            raise ValueError(f"unknown noise levels {self.noise_levels!r}; choose one of {known}.")
        return {"noise_levels": NOISE_LEVELS[self.noise_levels]()}
