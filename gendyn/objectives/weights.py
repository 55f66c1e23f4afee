"""How much an error at each noise level counts, whatever the network predicts.

A weight is stated on the squared error of the denoised, as a function w of snr = (alpha/sigma)^2. An objective that
compares in another kind, with determinant det (see `gendyn.predictions`), multiplies its squared error by
w (sigma/det)^2, so a weight means the same for every network.
"""

from __future__ import annotations

from typing import Any, Protocol

from gendyn.predictions import ROWS, determinant
from gendyn.processes import Process
from gendyn.tree import constant, namespace


class Weight(Protocol):
    """The factor on the squared error in a kind with determinant `det` at time t."""

    def __call__(self, process: Process, t: Any, det: Any) -> Any: ...


class _OfSNR:
    """Weights stated on the denoised as w(snr)."""

    def of_snr(self, snr: Any) -> Any:
        raise TypeError(f"{type(self).__name__} must define of_snr")

    def __call__(self, process: Process, t: Any, det: Any) -> Any:
        sigma = process.sigma(t)
        return self.of_snr((process.alpha(t) / sigma) ** 2) * (sigma / det) ** 2


@constant
class EDM(_OfSNR):
    """w = snr + 1/sigma_data^2 = 1/c_out^2: unit weight on F. Karras et al. 2022 (arXiv 2206.00364), table 1."""

    sigma_data: float = 0.5

    def of_snr(self, snr: Any) -> Any:
        return snr + self.sigma_data**-2


@constant
class SNR(_OfSNR):
    """w = snr: unit weight on eps, the "simple" loss of Ho et al. 2020 (arXiv 2006.11239), eq. 14."""

    def of_snr(self, snr: Any) -> Any:
        return snr


@constant
class MinSNR(_OfSNR):
    """w = min(snr, gamma): Hang et al. 2023 (arXiv 2303.09556)."""

    gamma: float = 5.0

    def of_snr(self, snr: Any) -> Any:
        return namespace(snr).minimum(snr, self.gamma)


@constant
class SoftMinSNR(_OfSNR):
    """w = snr gamma/(snr + gamma), the smooth minimum of snr and gamma: Crowson et al. 2024 (arXiv 2401.11605)."""

    gamma: float = 4.0

    def of_snr(self, snr: Any) -> Any:
        return snr * self.gamma / (snr + self.gamma)


@constant
class Sigmoid(_OfSNR):
    """w = snr sigmoid(bias - log snr): Kingma and Gao 2023 (arXiv 2303.00848). SoftMinSNR with gamma = e^bias."""

    bias: float = 2.0

    def of_snr(self, snr: Any) -> Any:
        xp = namespace(snr)
        return snr / (1 + snr * xp.exp(xp.asarray(-self.bias, dtype=snr.dtype)))


@constant
class Uniform:
    """Unit weight on the squared error of one kind: the predicted one, or `kind` ("velocity" for flow matching)."""

    kind: str | None = None

    def __call__(self, process: Process, t: Any, det: Any) -> Any:
        if self.kind is None:
            return namespace(t).ones_like(t) * 1.0
        wanted = determinant(ROWS[self.kind](process, t), process.alpha(t), process.sigma(t))
        return (wanted / det) ** 2
