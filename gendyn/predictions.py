"""What a network predicts: five rows, one 2x2 solve, and the preconditioners.

Every prediction is a pair (a, b) with

    value = a data + b noise,        beside the state        x = alpha data + sigma noise,

so any two of them determine everything else. With det = a sigma - b alpha,

    denoised = (sigma value - b x) / det,

and a squared error in this kind is (det/sigma)^2 times the squared error of the denoised. Twenty-five conversions and
twenty-five loss weights are therefore one formula each. Where det = 0 the kind does not determine the denoised (eps
where alpha = 0); such calls are refused on the host before anything runs (`singular`), never patched with 1e-8.

A preconditioner (Karras et al. 2022, arXiv 2206.00364, section 5) is one more row, called F, with an input scale and
a noise label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gendyn.processes import Process
from gendyn.tree import constant, expand, namespace, pytree, static

Kind: TypeAlias = Literal["denoised", "eps", "score", "velocity", "v", "F"]
Row: TypeAlias = tuple[Any, Any]

ROWS: dict[str, Callable[[Process, Any], Row]] = {
    "denoised": lambda process, t: (namespace(t).ones_like(t) * 1.0, namespace(t).zeros_like(t) * 1.0),
    "eps": lambda process, t: (namespace(t).zeros_like(t) * 1.0, namespace(t).ones_like(t) * 1.0),
    "score": lambda process, t: (namespace(t).zeros_like(t) * 1.0, -1.0 / process.sigma(t)),
    "velocity": lambda process, t: (process.dalpha(t), process.dsigma(t)),
    "v": lambda process, t: (-process.sigma(t), process.alpha(t)),
}
"""Kind -> the row (a, b) at time t. `velocity` is dx/dt of the probability-flow ODE on the process's own clock; `v` is
the angular velocity of Salimans and Ho 2022 (arXiv 2202.00512), with the sign alpha eps - sigma denoised."""


def determinant(row: Row, alpha: Any, sigma: Any) -> Any:
    """a sigma - b alpha: zero where the kind says nothing about the data that x does not already say."""
    return row[0] * sigma - row[1] * alpha


def convert(value: Any, x: Any, source: Row, target: Row) -> Any:
    """Solve (value, x) for the target: `source` is (a, b) stacked on the state's (alpha, sigma), both 2-tuples of rows.

    value_target = p x + q value with p alpha + q a = a', p sigma + q b = b'.

    Args:
        value: the known prediction, [batch, *data].
        x: the state.
        source: ((a, b), (alpha, sigma)) of the known prediction and the state, broadcastable against `x`.
        target: (a', b') of the wanted prediction.
    """
    (a, b), (alpha, sigma) = source
    det = determinant((a, b), alpha, sigma)
    c, d = target
    return (a * d - b * c) / det * x + (sigma * c - alpha * d) / det * value


def to_denoised(value: Any, x: Any, row: Row, state: Row) -> Any:
    """E[data | x] from a prediction: (sigma value - b x) / det."""
    alpha, sigma = state
    return (sigma * value - row[1] * x) / determinant(row, alpha, sigma)


def from_denoised(kind: str, denoised: Any, x: Any, process: Process, t: Any) -> Any:
    """Any kind from the denoised, for example the velocity field that an ODE solver integrates.

    Undefined where sigma = 0 unless the kind is "denoised" itself.
    """
    refuse_score(kind, process)
    t = expand(namespace(x).asarray(t), x)
    state = (process.alpha(t), process.sigma(t))
    return convert(denoised, x, (ROWS["denoised"](process, t), state), ROWS[kind](process, t))


def refuse_score(kind: str, process: Process) -> None:
    """The row of the score, -noise/sigma, is that of Gaussian noise."""
    if kind == "score" and not process.gaussian_noise:
        raise ValueError(
            f"the noise of {process} is not Gaussian, so its score does not follow from the denoised; predict "
            '"denoised", "eps", "velocity" or "F", and use samplers of the ODE.'
        )


# --- Labels: what the network is told about the noise -----------------------------------------------------------


def time(process: Process, t: Any) -> Any:
    """The process's own clock, as it is."""
    return t


def thousand(process: Process, t: Any) -> Any:
    """1000 t, the scale most published time embeddings were made for."""
    return 1000.0 * t


