"""Does what was tuned at one size serve the others? A sweep over sizes, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from gendyn.parametrization.points import Point, check_positive, is_grid
from gendyn.parametrization.sweeps import sweep
from gendyn.parametrization.trial import Trial
from gendyn.parametrization.widths import one_name

Row = dict[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error over seeds."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} +- {self.error:.2f}"


@dataclass(frozen=True)
class Optimum:
    """Of one hyperparameter at one size: the least score's value on the grid, and the vertex of a parabola there.

    Attributes:
        fit: of the parabola in log2(value) through the least score and its two neighbours; the value itself at an edge.
        edge: the least score lies at an end of the grid, or beside a run that diverged: widen or refine it.
    """

    value: float
    fit: float
    score: float
    edge: bool


@dataclass(frozen=True)
class Transfer:
    """Scores of every (size, point, seed), and what follows from them.

    Scores are pooled over seeds by geometric means; standard errors are over seeds, by the jackknife. A run that
    diverged has an infinite score.

    Attributes:
        rows: dicts with the size, the hyperparameters, "seed", "score", its other numbers, and "start", the score at
            initialisation.
        along: the size's name.
        names: of the hyperparameters.
        base: the size at which they are tuned.
    """

    rows: tuple[Row, ...]
    along: str
    names: tuple[str, ...]
    base: Any

    @cached_property
    def sizes(self) -> list[Any]:
        return sorted({row[self.along] for row in self.rows})

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({row["seed"] for row in self.rows})

    @cached_property
    def points(self) -> list[tuple[Any, ...]]:
        """Values of `names`, one tuple per point."""
        return sorted({tuple(row[name] for name in self.names) for row in self.rows})

    @cached_property
    def scores(self) -> dict[Any, np.ndarray]:
        """Size -> log2(score), [points, seeds]."""
        places = {point: i for i, point in enumerate(self.points)}, {seed: i for i, seed in enumerate(self.seeds)}
        found = {size: np.full((len(self.points), len(self.seeds)), np.nan) for size in self.sizes}
        for row in self.rows:
            at = places[0][tuple(row[name] for name in self.names)], places[1][row["seed"]]
            found[row[self.along]][at] = np.log2(row["score"]) if row["score"] > 0 else -np.inf
        for size, table in found.items():
            if np.isnan(table).any():
                raise ValueError(f"the sweep has no run of some (point, seed) at {self.along} {size}; finish it first.")
        return found

    @property
    def is_grid(self) -> bool:
        """Whether each hyperparameter has a curve of its own."""
        return is_grid([dict(zip(self.names, point)) for point in self.points])

    @property
    def winner(self) -> dict[str, Any]:
        """The best point at the base size."""
        return dict(zip(self.names, self.points[self._best(self.base)]))

    def curve(self, name: str, size: Any, seeds: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Values of one hyperparameter and the least log2(score) over the others, pooled over seeds (by place)."""
        column = self.names.index(name)
        table = self.scores[size] if seeds is None else self.scores[size][:, list(seeds)]
        pooled, values = table.mean(axis=1), sorted({point[column] for point in self.points})
        of_value = np.array([point[column] for point in self.points])
        return np.array(values, float), np.array([pooled[of_value == value].min() for value in values])

    def optimum(self, name: str, size: Any, seeds: Sequence[int] | None = None) -> Optimum:
        values, scores = self.curve(name, size, seeds)
        i = int(np.argmin(scores))
        inside = 0 < i < len(values) - 1 and bool(np.isfinite(scores[i - 1 : i + 2]).all())
        fit = 2.0 ** _vertex(np.log2(values[i - 1 : i + 2]), scores[i - 1 : i + 2]) if inside else values[i]
        return Optimum(float(values[i]), float(fit), float(2.0 ** scores[i]), not inside)

    def shift(self, name: str) -> Estimate:
        """d log2(best value) / d log2(size), the slope of the least-squares line through the optima of all sizes."""

        def slope(seeds: Sequence[int] | None) -> float:
            best = [self.optimum(name, size, seeds).fit for size in self.sizes]
            return float(np.polyfit(np.log2(np.array(self.sizes, float)), np.log2(best), 1)[0])

        return Estimate(slope(None), _jackknife(slope, len(self.seeds)))

    def regret(self, size: Any) -> Estimate:
        """score at the base's best point over the least score of this size, minus one."""
        used, best = self._best(self.base), self._best(size)
        if used == best:
            return Estimate(0.0, 0.0)
        ratio = self.scores[size][used] - self.scores[size][best]

        def pooled(seeds: Sequence[int] | None) -> float:
            return float(2.0 ** (ratio if seeds is None else ratio[list(seeds)]).mean() - 1)

        return Estimate(pooled(None), _jackknife(pooled, len(self.seeds)))

    def noise(self, size: Any) -> float:
        """Relative standard deviation of a score over seeds, at the best point of this size."""
        return float(np.log(2) * np.std(self.scores[size][self._best(size)], ddof=1)) if len(self.seeds) > 1 else 0.0

    @property
    def transferred(self) -> dict[Any, float]:
        """Size -> score at the base's best point: falls with the size, where wider is better."""
        return {size: float(2.0 ** self.scores[size][self._best(self.base)].mean()) for size in self.sizes}

    @property
    def wider_is_better(self) -> bool:
        return bool(np.all(np.diff([self.transferred[size] for size in self.sizes]) < 0))

    def sensitivity(self, size: Any) -> float:
        """Mean over the points of min(score, score at the start), minus the least score.

        Wortsman et al. 2023, arXiv:2309.14322, section 2.2; comparable only over the same grid.
        """
        own = [row for row in self.rows if row[self.along] == size]
        capped = [min(row["score"], row["start"]) for row in own]
        return float(np.mean(capped) - 2.0 ** self.scores[size][self._best(size)].mean())

    def summary(self) -> dict[str, Any]:
        """All of the above as JSON-able values."""
        found: dict[str, Any] = {
            "along": self.along,
            "base": self.base,
            "winner": self.winner,
            "wider_is_better": self.wider_is_better,
            "sizes": {
                str(size): {
                    "best": dict(zip(self.names, self.points[self._best(size)])),
                    "score": float(2.0 ** self.scores[size][self._best(size)].mean()),
                    "transferred": self.transferred[size],
                    "regret": vars(self.regret(size)),
                    "noise": self.noise(size),
                    "sensitivity": self.sensitivity(size),
                    "optima": {name: vars(self.optimum(name, size)) for name in self.names if self.is_grid},
                }
                for size in self.sizes
            },
        }
        if self.is_grid and len(self.sizes) > 1:
            found["shift"] = {name: vars(self.shift(name)) for name in self.names}
        return found

    def __str__(self) -> str:
        """A line per size, and the verdict."""
        tuned = ", ".join(f"{name} {value:.4g}" for name, value in self.winner.items())
        lines = [f"tuned at {self.along} {self.base}: {tuned}"]
        names = self.names if self.is_grid else ()
        heads = [
            self.along,
            *(f"best {name}" for name in names),
            "score",
            "with the tuned",
            "regret",
            "seeds differ by",
        ]
        cells = [heads]
        for size in self.sizes:
            optima = [self.optimum(name, size) for name in names]
            best = float(2.0 ** self.scores[size][self._best(size)].mean())
            regret = self.regret(size)
            cells.append(
                [
                    str(size),
                    *(f"{o.fit:.4g}{' (edge)' if o.edge else ''}" for o in optima),
                    f"{best:.5g}",
                    f"{self.transferred[size]:.5g}",
                    f"{100 * regret.value:.1f} +- {100 * regret.error:.1f} %",
                    f"{100 * self.noise(size):.1f} %",
                ]
            )
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines += ["  ".join(cell.rjust(w) for cell, w in zip(line, widths)) for line in cells]
        at_edge = [name for name in names if any(self.optimum(name, size).edge for size in self.sizes)]
        lines += [f"some best {name} lies at an edge or beside divergence: try more values" for name in at_edge]
        if len(self.sizes) > 1:
            lines += [f"shift of {name}: {self.shift(name)} octaves per doubling of {self.along}" for name in names]
            falls = "falls" if self.wider_is_better else "does not fall"
            lines.append(f"with the tuned point, the score {falls} with every step of {self.along}")
        return "\n".join(lines)

    def _best(self, size: Any) -> int:
        return int(np.argmin(self.scores[size].mean(axis=1)))


