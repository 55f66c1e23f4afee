"""An experiment as a value: everything a run is made of, and nothing that happens while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import optax

from gendyn.data import Source, Transform, to_uint8
from gendyn.networks import Conditions, Network, null
from gendyn.processes.fields import Direction
from gendyn.training.ema import exponent


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are made while training, and the defaults of `gendyn sample` and `gendyn evaluate`.

    Attributes:
        sampler, nfe, grid: as in `gendyn.plan`, with solver options in `options`.
        guidance: classifier-free guidance weight.
        direction: of a two-sided interpolant: from base to data, or from data to base.
        margin: a two-sided interpolant's clock is run from this far inside to this far inside.
    """

    sampler: str = "ddim"
    nfe: int = 20
    grid: str | None = None
    guidance: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    direction: Direction = "forward"
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What `build` and `gendyn train` need, as plain values.

    Attributes:
        network: from `gendyn.networks.functional`, or any `Network(init=..., apply=...)`.
        objective: a loss (network, params, key, data, cond) -> (per_example, aux) with `.process` and `.denoiser`.
        source: opens the training data when called; loading a finished run never calls it. None for a network that was
            trained elsewhere.
        test: opens held-out data for `gendyn evaluate`, if there is any.
        shape: shape of one example, channels last; checked against the data.
        num_classes: classes of a conditional model (the null class is this number), or None.
        conditions: what else the model is told, as its network has them; entries of an example under these names.
        batch_size: global batch, over all devices and processes.
        steps: optimiser steps of the whole run.
        optimizer: an optax transformation.
        schedule: the learning rate, only to be logged.
        accumulate: micro-batches per step.
        transforms: augmentation, applied on the host by the loader.
        ema: relative widths of the tracked averages (see `gendyn.training.ema`).
        seed: of parameters, data order and noise.
        sampling: pictures while training and defaults of sampling commands.
        decode: a batch of states to what is written: uint8 images by default.
        evaluate: (samples, labels, train, test) -> a printable report; None uses `gendyn.metrics.report`.
        score: (network, params) -> numbers by name, of which "score" is what `gendyn transfer` minimises; None is the
            held-out loss over fixed draws.
    """

    network: Network
    objective: Any
    source: Callable[[], Source] | None
    shape: tuple[int, ...]
    batch_size: int
    steps: int
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule | None = None
    test: Callable[[], Source] | None = None
    num_classes: int | None = None
    conditions: Conditions = field(default_factory=dict)
    accumulate: int = 1
    transforms: tuple[Transform, ...] = ()
    ema: tuple[float, ...] = (0.05, 0.10)
    seed: int = 0
    sampling: Sampling = Sampling()
    decode: Callable[[Any], np.ndarray] = to_uint8
    evaluate: Callable[..., Any] | None = None
    score: Callable[[Any, Any], dict[str, Any]] | None = None
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_last: int = 3
    keep_every: int | None = None
    snapshot_every: int | None = None
    sample_every: int | None = None

    def open_source(self) -> Source:
        """The training data.

        Raises:
            ValueError: there is none.
        """
        if self.source is None:
            raise ValueError("this experiment has no training data; name some in its config (for imports: --data).")
        return self.source()

    @property
    def process(self) -> Any:
        return self.objective.process

    @property
    def null(self) -> Any:
        """The condition that stands for none; None for an unconditional model."""
        return null(self.conditions, self.num_classes)

    def condition(self, rows: Mapping[str, Any]) -> Any:
        """What the model is told about the examples of a batch.

        Raises:
            ValueError: the batch lacks an entry of `conditions`.
        """
        label = rows.get("label") if self.num_classes is not None else None
        if not self.conditions:
            return label
        if missing := sorted(set(self.conditions) - set(rows)):
            raise ValueError(
                f"the model is told {', '.join(missing)}, but an example has only {', '.join(sorted(rows))}; add it in "
                "the source, for example by gendyn.data.arrays(data, fields=...), or by one of transforms=."
            )
        told = {} if label is None else {"label": label}
        return told | {name: rows[name] for name in self.conditions}

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "accumulate", "log_every", "checkpoint_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        for name in ("keep_every", "snapshot_every", "sample_every"):
            if (every := getattr(self, name)) is not None and every < 1:
                raise ValueError(f"{name} must be at least 1, or None for never; got {every}.")
        for std in self.ema:
            exponent(std)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} does not split into accumulate = {self.accumulate} equal micro-batches."
            )


class Config(Protocol):
    """The `Config` of an experiment file: a frozen dataclass of plain fields that knows how to make the experiment."""

    def experiment(self) -> Experiment: ...


def resolve(config: Config | Experiment) -> Experiment:
    """The experiment behind a config."""
    return config if isinstance(config, Experiment) else config.experiment()
