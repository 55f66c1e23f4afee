"""A DiT or SiT that was trained elsewhere and imported: what it is, and how it is sampled.

Made by:  gendyn import FILE --wrapper dit --out RUN     (this file and the values in config.json rebuild it)
Use:      gendyn sample RUN                              (study, tune, statistics, info and gd.load work as on any run)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

import gendyn as gd


@dataclass(frozen=True, kw_only=True)
class Config:
    """An imported transformer, what it predicts, and the file that it came from."""

    file: str = ""
    """Name of the imported file, and its sha256."""
    sha256: str = ""
    entry: str | None = None
    """Which entry of the file: "ema" is the averaged network."""
    network: Literal["DiT"] = "DiT"
    resolution: int
    """Side of a latent; an eighth of the picture's."""
    channels: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    learned_variance: bool = True
    """Whether twice the channels come out, of which the second half is dropped."""
    time_features: int = 256
    dtype: Literal["float32", "bfloat16"] = "float32"
    wrapper: Literal["dit", "sit"]
    """"dit": the noise of the linear schedule of 1000 steps. "sit": the velocity of the straight path."""
    scale: float = 0.18215
    """Latents of the autoencoder times this are the network's data."""
    data: str | None = None
    """Latents, times scale: an .npz with "data" [n, side, side, channels] and "label"."""

    def experiment(self) -> gd.training.Experiment:
        source = None if self.data is None else partial(gd.data.npz, self.data, num_classes=self.num_classes)
        return gd.training.Experiment(
            network=gd.networks.functional(partial(gd.networks.DiT, **self._options())),
            objective=gd.objectives.Denoising(
                precondition=gd.predictions.Identity(),
                noise_levels=gd.objectives.noise_levels.UniformT(),
                weight=gd.objectives.weights.Uniform(),
                learned_variance=self.learned_variance,
                drop=0.1,
                null=self.num_classes,
                **self._path(),
            ),
            source=source,
            test=source,
            shape=(self.resolution, self.resolution, self.channels),
            num_classes=self.num_classes,
            batch_size=1,
            steps=1,
            optimizer=gd.training.adamw(1e-4),
            ema=(),
            sampling=gd.training.Sampling(
                sampler="ddim" if self.wrapper == "dit" else "euler", nfe=50, grid="uniform_t"
            ),
            decode=partial(latents, self.scale),
        )

    def _path(self) -> dict[str, Any]:
        if self.wrapper == "dit":
            return {"process": gd.processes.VPDiscrete.linear(1000), "predicts": "eps", "label": "discrete"}
        return {"process": gd.processes.RectifiedFlow(), "predicts": "velocity"}

    def _options(self) -> dict[str, Any]:
        """Of the network. Frequencies fall from 1 by equal factors, as if the next after the last were 1/10000."""
        names = ("patch", "width", "depth", "heads", "mlp_ratio", "num_classes", "time_features", "dtype")
        return {name: getattr(self, name) for name in names} | {
            "shape": (self.resolution, self.resolution, self.channels),
            "positions": "learned",
            "out_channels": 2 * self.channels if self.learned_variance else None,
            "frequencies": (1.0, 1e4 ** (2 / self.time_features - 1)),
        }


def latents(scale: float, x: Any) -> np.ndarray:
    """What the autoencoder's decoder takes."""
    return np.asarray(x, np.float32) / np.float32(scale)
