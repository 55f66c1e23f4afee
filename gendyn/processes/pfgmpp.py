"""PFGM++: EDM's schedule with the noise of a Poisson flow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gendyn.processes.noise import Noise, StudentT
from gendyn.processes.variance_exploding import Scaled
from gendyn.tree import constant


@constant
class PFGMPP(Scaled):
    """x = data + t z with z of the multivariate Student-t law with D degrees of freedom: the clock is sigma.

    Xu et al. 2023, "PFGM++: Unlocking the Potential of Physics-Inspired Generative Models" (arXiv 2302.04265). Their
    field in N + D dimensions has radius r = sigma sqrt(D) and its flow dx/dr = E_x/E_r is, in sigma, EDM's equation
    dx/dsigma = (x - denoised)/sigma, letter for letter. So grids, preconditioning, weights, noise levels and every ODE
    sampler are EDM's, and a configuration moves over by replacing EDM() with PFGMPP(D=...): only the two draws change,
    of the noise in training and of the prior, here always at the same sigma_max. D = 1 is PFGM, D -> infinity is EDM.
    Small D is robust to errors, large D easier to learn; the published sweet spots lie between 64 and 2048.

    Not available at finite D: the score from the denoiser. Samplers that add Gaussian noise refuse this process.

    Args:
        D: any positive number.
        sigma_min, sigma_max: where samplers stop and start; noise at sigma_max, data at 0.

    Example:
        >>> import gendyn as gd
        >>> process = gd.processes.PFGMPP(D=128)
        >>> gd.plan("heun", process, nfe=35).nfe
        35
    """

    D: float = 128.0

    def __post_init__(self) -> None:
        self.noise  # noqa: B018 - refuses a D that is no degree of freedom

    @property
    def noise(self) -> Noise:  # type: ignore[override]
        return StudentT(D=self.D)

    def radius(self, t: Any) -> Any:
        """r = sigma sqrt(D), the distance from the data in the D extra dimensions."""
        return self.sigma(t) * math.sqrt(self.D)

    def radius_quantile(self, q: Any, dim: int) -> Any:
        """Quantiles of |x - data|/sigma in N = `dim` dimensions: sqrt(N F), F of (N, D) degrees of freedom."""
        from scipy.stats import f

        return np.sqrt(dim * f.ppf(q, dim, self.D))