def discrete(process: Process, t: Any) -> Any:
    """The fractional index N t - 1 of a discrete schedule with N steps: labels 0..N-1 at the nodes, never rounded."""
    betas = getattr(process, "betas", None)
    if betas is None:
        raise ValueError(f'label "discrete" needs a process with a table of betas, like VPDiscrete; got {process}.')
    return len(betas) * t - 1.0


def log_noise(process: Process, t: Any) -> Any:
    """log(sigma/alpha)/4, EDM's c_noise carried to every path."""
    return -0.25 * process.lam(t)


LABELS: dict[str, Callable[[Process, Any], Any]] = {
    "time": time,
    "thousand": thousand,
    "discrete": discrete,
    "log_noise": log_noise,
}


# --- Preconditioning -------------------------------------------------------------------------------------------


class Preconditioner(Protocol):
    """Input scale, noise label and the row of F, all functions of (process, t)."""

    def scale(self, process: Process, t: Any) -> Any: ...
    def label(self, process: Process, t: Any) -> Any: ...
    def row(self, process: Process, t: Any) -> Row: ...


def _state(process: Process, t: Any) -> Row:
    return process.alpha(t), process.sigma(t)


@constant
class Identity:
    """No preconditioning: the network sees x and the process's clock; its output F is the denoised itself."""

    def scale(self, process: Process, t: Any) -> Any:
        return namespace(t).ones_like(t) * 1.0

    def label(self, process: Process, t: Any) -> Any:
        return t

    def row(self, process: Process, t: Any) -> Row:
        return ROWS["denoised"](process, t)


@constant
class EDMPreconditioner:
    """Unit variance in, unit variance out, at every noise level and on every Gaussian path.

    With S = sigma^2 + alpha^2 sigma_data^2,

        scale = 1/sqrt(S),   label = log(sigma/alpha)/4,   F = (sigma data/sigma_data - alpha sigma_data noise)/sqrt(S).

    At alpha = 1 these are c_in, (data - c_skip x)/c_out and c_noise of Karras et al. 2022 (arXiv 2206.00364), table 1;
    written this way they stay finite where alpha = 0 or sigma = 0.

    Args:
        sigma_data: standard deviation of the data, 0.5 for images in [-1, 1].
    """

    sigma_data: float = 0.5

    def _norm(self, process: Process, t: Any) -> Any:
        alpha, sigma = _state(process, t)
        return namespace(t).sqrt(sigma**2 + (alpha * self.sigma_data) ** 2)

    def scale(self, process: Process, t: Any) -> Any:
        return 1.0 / self._norm(process, t)

    def label(self, process: Process, t: Any) -> Any:
        return log_noise(process, t)

    def row(self, process: Process, t: Any) -> Row:
        alpha, sigma = _state(process, t)
        norm = self._norm(process, t)
        return sigma / (self.sigma_data * norm), -alpha * self.sigma_data / norm


@constant
class VPPreconditioner:
    """EDM's wrapper around networks trained on the VP path: F = noise, label (M - 1) t(sigma/alpha).

    With nu = sigma/alpha: scale = 1/(alpha sqrt(nu^2 + 1)) and t(nu) = 2 L/(sqrt(beta_min^2 + 2 beta_d L) + beta_min),
    L = log(1 + nu^2): Karras et al. 2022 (arXiv 2206.00364), table 1, in the form that keeps its digits in float32.
    """

    beta_min: float = 0.1
    beta_d: float = 19.9
    steps: int = 1000

    def scale(self, process: Process, t: Any) -> Any:
        alpha, sigma = _state(process, t)
        return 1.0 / namespace(t).sqrt(alpha**2 + sigma**2)

    def label(self, process: Process, t: Any) -> Any:
        xp = namespace(t)
        log_term = xp.logaddexp(0.0, -2 * process.lam(t))
        root = xp.sqrt(self.beta_min**2 + 2 * self.beta_d * log_term) + self.beta_min
        return (self.steps - 1) * 2 * log_term / root

    def row(self, process: Process, t: Any) -> Row:
        return ROWS["eps"](process, t)


@constant
class VEPreconditioner:
    """EDM's wrapper around networks trained on the VE path: F = -noise, scale 1/alpha, label log(nu/2).

    denoised = x/alpha + nu F, nu = sigma/alpha: Karras et al. 2022 (arXiv 2206.00364), table 1.
    """

    def scale(self, process: Process, t: Any) -> Any:
        return 1.0 / process.alpha(t)

    def label(self, process: Process, t: Any) -> Any:
        alpha, sigma = _state(process, t)  # not -lam - log 2: Fourier features magnify each rounding hundredfold
        return namespace(t).log(0.5 * sigma / alpha)

    def row(self, process: Process, t: Any) -> Row:
        a, b = ROWS["eps"](process, t)
        return a, -b


