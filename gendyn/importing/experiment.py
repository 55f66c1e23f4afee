"""A network of the EDM family that was trained elsewhere and imported: what it is, and how it is sampled.

Made by:  gendyn import FILE --out RUN     (this file and the values in config.json rebuild network and process)
Use:      gendyn sample RUN                (study, tune, statistics, info and gd.load work as on any run)
"""

from __future__ import annotations

import dataclasses
import pathlib
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import gendyn as gd


@dataclass(frozen=True, kw_only=True)
class Config:
    """An imported network, its wrapper, and the file that they came from."""

    file: str = ""
    """Name of the imported file, and its sha256."""
    sha256: str = ""
    entry: str | None = None
    """Which entry of the file: "ema" is the averaged network."""
    resolution: int
    channels: int
    network: Literal["SongUNet", "DhariwalUNet"]
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    conditioning: int = 4
    num_classes: int | None = None
    augment: int = 0
    dropout: float = 0.0
    embedding: Literal["positional", "fourier"] = "positional"
    features: int = 1
    encoder: Literal["standard", "skip", "residual"] = "standard"
    decoder: Literal["standard", "skip"] = "standard"
    taps: tuple[float, ...] = (1, 1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    wrapper: Literal["edm", "vp", "ve", "iddpm"] = "edm"
    sigma_data: float = 0.5
    beta_d: float = 19.9
    beta_min: float = 0.1
    C1: float = 0.001
    C2: float = 0.008
    levels: int = 1000
    sigma_min: float = 0.002
    """Samplers start at sigma_max and stop at sigma_min."""
    sigma_max: float = 80.0
    D: float | None = None
    """Extra dimensions of PFGM++; None for diffusion."""
    data: str | None = None
    """Images for evaluation and statistics: a folder with train.parquet, a folder of images, or an .npz file."""

    def experiment(self) -> gd.training.Experiment:
        return gd.training.Experiment(
            network=gd.networks.functional(partial(gd.networks.EDMUNet, **self._sizes())),
            objective=gd.objectives.Denoising(
                process=self.process(),
                precondition=self.precondition(),
                weight=gd.objectives.weights.EDM(sigma_data=self.sigma_data),
                learned_variance=self.wrapper == "iddpm",
            ),
            source=None if self.data is None else partial(images, self.data, "train"),
            test=None if self.data is None else partial(images, self.data, "test"),
            shape=(self.resolution, self.resolution, self.channels),
            num_classes=self.num_classes,
            batch_size=1,
            steps=1,
            optimizer=gd.training.adamw(1e-4),
            ema=(),
            sampling=gd.training.Sampling(sampler="heun", nfe=35 if self.resolution <= 32 else 79),
        )

    def process(self) -> Any:
        """x = data + sigma noise, whatever path the network was trained on: the wrapper carries it there."""
        ends = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        return gd.processes.EDM(**ends) if self.D is None else gd.processes.PFGMPP(D=self.D, **ends)

    def precondition(self) -> Any:
        match self.wrapper:
            case "edm":
                return gd.predictions.EDMPreconditioner(sigma_data=self.sigma_data)
            case "vp":
                return gd.predictions.VPPreconditioner(beta_min=self.beta_min, beta_d=self.beta_d, steps=self.levels)
            case "ve":
                return gd.predictions.VEPreconditioner()
            case "iddpm":
                return gd.predictions.IDDPMPreconditioner(C1=self.C1, C2=self.C2, steps=self.levels)
        raise ValueError(f"wrapper must be edm, vp, ve or iddpm; got {self.wrapper!r}.")

    def family(self) -> gd.networks.Family:
        """The nearest published family, with this network's own choices."""
        if self.network == "DhariwalUNet":
            return gd.networks.ADM
        return dataclasses.replace(
            gd.networks.DDPMPP,
            embedding="fourier" if self.embedding == "fourier" else "endpoint",
            features=self.features,
            encoder=self.encoder,
            decoder=self.decoder,
            taps=self.taps,
        )

    def _sizes(self) -> dict[str, Any]:
        names = ("resolution", "channels", "width", "multipliers", "blocks", "attention", "conditioning", "num_classes")
        sizes = {name: getattr(self, name) for name in (*names, "augment", "dropout", "dtype")}
        outputs = 2 * self.channels if self.wrapper == "iddpm" else self.channels
        return sizes | {"family": self.family(), "out_channels": outputs}


def images(data: str, split: Literal["train", "test"]) -> gd.data.Source:
    """Pictures from wherever `data` points."""
    path = pathlib.Path(data)
    if path.suffix == ".npz":
        return gd.data.npz(data)
    if (path / f"{split}.parquet").exists():
        return gd.data.image_parquet(data, split)
    return gd.data.image_folder(data)
