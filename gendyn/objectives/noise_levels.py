"""How often each noise level is trained: densities over the clock, given by their quantile functions.

A density and a loss weight are two separate values; together they decide what a network spends its capacity on. Each
density maps u, uniform on (0, 1), to a time, rising from data to noise; that is all `Stratified` needs.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.processes import Process
from gendyn.tree import constant

TINY = 1e-7  # u stays inside (0, 1): float32 uniforms may be exactly 0


class NoiseLevels(Protocol):
    """A density over times: `quantile` turns uniforms into times of a process."""

    def quantile(self, process: Process, u: Any) -> Any: ...
    def sample(self, process: Process, key: PRNGKeyArray, n: int) -> Float[Array, " n"]: ...


class _Independent:
    """Draw each example's u on its own."""

    def quantile(self, process: Process, u: Any) -> Any:
        raise TypeError(f"{type(self).__name__} must define quantile")

    def sample(self, process: Process, key: PRNGKeyArray, n: int) -> Float[Array, " n"]:
        """n times, on the process's clock."""
        return self.quantile(process, jax.random.uniform(key, (n,), minval=TINY, maxval=1.0 - TINY))


@constant
class LogNormal(_Independent):
    """log(sigma/alpha) ~ N(mean, std^2): Karras et al. 2022 (arXiv 2206.00364), table 1.

    The published (-1.2, 1.2) is for pixels with standard deviation 0.5; for data of another scale sigma_data shift the
    mean by log(sigma_data/0.5).
    """

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, process: Process, u: Any) -> Any:
        return process.t_of_lam(-(self.mean + self.std * jax.scipy.special.ndtri(u)))


@constant
class LogitNormal(_Independent):
    """The fraction of the clock from data to noise is sigmoid(N(mean, std^2)).

    Esser et al. 2024 (arXiv 2403.03206), section 3.1. A positive mean favours noise; (0, 1) is the published choice
    for rectified flow.
    """

    mean: float = 0.0
    std: float = 1.0

    def quantile(self, process: Process, u: Any) -> Any:
        fraction = jax.nn.sigmoid(self.mean + self.std * jax.scipy.special.ndtri(u))
        return process.t_data + fraction * (process.t_noise - process.t_data)


@constant
class UniformT(_Independent):
    """Uniform on the process's own clock, from a fraction `margin` off the data end (1e-5 in Song et al. 2021)."""

    margin: float = 1e-5

    def quantile(self, process: Process, u: Any) -> Any:
        fraction = self.margin + (1 - self.margin) * u
        return process.t_data + fraction * (process.t_noise - process.t_data)


@constant
class UniformLam(_Independent):
    """lam = log(alpha/sigma) uniform between `low` and `high`: by default sigma/alpha from 0.002 to 80."""

    low: float = -float(np.log(80.0))
    high: float = -float(np.log(0.002))

    def quantile(self, process: Process, u: Any) -> Any:
        return process.t_of_lam(self.high + u * (self.low - self.high))


@constant
class Cosine(_Independent):
    """Uniform in the angle phi with sigma/alpha = tan(phi): the cosine schedule's density, sech(lam)/pi in lam.

    Nichol and Dhariwal 2021 (arXiv 2102.09672); Kingma and Gao 2023 (arXiv 2303.00848). `margin` keeps phi off both
    ends.
    """

    margin: float = 1e-3

    def quantile(self, process: Process, u: Any) -> Any:
        phi = 0.5 * jnp.pi * (self.margin + (1 - 2 * self.margin) * u)
        return process.t_of_lam(-jnp.log(jnp.tan(phi)))


@constant
class UShaped(_Independent):
    """Mass at both ends of the clock: density proportional to e^{a s} + e^{a (1 - s)} in the fraction s of the clock.

    For reflow, whose pairs leave little to learn in the middle: Lee et al. 2024, "Improving the Training of Rectified
    Flows" (arXiv 2405.20320), a = 4. Its distribution function is 1/2 + sinh(a (s - 1/2))/(2 sinh(a/2)).
    """

    a: float = 4.0

    def quantile(self, process: Process, u: Any) -> Any:
        fraction = 0.5 + jnp.arcsinh((2 * u - 1) * np.sinh(self.a / 2)) / self.a
        return process.t_data + fraction * (process.t_noise - process.t_data)


@constant
class Shifted(_Independent):
    """Any density with sigma/alpha multiplied by `shift`: the resolution shift of Esser et al. 2024 (arXiv 2403.03206).

    On rectified flow a fraction s of the way to the noise becomes shift s/(1 + (shift - 1) s). Larger images need
    more noise to be as unrecognisable; 3 is the published choice at 1024 x 1024.
    """

    levels: NoiseLevels = LogitNormal()
    shift: float = 3.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift multiplies sigma/alpha and must be positive; got {self.shift}.")

    def quantile(self, process: Process, u: Any) -> Any:
        return process.t_of_lam(process.lam(self.levels.quantile(process, u)) - float(np.log(self.shift)))


@constant
class Nodes(_Independent):
    """k equally likely times, where an Euler sampler of k equal steps calls the network; k = 1 is pure noise alone.

    They cut the clock into k parts, each node the noisier end of its part: {0, 1/k, ..., (k - 1)/k} for rectified flow,
    the levels of k-step distillation in Liu et al. 2023 (arXiv 2209.03003).
    """

    k: int = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"distillation needs at least one node; got k = {self.k}.")

    def quantile(self, process: Process, u: Any) -> Any:
        fraction = jnp.minimum(jnp.floor(u * self.k) + 1, self.k) / self.k
        return process.t_data + fraction * (process.t_noise - process.t_data)


@constant
class Stratified:
    """Any density with u_i = (i + U)/n, one shared offset U: the batch covers the levels evenly, at lower variance.

    Kingma et al. 2021, "Variational Diffusion Models" (arXiv 2107.00630), appendix I.1. Each example alone still has
    the density of `levels`.
    """

    levels: NoiseLevels

    def quantile(self, process: Process, u: Any) -> Any:
        return self.levels.quantile(process, u)

    def sample(self, process: Process, key: PRNGKeyArray, n: int) -> Float[Array, " n"]:
        u = (jnp.arange(n) + jax.random.uniform(key)) / n
        return self.quantile(process, jnp.clip(u, TINY, 1.0 - TINY))