@constant
class IDDPMPreconditioner:
    """EDM's wrapper around networks trained on iDDPM's cosine table: F = noise, the label is a step, hence an integer.

    With nu = sigma/alpha: scale = 1/(alpha sqrt(nu^2 + 1)), label = steps - 1 - argmin_j |u_j - nu| over the levels

        u_M = 0,   u_{j-1}^2 + 1 = (u_j^2 + 1)/max(abar_{j-1}/abar_j, C1),   abar_j = sin^2(pi/2 j/(M (C2 + 1))).

    Between levels the network is told the nearest one, as published: Karras et al. 2022 (arXiv 2206.00364), table 1,
    after Nichol and Dhariwal 2021 (arXiv 2102.09672). Such networks also predict a variance: `learned_variance=True`.

    >>> IDDPMPreconditioner(steps=4).levels.round(2).tolist()
    [83.25, 2.44, 1.01, 0.42, 0.0]
    """

    C1: float = 0.001
    C2: float = 0.008
    steps: int = 1000

    @property
    def levels(self) -> np.ndarray:
        """The noise levels u_0 > ... > u_M = 0 of the table, float64 [steps + 1]."""
        abar = np.sin(np.pi / 2 * np.arange(self.steps + 1) / (self.steps * (self.C2 + 1))) ** 2
        growth = 1 / np.maximum(abar[:-1] / abar[1:], self.C1)
        return np.sqrt(np.append(np.cumprod(growth[::-1])[::-1], 1.0) - 1)

    def scale(self, process: Process, t: Any) -> Any:
        alpha, sigma = _state(process, t)
        return 1.0 / namespace(t).sqrt(alpha**2 + sigma**2)

    def label(self, process: Process, t: Any) -> Any:
        alpha, sigma = _state(process, t)
        xp = namespace(t)
        nu = xp.asarray(sigma / alpha)
        distance = xp.abs(nu[..., None] - xp.asarray(self.levels, nu.dtype))
        return (self.steps - 1 - distance.argmin(-1)).astype(nu.dtype)

    def row(self, process: Process, t: Any) -> Row:
        return ROWS["eps"](process, t)


def row(kind: str, precondition: Preconditioner, process: Process, t: Any) -> Row:
    """The row (a, b) of a kind at time t; "F" is the preconditioner's own."""
    if kind == "F":
        return precondition.row(process, t)
    if kind not in ROWS:
        raise ValueError(f"predicts must be one of {', '.join([*ROWS, 'F'])}; got {kind!r}.")
    refuse_score(kind, process)
    return ROWS[kind](process, t)


def singular(kind: str, precondition: Preconditioner, process: Process, times: np.ndarray) -> np.ndarray:
    """Which of these times (host, float64) have determinant zero: no denoised can be had from the kind there."""
    times = np.asarray(times, np.float64)
    with np.errstate(all="ignore"):
        det = determinant(row(kind, precondition, process, times), *_state(process, times))
    return ~np.isfinite(det) | (det == 0)


# --- A network as a denoiser -----------------------------------------------------------------------------------


