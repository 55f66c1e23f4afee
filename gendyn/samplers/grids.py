"""Time grids: where a sampler stops on its way from noise to data.

A builder is `(process, n, ...) -> Grid` with n steps, n + 1 nodes, in float64 on the host. Common choices:

    t_start, t_end  ends on the process's clock; by default `process.interval`.
    final_zero      True: the last node is clean (alpha = 1, sigma = 0), the spacing covering the n nodes before it,
                    unless it ends clean by itself; False: the last node is above zero; None: the builder's own habit.
    shift           multiplies sigma/alpha of every node after the first: the resolution shift of Esser et al. 2024
                    (arXiv 2403.03206), which on rectified flow reads t' = c t/(1 + (c - 1) t) from the data end.

Paths that reach pure noise or clean data (rectified flow, GVP) have infinite lam there. Grids spaced in t may touch
those ends; grids spaced in lam use EDM's range of noise levels, sigma/alpha from 80 down to 0.002, unless told
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, Unpack

import jax
import numpy as np

from gendyn.processes import Process
from gendyn.tree import concrete, pytree, static

LAM_RANGE = (-float(np.log(80.0)), -float(np.log(0.002)))


class Ends(TypedDict, total=False):
    """The choices that all builders share; see the head of this module."""

    t_start: float | None
    t_end: float | None
    final_zero: bool | None
    shift: float


@pytree
class Grid:
    """Nodes from noise to data.

    Attributes:
        t: times on the process's clock, [n + 1]; nan at a clean last node that the clock does not reach.
        alpha, sigma: the path's coefficients at the nodes; (1, 0) at a clean last node.
            While a grid is tuned, all three are tuples: ends that stay are numbers, nodes that move are traced.
        process: the path the grid belongs to.
    """

    t: Any
    alpha: Any
    sigma: Any
    process: Process = static()
    name: str = static(default="explicit")

    @property
    def steps(self) -> int:
        return len(self.t) - 1

    @property
    def lam(self) -> np.ndarray:
        """log(alpha/sigma) at the nodes, -inf where alpha = 0 and +inf where sigma = 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha) - np.log(self.sigma)

    @property
    def clean(self) -> bool:
        """Whether the last node has no noise."""
        return is_zero(self.sigma[-1])

    @property
    def from_pure_noise(self) -> bool:
        """Whether the first node has no signal."""
        return is_zero(self.alpha[0])


def is_zero(value: Any) -> bool:
    """Exactly zero; traced nodes (while a grid is tuned) lie inside the clock, so they are not."""
    return not isinstance(value, jax.core.Tracer) and bool(value == 0)


def _make(process: Process, times: np.ndarray, name: str, append_clean: bool = False) -> Grid:
    """A grid on these times, checked: strictly from noise to data."""
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha, sigma = (np.array(f(times), np.float64) for f in (process.alpha, process.sigma))
    if append_clean:
        times, alpha, sigma = (
            np.append(times, _clean_time(process)),
            np.append(alpha, 1.0),
            np.append(sigma, 0.0),
        )
    grid = Grid(t=times, alpha=alpha, sigma=sigma, process=process, name=name)
    if not (np.isfinite(alpha).all() and np.isfinite(sigma).all() and (sigma >= 0).all() and (alpha >= 0).all()):
        raise ValueError(f"grid {name}: times must lie on the clock of {process}; got {times[0]:g} .. {times[-1]:g}.")
    ratio = np.arctan2(sigma, alpha)
    if not (np.diff(ratio) < 0).all():
        where = int(np.flatnonzero(np.diff(ratio) >= 0)[0])
        raise ValueError(
            f"grid {name}: nodes must run strictly from noise to data, but node {where + 1} (t = {times[where + 1]:g}) "
            f"is not cleaner than node {where} (t = {times[where]:g}); check the order and remove duplicates."
        )
    return grid


def _clean_time(process: Process) -> float:
    """The clock's own clean time, or nan where the clock has none."""
    return process.t_data if float(process.sigma(process.t_data)) == 0.0 else float("nan")