def transfer(
    make: Callable[..., Trial],
    sizes: Sequence[Mapping[str, Any]],
    points: Sequence[Point],
    *,
    batches: Callable[..., Iterable[Any]],
    seeds: Sequence[int] = (0, 1, 2, 3, 4, 5),
    base: Any = None,
    done: Iterable[Row] = (),
    record: Callable[[list[Row]], None] = lambda rows: None,
    report: Callable[[int], None] = lambda done: None,
    devices: Sequence[jax.Device] | None = None,
    together: int | None = None,
) -> Transfer:
    """Sweep hyperparameters at several sizes with common random numbers, and compare where the best ones lie.

    Runs of one size and seed see the same batches and noise whatever their hyperparameters, and so do runs of
    different sizes; every run is scored on the draws of its trial's score. See `sweeps.sweep` for what is one program.

    Args:
        make: make(**size, **point) -> `Trial` with a score.
        sizes: dicts that differ in one name, for example [{"width": 64}, {"width": 128}]; a width, a depth, a batch
            size, a number of steps: whatever `make` and `batches` take.
        points: hyperparameters, from `grid` or `random_search`.
        batches: (seed, **size) -> the batches of a run, as many as it has steps.
        base: the size at which hyperparameters are tuned; the smallest by default.
        done: rows of an interrupted sweep; they are kept, and their runs left out.
        record: called with all rows, those of `done` first, whenever a size and seed are done.
        report: called with the number of runs done, of len(sizes) * len(points) * len(seeds).
        devices, together: as of `sweeps.sweep`.

    Returns:
        The scores, with optima, shift, regret and winner (`Transfer`).

    Raises:
        ValueError: sizes that do not differ in one name, points that are not positive numbers, trials without a score.

    Example:
        >>> import jax, jax.numpy as jnp, optax, gendyn as gd
        >>> P = gd.parametrization
        >>> def make(width, learning_rate):
        ...     network = gd.networks.Network(init=lambda key: jnp.ones(width), apply=lambda params: params)
        ...     loss = lambda network, params, key, batch: jnp.mean((params - batch) ** 2)
        ...     score = lambda network, params: {"score": jnp.mean((params - 3.0) ** 2)}
        ...     return P.Trial(network, loss, optax.sgd(learning_rate), score)
        >>> found = P.transfer(
        ...     make, [{"width": 2}, {"width": 4}], P.grid(learning_rate=[0.1, 0.2, 0.4]),
        ...     batches=lambda seed, width: [jnp.full((), 3.0)] * 5, seeds=(0,),
        ... )
        >>> found.winner
        {'learning_rate': 0.4}
    """
    along = one_name(sizes)
    if not points or not points[0] or not seeds:
        raise ValueError("a transfer sweep takes one point or more, with one hyperparameter or more, and one seed.")
    check_positive(points)
    names = tuple(points[0])
    base = min(size[along] for size in sizes) if base is None else base
    if base not in [size[along] for size in sizes]:
        raise ValueError(f"the base is one of the sizes; got {along} {base}, and {[s[along] for s in sizes]}.")
    kept = list(done)
    known = {(row[along], row["seed"], *(row[name] for name in names)): row for row in kept}
    rows: list[Row] = []
    for size in sizes:
        for seed in seeds:
            rows += [known[k] for point in points if (k := (size[along], seed, *point.values())) in known]
    old = len(rows)
    report(old)
    for size in sizes:
        for todo, wanted in _missing(points, seeds, known, size[along]):
            ran = sweep(
                partial(make, **size),
                todo,
                batches=partial(batches, **size),
                seeds=wanted,
                devices=devices,
                together=together,
            )
            for seed, runs in ran:
                rows += [
                    {along: size[along], **point, "seed": seed, **each.end, "start": each.start["score"]}
                    | {"train_loss": _last_tenth(each.losses)}
                    for point, each in zip(todo, runs)
                ]
                record(kept + rows[old:])
                report(len(rows))
    return Transfer(tuple(rows), along, names, base)


