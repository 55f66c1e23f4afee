"""Adaptive solves of the same dynamics by diffrax: the probability flow, its inverse, and the reverse-time SDE.

Where a plan fixes its steps beforehand, these choose them from an error estimate. Any Gaussian path, divided by
n = sqrt(alpha^2 + sigma^2), is the path u = cos(psi) data + sin(psi) noise, on which the probability flow is

    du/dpsi = (cos(psi) u - D)/sin(psi),        psi from pi/2 (pure noise) to 0 (data),

bounded from end to end: rotating u is all there is to do where the data leave no trace, and at alpha = 0 the rate is
-D. The SDE is solved in lam instead, where both its drift and its noise are bounded (see `sdeint`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gendyn.processes import Process
from gendyn.samplers.grids import LAM_RANGE
from gendyn.samplers.levels import require_nonnegative
from gendyn.samplers.run import as_argument, refuse_singular
from gendyn.tree import pytree, static

MAX_STEPS = 4096
FINEST = 2.0**-14  # of the interval: the resolution of the Brownian tree, below which no step goes
FIRST_STEP = 0.01  # of the interval; given rather than searched for, which would cost calls


@pytree
class Solution:
    """Where an adaptive solve ended, and what it cost.

    Attributes:
        x: the state at the end, [batch, *data].
        nfe: network calls on the whole batch, rejected steps included.
        rejected: steps that were tried and not accepted.
    """

    x: Float[Array, "batch *data"]
    nfe: Int[Array, ""]
    rejected: Int[Array, ""]


@pytree
class Control:
    """Tolerances, solver and the largest number of steps of an adaptive solve."""

    rtol: Any
    atol: Any
    solver: Any
    max_steps: int = static()

    def steps(self, **limits: Any) -> dict[str, Any]:
        """Arguments of `diffrax.diffeqsolve`: step sizes from the largest error of any example."""
        import diffrax

        sizes = diffrax.PIDController(rtol=self.rtol, atol=self.atol, norm=largest_error, **limits)
        return {"solver": self.solver, "stepsize_controller": sizes, "max_steps": self.max_steps}


def odeint(
    process: Process,
    D: Any,
    x: Float[Array, "batch *data"],
    t_start: float,
    t_end: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    solver: Any = None,
    cond: Any = None,
    max_steps: int = MAX_STEPS,
) -> Solution:
    """The probability flow from t_start to t_end, in either direction, with error control.

    Steps are shared by the batch and every example meets the tolerance: the error norm is the root mean square over an
    example, the largest over the batch, in the state divided by sqrt(alpha^2 + sigma^2).

    Args:
        D: denoiser (x, t, cond).
        x: the state at t_start.
        t_start, t_end: times on the process's clock; alpha = 0 is legal, sigma = 0 is not.
        rtol, atol: tolerances per unit of the scaled state.
        solver: an explicit Runge-Kutta method of diffrax; Tsit5 by default, Dopri8 for tight tolerances.
        max_steps: an error is raised if they do not suffice.

    Example:
        >>> import gendyn as gd, jax.numpy as jnp
        >>> process = gd.processes.EDM()
        >>> D = gd.oracles.GaussianMixture([1.0], [[0.0]], [[1.0]]).denoiser(process)
        >>> round(float(odeint(process, D, jnp.array([[2.0**0.5]]), 1.0, 0.002).x[0, 0]), 3)
        1.0
    """
    refuse_singular(D, np.asarray([t_start, t_end]))
    control = Control(rtol=rtol, atol=atol, solver=explicit(solver), max_steps=max_steps)
    return _odeint(process, as_argument(D), x, angles(process, t_start, t_end), control, cond)


@jax.jit
def _odeint(process: Process, D: Any, x: Array, ends: Any, control: Control, cond: Any) -> Solution:
    angle, norm = ends

    def field(psi: Any, u: Array, _: Any) -> Array:
        denoised, cos, sin = rotation(process, D, u, psi, cond)
        return (cos * u - denoised) / sin

    u, nfe, rejected = integrate(field, x / norm[0], angle[0], angle[1], control)
    return Solution(x=norm[1] * u, nfe=nfe, rejected=rejected)


def integrate(field: Callable[..., Any], y: Any, start: Any, end: Any, control: Control) -> tuple[Any, Array, Array]:
    """(y at the end, calls, rejected steps) of dy/dpsi = field(psi, y, None); leaves of y are [batch, ...]."""
    import diffrax

    start, end = (jnp.asarray(psi, jnp.result_type(*jax.tree.leaves(y))) for psi in (start, end))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field), t0=start, t1=end, dt0=FIRST_STEP * (end - start), y0=y, **control.steps()
    )
    stats = solution.stats
    y = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
    return y, _calls(control.solver, stats["num_steps"]), stats["num_rejected_steps"]


def decode(process: Process, D: Any, x_T: Float[Array, "batch *data"], **options: Any) -> Solution:
    """Noise to data: `odeint` between `default_ends`, with its options."""
    return odeint(process, D, x_T, *default_ends(process), **options)


def encode(process: Process, D: Any, data: Float[Array, "batch *data"], **options: Any) -> Solution:
    """Data to noise: the inverse of `decode`, whose x is the latent to start it from.

    Data count as the state at the last time, where the path still has a little noise (sigma/alpha of 0.002 on EDM).
    """
    return odeint(process, D, data, *reversed(default_ends(process)), **options)


def default_ends(process: Process) -> tuple[float, float]:
    """The process's interval, with EDM's lowest noise level in the place of a clean end."""
    start, end = process.interval
    clean = float(process.sigma(np.float64(end))) == 0.0
    return start, float(process.t_of_lam(np.float64(LAM_RANGE[1]))) if clean else end


def explicit(solver: Any) -> Any:
    """The solver, or the default; its calls are counted as stages times steps, so it must be explicit Runge-Kutta."""
    import diffrax

    solver = diffrax.Tsit5() if solver is None else solver
    if not isinstance(solver, diffrax.AbstractERK):
        raise ValueError(
            f"solver must be an explicit Runge-Kutta method of diffrax (Tsit5, Dopri8, ...); got {solver}."
        )
    return solver


def _calls(solver: Any, num_steps: Any) -> Any:
    """Evaluations that an explicit Runge-Kutta method makes, first-same-as-last ones reusing one per step."""
    stages = solver.tableau.num_stages
    return 1 + (stages - 1) * num_steps if solver.tableau.fsal else stages * num_steps


def angles(process: Process, *times: float) -> tuple[np.ndarray, np.ndarray]:
    """(psi, n) at times: the noise angle atan2(sigma, alpha) and the norm, in float64 on the host.

    Raises:
        ValueError: a time at clean data, or off the clock.
    """
    t = np.asarray(times, np.float64)
    alpha, sigma = (np.asarray(f(t), np.float64) for f in (process.alpha, process.sigma))
    if not (np.isfinite(alpha + sigma).all() and (sigma > 0).all() and (alpha >= 0).all()):
        raise ValueError(
            f"an adaptive solve needs times on the clock of {process} with sigma above zero; got {t.tolist()}: stop "
            f"before the clean end, for example at t = {default_ends(process)[1]:g}."
        )
    return np.arctan2(sigma, alpha), np.hypot(alpha, sigma)


def rotation(process: Process, D: Any, u: Array, psi: Any, cond: Any) -> tuple[Array, Array, Any]:
    """(denoised, cos psi, sin psi) at a scaled state u."""
    cos, sin = jnp.cos(psi), jnp.sin(psi)
    # In float32 the cosine of pi/2 rounds below zero; pure noise is its own time.
    t = process.t_of_lam(jnp.log(jnp.maximum(cos, 0.0)) - jnp.log(sin))
    norm = jnp.sqrt(process.alpha(t) ** 2 + process.sigma(t) ** 2)
    return D(norm * u, t, cond), cos, sin


def largest_error(scaled: Any) -> Array:
    """The norm for step control: rms over each example of a leaf [batch, ...], then the largest."""
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(scaled)]
    return jnp.stack([jnp.sqrt((leaf**2).mean(-1)).max() for leaf in leaves]).max()


def sdeint(
    process: Process,
    D: Any,
    x: Float[Array, "batch *data"],
    t_start: float,
    t_end: float,
    key: PRNGKeyArray,
    *,
    eta: float = 1.0,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    solver: Any = None,
    cond: Any = None,
    max_steps: int = MAX_STEPS,
) -> Solution:
    """The reverse-time SDE of noise level eta from t_start to t_end, noise to data, with error control.

        du = (cos (D - cos u) + eta (cos D - u)) dlam + sqrt(2 eta) sin dW,

    u = x/sqrt(alpha^2 + sigma^2), cos = alpha/sqrt(alpha^2 + sigma^2), sin likewise: `exponential_sde` in the scaled
    state. The noise is additive, so that ShARK is of strong order 3/2. The path of W comes from a virtual Brownian
    tree: it depends on the key and the two ends, not on the tolerance or the solver.

    Args:
        t_start, t_end: times with finite lam, the noisier first.
        eta: noise level, 1 for the time reversal of the forward process.
        solver: an SRK method of diffrax for additive noise (ShARK by default, or SRA1).

    Example:
        >>> import gendyn as gd, jax
        >>> process = gd.processes.EDM()
        >>> D = gd.oracles.GaussianMixture([1.0], [[0.0]], [[1.0]]).denoiser(process)
        >>> key = jax.random.key(0)
        >>> sdeint(process, D, process.sample_prior(key, (4, 1)), 80.0, 0.002, key).x.shape
        (4, 1)
    """
    import diffrax

    require_nonnegative("eta", eta)
    if not process.gaussian_noise:
        raise ValueError(f"the noise of {process} is not Gaussian, so it has no reverse SDE here; use odeint.")
    refuse_singular(D, np.asarray([t_start, t_end]))
    angle, norm = angles(process, t_start, t_end)
    lam = -np.log(np.tan(angle))
    if not (0 < lam[1] - lam[0] < np.inf) or angle[0] == np.pi / 2:
        raise ValueError(
            f"sdeint runs from noise to data between times with finite lam; got t = {t_start:g} to {t_end:g}, lam = "
            f"{lam[0]:g} to {lam[1]:g}."
        )
    control = Control(rtol=rtol, atol=atol, solver=diffrax.ShARK() if solver is None else solver, max_steps=max_steps)
    return _sdeint(process, as_argument(D), x, key, (lam, norm), eta, control, cond)


@jax.jit
def _sdeint(
    process: Process, D: Any, x: Array, key: PRNGKeyArray, ends: Any, eta: Any, control: Control, cond: Any
) -> Solution:
    import diffrax
    import lineax

    (start, end), norm = jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), ends)

    def drift(lam: Any, u: Array, _: Any) -> Array:
        denoised, cos, _sin = rotation(process, D, u, jnp.arctan(jnp.exp(-lam)), cond)
        return cos * (denoised - cos * u) + eta * (cos * denoised - u)

    def diffusion(lam: Any, u: Array, _: Any) -> Any:
        return lineax.DiagonalLinearOperator(jnp.full_like(u, jnp.sqrt(2 * eta) / jnp.sqrt(1 + jnp.exp(2 * lam))))

    finest = FINEST * (end - start)
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    path = diffrax.VirtualBrownianTree(start, end, finest, shape, key, levy_area=diffrax.SpaceTimeLevyArea)
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path)),
        t0=start,
        t1=end,
        dt0=FIRST_STEP * (end - start),
        y0=x / norm[0],
        **control.steps(dtmin=finest),
    )
    nfe = len(control.solver.tableau.b_sol) * solution.stats["num_steps"]
    return Solution(x=norm[1] * solution.ys[-1], nfe=nfe, rejected=solution.stats["num_rejected_steps"])
