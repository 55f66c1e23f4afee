"""First order, exact for a constant denoiser: DDIM, its stochastic versions, and DDPM's ancestral sampler."""

from __future__ import annotations

from typing import Any

import numpy as np

from gendyn.processes import Process
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, require_nonnegative, steps
from gendyn.samplers.plan import Row, SamplerPlan, assemble
from gendyn.tree import namespace


def first_order(step: Step) -> tuple[Any, Any]:
    """(sx, sm) of x_e = (sigma_e/sigma_s) x_s - alpha_e (e^{-h} - 1) D: the exact step for D constant.

    Its limits: alpha_s = 0 gives x_e = (sigma_e/sigma_s) x_s + alpha_e D, and sigma_e = 0 gives alpha_e D.
    """
    return step.sigma_e / step.sigma_s, -step.alpha_e * namespace(step.h).expm1(-step.h)


def ddim(process: Process, grid: Grid, *, eta: float = 0.0) -> SamplerPlan:
    """DDIM: Song et al. 2021, "Denoising Diffusion Implicit Models" (arXiv 2010.02502), eq. 12, on any path.

        x_e = alpha_e D + sqrt(sigma_e^2 - s^2) eps + s z,
        s = eta sigma_e sqrt(1 - e^{-2h}),    eps = (x_s - alpha_s D)/sigma_s.

    eta = 0 is deterministic (also DPM-Solver-1, UniP-1, DEIS order 0, Euler in sigma/alpha), eta = 1 is ancestral
    sampling. One network call per step, order 1. Exact for point-mass data with any number of steps; a clean last node
    and a first node with alpha = 0 are legal.

    Example:
        >>> import gendyn as gd
        >>> process = gd.processes.EDM()
        >>> ddim(process, gd.samplers.grids.karras(process, n=5)).nfe
        5
    """
    require_nonnegative("eta", eta)
    if eta > 1:
        raise ValueError(f"eta must lie in [0, 1] (1 is ancestral sampling); got {eta}.")
    name = "ddim" if eta == 0 else f"ddim(eta={eta:g})"
    rows = [_row(step, eta * _posterior_std(step)) if eta else _deterministic(step) for step in steps(process, grid)]
    return assemble(process, rows, name=name, order=1)


def ancestral(process: Process, grid: Grid, *, variance_mix: float = 0.0) -> SamplerPlan:
    """DDPM's ancestral sampler: x_e ~ q(x_e | x_s, data = D), Ho et al. 2020 (arXiv 2006.11239), eq. 6-7, on any path.

    The mean is DDIM's with eta = 1. The standard deviation is exp((1 - v) log s + v log s'), with s^2 =
    sigma_e^2 (1 - e^{-2h}) the posterior variance (DDPM's beta-tilde), s'^2 = sigma_s^2 - (alpha_s/alpha_e)^2 sigma_e^2
    the forward one (DDPM's beta) and v = `variance_mix`: Nichol and Dhariwal 2021 (arXiv 2102.09672), eq. 15.
    No noise enters a clean last node. One call per step, weak order 1.
    """
    if not 0 <= variance_mix <= 1:
        raise ValueError(f"variance_mix must lie in [0, 1] (0 posterior, 1 forward variance); got {variance_mix}.")
    name = "ancestral" if variance_mix == 0 else f"ancestral(variance_mix={variance_mix:g})"
    rows = []
    for step in steps(process, grid):
        posterior = _posterior_std(step)
        forward = np.sqrt(max(step.sigma_s**2 - (step.alpha_s / step.alpha_e * step.sigma_e) ** 2, 0.0))
        added = 0.0 if step.clean else posterior ** (1 - variance_mix) * forward**variance_mix
        rows.append(_row(step, posterior, added))
    return assemble(process, rows, name=name, order=1)


def _posterior_std(step: Step) -> Any:
    xp = namespace(step.h)
    return step.sigma_e * xp.sqrt(-xp.expm1(-2 * step.h))


def _deterministic(step: Step) -> Row:
    sx, sm = first_order(step)
    return Row(t=step.t_s, sx=sx, sm=(sm,), clock=step.clock)


def _row(step: Step, removed: Any, added: Any = None) -> Row:
    """Noise of std `removed` taken out of the mean's eps, and noise of std `added` (by default the same) put in."""
    xp = namespace(step.h)
    kept = xp.sqrt(step.sigma_e**2 - removed**2) / step.sigma_s
    return Row(
        t=step.t_s,
        sx=kept,
        sm=(step.alpha_e - kept * step.alpha_s,),
        sn=(removed if added is None else added,),
        clock=step.clock,
    )