def _missing(
    points: Sequence[Point], seeds: Sequence[int], known: Mapping[Any, Row], size: Any
) -> list[tuple[list[Point], list[int]]]:
    """Points that are still to be run at a size, with the seeds that lack exactly them."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for seed in seeds:
        lacking = tuple(i for i, point in enumerate(points) if (size, seed, *point.values()) not in known)
        if lacking:
            groups.setdefault(lacking, []).append(seed)
    return [([points[i] for i in lacking], wanted) for lacking, wanted in groups.items()]


def _vertex(x: np.ndarray, y: np.ndarray) -> float:
    """Where the parabola through three points is least."""
    a, b, _ = np.polyfit(x - x[1], y, 2)
    return float(x[1] - b / (2 * a)) if a > 0 else float(x[1])


def _jackknife(statistic: Callable[[Sequence[int] | None], float], n: int) -> float:
    """Standard error, from leaving out one seed at a time."""
    if n < 2:
        return 0.0
    each = np.array([statistic([i for i in range(n) if i != left]) for left in range(n)])
    return float(np.sqrt((n - 1) / n * np.sum((each - each.mean()) ** 2)))


def _last_tenth(losses: np.ndarray) -> float:
    mean = float(np.mean(losses[-max(len(losses) // 10, 1) :]))
    return mean if np.isfinite(mean) else float("inf")
