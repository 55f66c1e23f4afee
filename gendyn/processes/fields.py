"""What a sampler of a two-sided process calls: a velocity, or the drift of an SDE with the same marginals.

An interpolant has no single denoiser. Two conditional means determine all its dynamics,

    velocity = E[dx/dt | x],     eta = E[noise | x],     score = -eta/gamma,

namely dX = velocity dt and, for any eps(t) >= 0 chosen after training,

    base to data:  dX = (velocity + eps score) dt + sqrt(2 eps) dW,
    data to base:  dX = (velocity - eps score) dt + sqrt(2 eps) dW,   t falling.

Each callable says in `field` what it returns, and plans say what they need: `run` refuses the wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gendyn.processes.interpolants import Interpolant
from gendyn.tree import constant, expand, namespace, pytree, static

Direction = Literal["forward", "backward"]


class Diffusion(Protocol):
    """eps(t) >= 0 and eps/gamma, on the clock of an interpolant; noise enters as sqrt(2 eps) dW."""

    def eps(self, process: Interpolant, t: Any) -> Any: ...
    def over_gamma(self, process: Interpolant, t: Any) -> Any: ...


class _Quotient:
    """eps/gamma as it stands, zero where eps is."""

    def eps(self, process: Interpolant, t: Any) -> Any:
        raise TypeError(f"{type(self).__name__} must define eps")

    def over_gamma(self, process: Interpolant, t: Any) -> Any:
        xp, eps, gamma = namespace(t), self.eps(process, t), process.gamma(t)
        with np.errstate(divide="ignore", invalid="ignore"):
            return xp.where(eps == 0, 0.0, eps / xp.where(eps == 0, 1.0, gamma))


@constant
class Constant(_Quotient):
    """eps = value; eps/gamma grows without bound at both ends, so grids must stay inside."""

    value: float = 1.0

    def eps(self, process: Interpolant, t: Any) -> Any:
        return self.value * namespace(t).ones_like(t)


@constant
class OfGamma:
    """eps = scale gamma: as much noise as the path itself has, bounded everywhere."""

    scale: float = 1.0

    def eps(self, process: Interpolant, t: Any) -> Any:
        return self.scale * process.gamma(t)

    def over_gamma(self, process: Interpolant, t: Any) -> Any:
        return self.scale * namespace(t).ones_like(t)


@constant
class Sine(_Quotient):
    """eps = scale sin^2(pi t)."""

    scale: float = 1.0

    def eps(self, process: Interpolant, t: Any) -> Any:
        """By the distance to the nearer end, so that it is exactly zero at both."""
        xp = namespace(t)
        return self.scale * xp.sin(np.pi * xp.minimum(t, 1 - t)) ** 2


@constant
class UserDiffusion(_Quotient):
    """Any eps(t), a function that follows the array module of t."""

    function: Callable[[Any], Any]

    def eps(self, process: Interpolant, t: Any) -> Any:
        return self.function(t)


DIFFUSIONS: dict[str, Any] = {"constant": Constant, "of_gamma": OfGamma, "sine": Sine}
"""Name -> diffusion, with one number as its argument."""


@pytree
class Fields:
    """Both conditional means of an interpolant from one call, `both(x, t, cond) -> (velocity, eta)`.

    Itself callable as its velocity. eta may be None for a model of the ODE alone.
    """

    both: Callable[..., Any]
    process: Interpolant = static()

    field = "velocity"

    def __call__(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Float[Array, "batch *data"]:
        """The velocity E[dx/dt | x]."""
        return self.both(x, t, cond)[0]

    def eta(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Float[Array, "batch *data"]:
        """E[noise | x]."""
        return _present(self.both(x, t, cond)[1])

    def score(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Float[Array, "batch *data"]:
        """-eta/gamma, inside the clock."""
        gamma = expand(namespace(x).asarray(self.process.gamma(t)), x)
        return -self.eta(x, t, cond) / gamma

    def singular(self, times: np.ndarray) -> np.ndarray:
        """Times at which the model's velocity is not defined."""
        inner = getattr(self.both, "singular", None)
        return np.zeros(np.shape(times), bool) if inner is None else inner(times)

    def drift(self, diffusion: Diffusion, direction: Direction = "forward") -> Drift:
        """What an SDE plan with the same diffusion and direction calls."""
        if direction not in ("forward", "backward"):
            raise ValueError(f'direction is "forward" (base to data) or "backward"; got {direction!r}.')
        return Drift(fields=self, diffusion=diffusion, direction=direction)


@pytree
class Drift:
    """velocity + eps score (forward) or velocity - eps score (backward), as a callable (x, t, cond)."""

    fields: Fields
    diffusion: Diffusion = static()
    direction: Direction = static()

    @property
    def field(self) -> str:
        """What is returned, in words that name the diffusion."""
        return drift_name(self.diffusion, self.direction)

    def singular(self, times: np.ndarray) -> np.ndarray:
        """Times at which the model's velocity is not defined."""
        return self.fields.singular(times)

    def __call__(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Float[Array, "batch *data"]:
        velocity, eta = self.fields.both(x, t, cond)
        xp = namespace(x)
        ratio = expand(xp.asarray(self.diffusion.over_gamma(self.fields.process, xp.asarray(t))), x)
        return velocity - ratio * _present(eta) if self.direction == "forward" else velocity + ratio * _present(eta)


def drift_name(diffusion: Diffusion, direction: Direction) -> str:
    """How plans and drifts name one another."""
    return f"{direction} drift with {diffusion}"


def _present(eta: Any) -> Any:
    if eta is None:
        raise ValueError(
            'this model has no eta, so only its ODE can be run; train it with predicts=("velocity", "eta").'
        )
    return jnp.asarray(eta) if not isinstance(eta, np.ndarray) else eta
