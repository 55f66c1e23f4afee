"""The report of an evaluation: every measure beside its floor, then copying, then the class asked for."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int, Num

from gendyn.metrics.agreement import Classifier, agreement
from gendyn.metrics.kernel import mmd
from gendyn.metrics.measure import Array, Features, Measure, plain, same_shape
from gendyn.metrics.memorization import TAIL, Memorization, compare_nearest
from gendyn.metrics.moments import frechet
from gendyn.metrics.sliced import sliced_wasserstein

KERNEL_LIMIT = 5000
"""At most so many examples of each set in the MMD, whose cost is quadratic; the row says how many were used."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A distance of the samples from the training split, and of as many real test examples: the floor."""

    measure: Measure
    floor: Measure

    @property
    def ratio(self) -> float | None:
        """Measure over floor; None where the floor is an estimate of 0 and a ratio would be noise."""
        return None if self.floor.centred or self.floor.value <= 0.0 else self.measure.value / self.floor.value

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**self.measure.as_dict(), "floor": self.floor.value, "floor_n": self.floor.n, "ratio": self.ratio}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What `gendyn evaluate` prints: `print(report)` for people, `report.as_dict()` for files.

    Attributes:
        rows: distances with their floors.
        memorization: nearest training distances of samples and of the test split.
        agreement: share of samples with the requested class, or None without a classifier.
        accuracy: the classifier's accuracy on the real test split, or None.
        drawn: number of samples that came in; the rows use as many as there are real test examples.
    """

    rows: tuple[Row, ...]
    memorization: Memorization
    agreement: Measure | None
    accuracy: Measure | None
    drawn: int

    def __getitem__(self, name: str) -> Row:
        """The row of a measure by its name."""
        rows = {row.measure.name: row for row in self.rows}
        if name not in rows:
            raise KeyError(f"the report has the measures {sorted(rows)}, not {name!r}")
        return rows[name]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "drawn": self.drawn,
            "measures": {row.measure.name: row.as_dict() for row in self.rows},
            "nearest_training": self.memorization.as_dict(),
            "agreement": self.agreement.as_dict() if self.agreement else None,
            "accuracy": self.accuracy.as_dict() if self.accuracy else None,
        }

    def __str__(self) -> str:
        return f"{_aligned(_lines(self))}\n{_footnote(self)}"


def report(
    samples: Num[Array, "n *data"],
    labels: Int[Array, "n"] | None,
    train: Num[Array, "m *data"],
    test: Num[Array, "k *data"],
    *,
    classifier: Classifier | None = None,
    features: Features | None = None,
    seed: int = 0,
) -> Report:
    """All measures of `samples`, each beside the same measure of real data.

    The distances compare c = min(n, k) samples with the training split, and c real test examples with the training
    split: equal sizes, because every one of them shrinks as its set grows. Where a set is larger than c, a random
    subset (of that seed) is taken. Nearest distances and agreement, which are means over single examples, use all.

    Args:
        samples: what the model drew, in the values of the data (not uint8).
        labels: requested classes, or None.
        train, test: real splits.
        classifier: judge of the classes; needs labels. None for unlabelled or vector data.
        features: space of the distances; raw values if None. Nearest distances always use raw values.
        seed: of subsets and of directions.

    Cost: see the measures; features of `train` and of c + c other examples are computed once.

    >>> train, test, samples = np.split(np.random.default_rng(0).standard_normal((90, 2)), [50, 70])
    >>> result = report(samples, None, train, test)
    >>> result["frechet"].measure.n, result["frechet"].floor.n, result.agreement
    (20, 20, None)
    """
    same_shape(samples, train)
    same_shape(test, train)
    if classifier is not None and labels is None:
        raise ValueError("a classifier judges samples by their requested classes; pass labels, or classifier=None.")
    count = min(len(samples), len(test))
    space = plain(train) if features is None else features
    known = Features(name=space.name, apply=lambda vectors: vectors)
    ours, real, reference = (space(part) for part in (subset(samples, count, seed), subset(test, count, seed), train))
    return Report(
        rows=tuple(
            Row(measure=measure, floor=floor)
            for measure, floor in zip(
                _distances(ours, reference, known, seed), _distances(real, reference, known, seed)
            )
        ),
        memorization=compare_nearest(samples, test, train),
        agreement=None if classifier is None or labels is None else agreement(classifier, samples, labels),
        accuracy=classifier.accuracy if classifier is not None else None,
        drawn=len(samples),
    )


def subset(data: Num[Array, "n *data"], count: int, seed: int) -> Num[Array, "count *data"]:
    """`count` examples chosen at random in their order; all of them, untouched, if there are no more."""
    if count >= len(data):
        return data
    return data[np.sort(np.random.default_rng(seed).choice(len(data), count, replace=False))]


def _distances(vectors: np.ndarray, reference: np.ndarray, known: Features, seed: int) -> tuple[Measure, ...]:
    few, reference_few = subset(vectors, KERNEL_LIMIT, seed), subset(reference, KERNEL_LIMIT, seed)
    return (
        sliced_wasserstein(vectors, reference, features=known, seed=seed),
        mmd(few, reference_few, features=known),
        frechet(vectors, reference, features=known),
    )


def _lines(result: Report) -> list[tuple[str, ...]]:
    head = ("measure", "samples", "real test", "ratio", "n", "against", "features")
    return [head, *map(_distance_line, result.rows), *_nearest_lines(result.memorization), *_agreement_lines(result)]


def _distance_line(row: Row) -> tuple[str, ...]:
    sizes = (str(row.measure.n), str(row.measure.reference_n))
    return *_line(row.measure.name, row.measure.value, row.floor.value, row.ratio), *sizes, row.measure.features


def _nearest_lines(near: Memorization) -> list[tuple[str, ...]]:
    tail = (f"{near.n} | {near.test_n}", str(near.train_n), "raw values")
    mean_ratio = near.mean / near.test_mean if near.test_mean else None
    return [
        _line("nearest training, median", near.median, near.test_median, near.ratio) + tail,
        _line("nearest training, mean", near.mean, near.test_mean, mean_ratio) + tail,
    ]


def _agreement_lines(result: Report) -> list[tuple[str, ...]]:
    judged, held_out = result.agreement, result.accuracy
    if judged is None or held_out is None:
        return []
    tail = (f"{judged.n} | {held_out.n}", str(judged.reference_n), judged.features)
    return [_line("class agreement", judged.value, held_out.value, None) + tail]


def _line(name: str, value: float, floor: float, ratio: float | None) -> tuple[str, ...]:
    return name, f"{value:.4g}", f"{floor:.4g}", "-" if ratio is None else f"{ratio:.3f}"


def _footnote(result: Report) -> str:
    """What the two columns are, and the settings that change the numbers."""
    near = result.memorization
    settings = [f"{key} {value}" for row in result.rows for key, value in row.measure.settings.items()]
    return (
        f"real test: the same measure of real test examples at the same n (the floor); {result.drawn} samples drawn\n"
        f"near copies: {near.near_share:.1%} of samples are nearer than the nearest {TAIL:.0%} of the test split\n"
        f"settings: {', '.join(settings)}"
    )


def _aligned(lines: list[tuple[str, ...]]) -> str:
    """Text left, numbers right, two blanks between columns."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    left = {0, len(widths) - 1}
    cells = [[c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))] for line in lines]
    return "\n".join("  ".join(row).rstrip() for row in cells)