@pytree
class Denoiser:
    """A network with its process, as the call D(x, t, cond) -> E[data | x]. Made by `denoiser`.

    A pytree whose only leaves are the parameters, so other weights reuse a compiled program.
    """

    params: Any
    apply: Callable[..., Any] = static()
    process: Process = static()
    predicts: str = static()
    precondition: Preconditioner = static()
    label: Callable[[Process, Any], Any] | None = static(default=None)
    learned_variance: bool = static(default=False)

    def output(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Float[Array, "batch *data"]:
        """The network's own prediction in its own kind: scaled input and label in, variance head dropped."""
        return self._mean(self.apply(self.params, *self._inputs(x, t), cond), x)

    def __call__(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Float[Array, "batch *data"]:
        """E[data | x] at time t (scalar or [batch]); formed in at least float32, whatever the network computes in."""
        return self._denoised(self.output(x, t, cond), x, t)

    def encode(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Any:
        """What the network's encoder makes of x at time t, where the network comes in two halves."""
        return self._half("encode")(self.params, *self._inputs(x, t), cond)

    def decode(
        self, encoded: Any, x: Float[Array, "batch *data"], t: Any, cond: Any = None
    ) -> Float[Array, "batch *data"]:
        """E[data | x] at time t from encoded features; those of x itself at t give the call D(x, t, cond)."""
        _, label = self._inputs(x, t)
        value = self._half("decode")(self.params, encoded, label, cond)
        return self._denoised(self._mean(value, x), x, t)

    def tapped(self) -> Denoiser:
        """The same denoiser, with the features of its network by name (`gendyn.networks.features`)."""
        return dataclasses.replace(self, apply=self.apply.tapped())  # type: ignore[attr-defined]

    def _half(self, name: str) -> Callable[..., Any]:
        if not hasattr(self.apply, name):
            raise ValueError(
                f"this denoiser's network has no encoder and decoder to call apart: {name} is asked of its apply, and "
                "the apply of gd.networks.functional has it (for UNet and EDMUNet)."
            )
        return getattr(self.apply, name)

    def _inputs(self, x: Array, t: Any) -> tuple[Array, Array]:
        """Scaled state and label."""
        t = jnp.asarray(t, jnp.promote_types(x.dtype, jnp.float32))
        label = (self.label or self.precondition.label)(self.process, t)
        scale = expand(self.precondition.scale(self.process, t), x)
        return scale.astype(x.dtype) * x, jnp.broadcast_to(label, x.shape[:1])

    def _mean(self, value: Array, x: Array) -> Array:
        return value[..., : x.shape[-1]] if self.learned_variance else value

    def _denoised(self, value: Array, x: Array, t: Any) -> Array:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        t = expand(jnp.asarray(t, dtype), x)
        state = _state(self.process, t)
        return to_denoised(
            value.astype(dtype),
            x.astype(dtype),
            row(self.predicts, self.precondition, self.process, t),
            state,
        )

    def singular(self, times: np.ndarray) -> np.ndarray:
        """Times at which this network's prediction does not determine the denoised, or its noise label is infinite."""
        with np.errstate(all="ignore"):
            label = (self.label or self.precondition.label)(self.process, np.asarray(times, np.float64))
        return singular(self.predicts, self.precondition, self.process, times) | ~np.isfinite(label)


def denoiser(
    apply: Callable[..., Any],
    params: Any,
    process: Process,
    predicts: Kind = "F",
    *,
    precondition: Preconditioner | None = None,
    label: str | Callable[[Process, Any], Any] | None = None,
    learned_variance: bool = False,
) -> Denoiser:
    """Wrap any network as a denoiser.

    Args:
        apply: `apply(params, x, label, cond) -> prediction`, a stable function (nnx, linen, equinox, haiku, plain);
            x is [batch, *data], label [batch].
        params: any pytree of arrays.
        process: the path the network was trained on.
        predicts: what comes out: "denoised", "eps", "score", "velocity", "v", or "F" (the preconditioner's row).
        precondition: input scale and label; none by default.
        label: what the network is told instead of the preconditioner's label: a name in `LABELS` or a function of
            (process, t); "discrete" gives the fractional labels of networks trained on integer steps.
        learned_variance: the network returns twice the channels; the second half (its variance) is dropped.

    Example:
        >>> import jax.numpy as jnp, gendyn as gd
        >>> D = gd.denoiser(lambda params, x, label, cond: params * x, jnp.float32(0.0), gd.processes.VPLinear(), "eps")
        >>> D(jnp.ones((2, 3)), 0.5).shape
        (2, 3)
    """
    precondition = Identity() if precondition is None else precondition
    middle = np.mean(process.interval)
    row(predicts, precondition, process, middle)  # an unknown kind fails here, by name
    if isinstance(label, str):
        if label not in LABELS:
            raise ValueError(f"label must be one of {', '.join(LABELS)} or a function of (process, t); got {label!r}.")
        label = LABELS[label]
        label(process, middle)  # a label that this process cannot give fails here too
    return Denoiser(
        params=params,
        apply=apply,
        process=process,
        predicts=predicts,
        precondition=precondition,
        label=label,
        learned_variance=learned_variance,
    )


def velocity(D: Callable[..., Any], process: Process) -> jax.tree_util.Partial:
    """The probability-flow velocity field (x, t, cond) -> dx/dt of any denoiser, as a pytree callable."""
    return jax.tree_util.Partial(_velocity, D, process)


def _velocity(D: Callable[..., Any], process: Process, x: Any, t: Any, cond: Any = None) -> Any:
    return from_denoised("velocity", D(x, t, cond), x, process, t)