def _ends(process: Process, t_start: Any, t_end: Any, final_zero: bool | None, finite: bool) -> tuple[float, float]:
    """Default ends of the spacing. `finite` asks for finite lam at both, `final_zero=False` for one at the data end."""
    start, end = process.interval
    with np.errstate(divide="ignore"):
        if finite and not np.isfinite(process.lam(start)):
            start = float(process.t_of_lam(LAM_RANGE[0]))
        if (finite or final_zero is False) and not np.isfinite(process.lam(end)):
            end = float(process.t_of_lam(LAM_RANGE[1]))
        ends = start if t_start is None else float(t_start), end if t_end is None else float(t_end)
        if finite and not all(np.isfinite(process.lam(t)) for t in ends):
            noisy = not np.isfinite(process.lam(ends[0]))
            raise ValueError(
                f"this spacing needs finite lam = log(alpha/sigma) at both ends, but {process} reaches "
                f"{'pure noise' if noisy else 'clean data'} at t = {ends[0] if noisy else ends[1]:g}; pass "
                "t_start=/t_end= strictly inside, and final_zero=True for a clean last node."
            )
    return ends


def _shifted(process: Process, times: np.ndarray, shift: float) -> np.ndarray:
    if shift == 1.0:
        return times
    with np.errstate(divide="ignore"):
        lam = process.lam(times) - np.log(shift)
    inside = np.isfinite(lam) & (np.arange(len(times)) > 0)
    return np.where(inside, process.t_of_lam(np.where(inside, lam, 0.0)), times)


def _spaced(
    process: Process,
    n: int,
    name: str,
    nodes: Callable[[float, float, np.ndarray], np.ndarray],
    ends: Ends,
    *,
    finite: bool,
    final_zero: bool | None = None,
) -> Grid:
    """Shared body: ends, fractions u in [0, 1] -> times, exact ends, shift, clean node; `final_zero` is the habit."""
    unknown = ends.keys() - Ends.__annotations__.keys()
    if unknown:
        raise ValueError(f"unknown grid option {min(unknown)!r}; the options are {', '.join(Ends.__annotations__)}.")
    t_start, t_end, shift = ends.get("t_start"), ends.get("t_end"), ends.get("shift", 1.0)
    asked = ends.get("final_zero")
    final_zero = final_zero if asked is None else asked
    concrete("a time grid", t_start, t_end, shift)
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"a grid needs a whole number of steps n >= 1; got {n!r}.")
    if shift <= 0:
        raise ValueError(f"shift must be positive; got {shift}.")
    start, end = _ends(process, t_start, t_end, final_zero, finite)
    append = bool(final_zero) and float(process.sigma(end)) > 0.0
    count = n if append else n + 1
    times = nodes(start, end, np.linspace(0.0, 1.0, count)) if count > 1 else np.array([start])
    times[0] = start
    if count > 1:
        times[-1] = end
    return _make(process, _shifted(process, times, shift), name, append_clean=append)


def _in_lam(process: Process, transform: Any, inverse: Any) -> Callable[[float, float, np.ndarray], np.ndarray]:
    """Nodes spaced linearly in transform(lam)."""

    def nodes(start: float, end: float, u: np.ndarray) -> np.ndarray:
        a, b = transform(process.lam(np.float64(start))), transform(process.lam(np.float64(end)))
        return np.array(process.t_of_lam(inverse(a + u * (b - a))))

    return nodes


def uniform_t(process: Process, n: int, **ends: Unpack[Ends]) -> Grid:
    """Equally spaced on the process's own clock; rectified flow and GVP run end to end by default."""
    return power(process, n, 1.0, **ends)


def power(process: Process, n: int, exponent: float = 2.0, **ends: Unpack[Ends]) -> Grid:
    """Equally spaced in t^(1/exponent), t measured from the data end: DEIS's "t, order k" (arXiv 2204.13902)."""
    concrete("a time grid", exponent)
    origin = process.t_data if process.t_data > process.t_noise else 0.0

    def nodes(start: float, end: float, u: np.ndarray) -> np.ndarray:
        a, b = (abs(t - origin) ** (1 / exponent) for t in (start, end))
        return np.abs(origin - (a + u * (b - a)) ** exponent)

    name = "uniform_t" if exponent == 1.0 else f"power{exponent:g}"
    return _spaced(process, n, name, nodes, ends, finite=False)


def uniform_lam(process: Process, n: int, **ends: Unpack[Ends]) -> Grid:
    """Equally spaced in lam = log(alpha/sigma): the log-SNR grid of DPM-Solver (arXiv 2206.00927)."""
    nodes = _in_lam(process, lambda lam: lam, lambda lam: lam)
    return _spaced(process, n, "uniform_lam", nodes, ends, finite=True, final_zero=False)


