"""The coordinate check: do all features move alike, whatever the width?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from gendyn.parametrization.trial import Trial, keys
from gendyn.parametrization.uses import activations
from gendyn.parametrization.widths import one_name

OUTPUT = "output"
"""Name of what the whole network returns, among its activations."""


@dataclass(frozen=True)
class Slope:
    """d log2(change) / d log2(size) of one activation: mean over seeds and its standard error."""

    name: str
    value: float
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        return bool(abs(self.value) <= self.limit)


@dataclass(frozen=True)
class CoordinateCheck:
    """How much every activation has moved since initialisation, at every size.

    Attributes:
        rows: dicts with the size, "seed", "step", "name" and "change", root mean square over the probe's examples.
        along: the size's name.
        slopes: after the last step, one per activation that moved at all.
    """

    rows: tuple[dict[str, Any], ...]
    along: str
    slopes: tuple[Slope, ...]

    @property
    def ok(self) -> bool:
        return all(slope.ok for slope in self.slopes)

    @property
    def steepest(self) -> Slope:
        return max(self.slopes, key=lambda slope: abs(slope.value))

    def __str__(self) -> str:
        """One line per activation, steepest first, and the verdict."""
        width = max(len(slope.name) for slope in self.slopes)
        ordered = sorted(self.slopes, key=lambda slope: -abs(slope.value))
        lines = [
            f"{s.name:{width}}  {s.value:+.3f} +- {s.error:.3f}  {'' if s.ok else f'more than {s.limit:g}'}".rstrip()
            for s in ordered
        ]
        failed = sum(not slope.ok for slope in self.slopes)
        verdict = "all within their limits" if self.ok else f"{failed} of {len(self.slopes)} beyond their limits"
        return "\n".join([f"slopes of log2(change) in log2({self.along}): {verdict}", *lines])


def coordinate_check(
    make: Callable[..., Trial],
    sizes: Sequence[Mapping[str, int]],
    *,
    batches: Iterable[Any],
    probe: tuple[Any, ...],
    seeds: Sequence[int] = (0, 1, 2),
    hidden: float = 0.15,
    output: float = 0.25,
    report: Callable[[int], None] = lambda done: None,
) -> CoordinateCheck:
    """Train a few steps at several sizes, and measure how far each activation moves on one fixed probe.

    Under muP every feature moves by an amount that does not depend on the width: slopes are 0. Under the standard
    parametrisation and Adam those of hidden layers are near 1. Use a learning rate well above the best one, so that
    there is something to see, a zero-initialised readout, and at least four sizes over a factor of eight.

    Args:
        make: sizes by name -> `Trial`.
        sizes: which are tried; they differ in one name.
        batches: one per step, the same at every size and seed.
        probe: what apply takes after the parameters, for example (x, label, cond).
        hidden, output: limits of |slope|, of activations and of what the network returns.
        report: called with the number of runs done.

    Raises:
        ValueError: sizes that do not differ in one name, or a run that overflows.

    Cost: one compiled program per size; per run, one gradient and one evaluation a step.

    Yang et al. 2022, arXiv:2203.03466, appendix D.1.
    """
    along, batches = one_name(sizes), list(batches)
    if len(sizes) < 2:
        raise ValueError(f"a coordinate check compares at least two sizes; got {[dict(size) for size in sizes]}.")
    if not batches or not seeds:
        raise ValueError("a coordinate check takes one batch or more and one seed or more.")
    rows: list[dict[str, Any]] = []
    for number, each in enumerate(sizes):
        trial = make(**each)
        program = jax.jit(lambda key, trial=trial: _changes(trial, key, batches, probe))
        for i, seed in enumerate(seeds):
            for step, changes in enumerate(program(jax.random.key(seed)), start=1):
                rows += [
                    {along: each[along], "seed": seed, "step": step, "name": name, "change": float(value)}
                    for name, value in changes.items()
                ]
            report(number * len(seeds) + i + 1)
    wrong = next((row for row in rows if not np.isfinite(row["change"])), None)
    if wrong is not None:
        raise ValueError(
            f"{wrong['name']} is not finite after step {wrong['step']} at {along} {wrong[along]}; check with a smaller "
            "learning rate."
        )
    return CoordinateCheck(tuple(rows), along, _slopes(rows, along, len(batches), hidden, output))


def _changes(trial: Trial, key: PRNGKeyArray, batches: Sequence[Any], probe: tuple[Any, ...]) -> list[dict[str, Array]]:
    """After each step: activation -> root mean square of its change since initialisation."""
    key_params, key_run = keys(key)
    params, state = trial.start(key_params)
    start = _seen(trial, params, probe)
    found = []
    for step, batch in enumerate(batches):
        params, state, _ = trial.update(params, state, jax.random.fold_in(key_run, step), batch)
        now = _seen(trial, params, probe)
        found.append({name: jnp.sqrt(jnp.mean((now[name] - start[name]) ** 2)) for name in now})
    return found


def _seen(trial: Trial, params: Any, probe: tuple[Any, ...]) -> dict[str, Array]:
    value, inside = activations(trial.network.apply, params, *probe)
    return {**inside, OUTPUT: value}


def _slopes(rows: Sequence[dict[str, Any]], along: str, last: int, hidden: float, output: float) -> tuple[Slope, ...]:
    """Of activations that moved in every run; what never moves (a zero gate's branch) has no slope."""
    points: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for row in rows:
        if row["step"] == last:
            points.setdefault(row["name"], {}).setdefault(row["seed"], []).append((row[along], row["change"]))
    found = []
    for name, by_seed in points.items():
        last_of_all = by_seed == points.get(OUTPUT)  # the readout's own activation, or the output itself
        if min(change for pairs in by_seed.values() for _, change in pairs) <= 0:
            continue
        each = [_slope(np.log2(np.array(pairs, float))) for pairs in by_seed.values()]
        error = np.std(each, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0
        found.append(Slope(name, float(np.mean(each)), float(error), output if last_of_all else hidden))
    if not found:
        raise ValueError("no activation moved in every run; take more steps (zero-initialised layers need a few).")
    return tuple(found)


def _slope(points: np.ndarray) -> float:
    """Of the least-squares line through points [n, 2]."""
    x, y = (points - points.mean(axis=0)).T
    return float(x @ y / (x @ x))