def karras(process: Process, n: int, rho: float = 7.0, **ends: Unpack[Ends]) -> Grid:
    """Equally spaced in (sigma/alpha)^(1/rho): Karras et al. 2022 (arXiv 2206.00364), eq. 5.

    With `final_zero` (the default): n nodes above zero, then the clean node, n steps in all, as published.

    Example:
        >>> import gendyn as gd
        >>> gd.samplers.grids.karras(gd.processes.EDM(), n=4).t.round(3).tolist()
        [80.0, 9.723, 0.47, 0.002, 0.0]
    """
    concrete("a time grid", rho)
    nodes = _in_lam(process, lambda lam: np.exp(-lam / rho), lambda level: -rho * np.log(level))
    return _spaced(process, n, f"karras{rho:g}", nodes, ends, finite=True, final_zero=True)


def polyexponential(process: Process, n: int, exponent: float = 1.0, **ends: Unpack[Ends]) -> Grid:
    """log(sigma/alpha) follows (1 - u)^exponent: k-diffusion's polyexponential grid; exponent 1 is `uniform_lam`."""

    concrete("a time grid", exponent)

    def nodes(start: float, end: float, u: np.ndarray) -> np.ndarray:
        a, b = process.lam(np.float64(start)), process.lam(np.float64(end))
        return np.array(process.t_of_lam(b + (1 - u) ** exponent * (a - b)))

    name = f"polyexponential{exponent:g}"
    return _spaced(process, n, name, nodes, ends, finite=True, final_zero=True)


def explicit(
    process: Process,
    *,
    times: Any = None,
    sigmas: Any = None,
    lam: Any = None,
    final_zero: bool = False,
) -> Grid:
    """The nodes you name, noise first, as times on the clock, as noise levels sigma/alpha, or as lam.

    A last noise level of 0 (or lam of inf), or `final_zero=True` (one more node), is the clean node.
    """
    concrete("a time grid", times, sigmas, lam)
    given = [v for v in (times, sigmas, lam) if v is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of times=, sigmas=, lam=; got {len(given)} of them.")
    values = np.asarray(given[0], np.float64)
    if values.ndim != 1 or len(values) + final_zero < 2:
        raise ValueError(f"a grid needs at least two nodes in one dimension; got an array of shape {values.shape}.")
    if times is None:
        with np.errstate(divide="ignore"):
            lam = -np.log(values) if lam is None else values
        clean = bool(np.isposinf(lam[-1]))
        times = np.asarray(process.t_of_lam(lam[:-1] if clean else lam))
        return _make(process, times, "explicit", append_clean=clean or final_zero)
    return _make(process, values, "explicit", append_clean=final_zero)


def subdivide(grid: Grid, parts: Sequence[int]) -> Grid:
    """Step i of a grid cut into parts[i] pieces equal in lam: where DPM-Solver puts the stages of a singlestep step.

    Example:
        >>> import gendyn as gd
        >>> outer = uniform_lam(gd.processes.EDM(), n=2)
        >>> subdivide(outer, (3, 2)).steps
        5
    """
    if len(parts) != grid.steps or min(parts) < 1:
        raise ValueError(f"subdivide needs one positive number per step ({grid.steps} of them); got {tuple(parts)}.")
    times: list[float] = []
    for i, count in enumerate(parts):
        start, end = grid.lam[i : i + 2]
        if count > 1 and not np.isfinite(end - start):
            raise ValueError(f"step {i} touches pure noise or clean data and cannot be cut in lam: give it one part.")
        inner = [start + (end - start) * j / count for j in range(1, count)]
        times += [float(grid.t[i]), *(float(grid.process.t_of_lam(lam)) for lam in inner)]
    last = [] if grid.clean else [float(grid.t[-1])]
    return _make(grid.process, np.array(times + last), f"{grid.name}/cut", append_clean=grid.clean)


GRIDS: dict[str, Callable[..., Grid]] = {
    "uniform_t": uniform_t,
    "uniform_lam": uniform_lam,
    "karras": karras,
    "power": power,
    "polyexponential": polyexponential,
}
"""Name -> builder (process, n, ...): what the command line and `gendyn.plan` accept."""
