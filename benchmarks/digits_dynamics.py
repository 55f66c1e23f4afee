"""How do the dynamics compare on one small image set, each with its own objective and its own best plan?

Run:      python -m benchmarks.digits_dynamics --runs runs/dynamics
          with --only FOLDER ... the other entries of the results stay as they are; --only times times training anew.
Takes:    the training of the runs that are missing (some five minutes each on two idle cores), a minute each of
          measuring, and two minutes for the times, which want an idle machine.
Writes:   benchmarks/results/digits_dynamics.json, docs/explanation/dynamics.md and docs/images/dynamics.png.

Every dynamics trains the same network with the same optimiser for the same number of steps; consistency is its own
experiment. What was fixed before looking: the list of plans below. A dynamics' own plan is the one with the lowest
Frechet distance, over sampling seed 0, among those whose agreement is within 0.01 of the best; it is then measured on
seeds 1 to 3, and only those are reported.
"""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import tyro

import gendyn as gd
from benchmarks import common
from gendyn.data.loader import take
from gendyn.training import Sampling, guided, plan_for, sample

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGE, PICTURE = DOCS / "explanation" / "dynamics.md", DOCS / "images" / "dynamics.png"
SEEDS = (1, 2, 3)
NUM = 360
TIMED = 8
"""Steps between two looks at the clock."""

PLANS = tuple(
    Sampling(sampler=sampler, nfe=nfe, grid=grid, guidance=guidance)
    for sampler, nfe, grid in (
        ("dpmpp_2m", 10, "karras"),
        ("dpmpp_2m", 20, "karras"),
        ("dpmpp_2m", 20, "uniform_t"),
        ("unipc_3", 10, "uniform_lam"),
        ("heun", 19, "karras"),
        ("ddim", 20, "karras"),
    )
    for guidance in (1.0, 1.35)
)
JUMPS = tuple(Sampling(sampler="consistency", nfe=nfe) for nfe in (1, 2))
"""Consistency models are asked for at most two calls."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the table: a run, how it is trained, and the plans it chooses from."""

    name: str
    folder: str
    train: tuple[str, ...]
    plans: Sequence[Sampling] = PLANS


ENTRIES = (
    Entry("EDM", "edm", ("digits_dynamics", "--dynamics", "edm")),
    Entry("VP (cosine)", "vp", ("digits_dynamics", "--dynamics", "vp")),
    Entry("rectified flow", "rectified_flow", ("digits_dynamics", "--dynamics", "rectified_flow")),
    Entry("one-sided interpolant (trigonometric)", "one_sided", ("digits_dynamics", "--dynamics", "one_sided")),
    *(
        Entry(f"PFGM++, D = {D}", f"pfgmpp{D}", ("digits_dynamics", "--dynamics", "pfgmpp", "--D", str(D)))
        for D in (64, 128, 2048)
    ),
    *(
        Entry(f"consistency training, {words}", "consistency", ("consistency_digits",), (jump,))
        for words, jump in zip(("one call", "two calls"), JUMPS)
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    runs: str = "runs/dynamics"
    """Where the runs are, or go."""
    only: tuple[str, ...] = ()
    """Folders of the entries to measure, or "times"; all by default."""


@dataclasses.dataclass(frozen=True)
class Judge:
    """The real digits, and a classifier trained on them once."""

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    classifier: Any

    @classmethod
    def of_digits(cls) -> Judge:
        train, test = (take(s, np.arange(len(s))) for s in (gd.data.digits("train"), gd.data.digits("test")))
        known = gd.metrics.digits_classifier(train["data"], train["label"], test["data"], test["label"])
        return cls(train, test, known)

    def __call__(self, x: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        report = gd.metrics.report(x, labels, self.train["data"], self.test["data"], classifier=self.classifier)
        assert report.agreement is not None
        return {
            "agreement": report.agreement.value,
            "frechet": report["frechet"].measure.value,
            "frechet_floor": report["frechet"].floor.value,
            "nearest": report.memorization.median,
            "nearest_test": report.memorization.test_median,
        }


def draw(model: Any, sampling: Sampling, seed: int, num: int = NUM) -> tuple[np.ndarray, np.ndarray]:
    labels = gd.training.class_labels(num, model.num_classes)
    D = guided(model.denoiser, sampling.guidance, model.num_classes)
    x = sample(D, plan_for(model.process, sampling), model.shape, num=num, labels=labels, seed=seed)
    return x, labels


def picture(results: dict[str, Any], runs: pathlib.Path) -> None:
    """Thirty samples of each dynamics with its own plan, a row each."""
    rows = []
    for entry in ENTRIES:
        if entry.name in results:
            plan = Sampling(**results[entry.name]["plan"])
            rows.append(draw(gd.load(runs / entry.folder), plan, SEEDS[0], num=30)[0])
    gd.plots.save_png(str(PICTURE), gd.data.to_uint8(np.concatenate(rows)), columns=30, scale=2)


def measured(entry: Entry, folder: pathlib.Path, judge: Judge) -> dict[str, Any]:
    """The chosen plan and its measures over `SEEDS`."""
    model = gd.load(folder)
    trials = []
    for sampling in entry.plans:
        x, labels = draw(model, sampling, 0)
        trials.append((sampling, judge(x, labels)))
    best = max(found["agreement"] for _, found in trials)
    chosen, _ = min(
        (trial for trial in trials if trial[1]["agreement"] >= best - 0.01), key=lambda trial: trial[1]["frechet"]
    )
    drawn = [draw(model, chosen, seed) for seed in SEEDS]
    each = [judge(x, labels) for x, labels in drawn]
    return {
        "plan": {k: v for k, v in dataclasses.asdict(chosen).items() if k != "options"},
        "seeds": {str(seed): values for seed, values in zip(SEEDS, each)},
        "trials": [{**dataclasses.asdict(s), **found} for s, found in trials],
        "steps": model.step,
        "command": f"gendyn train {' '.join(entry.train)} --out {folder}",
    }


def training_seconds(runs: pathlib.Path) -> dict[str, float]:
    """Of each folder: its steps times the median time of one, all taking turns, compilation and pictures aside."""
    folders = list(dict.fromkeys(entry.folder for entry in ENTRIES))
    experiments = {folder: gd.training.read_experiment(runs / folder) for folder in folders}
    built = {folder: gd.training.build(experiment) for folder, experiment in experiments.items()}
    states = {folder: state for folder, (state, _, _) in built.items()}

    def some(folder: str) -> Any:
        _, step, batches = built[folder]
        for _ in range(TIMED):
            states[folder], metrics = step(states[folder], next(batches))
        return metrics

    seconds = common.interleaved({folder: partial(some, folder) for folder in folders}, repeats=7, warmup=1)
    return {f: float(np.median(each)) / TIMED * experiments[f].steps for f, each in seconds.items()}


def page(results: dict[str, Any]) -> str:
    """The documentation page."""
    seeds = ", ".join(map(str, SEEDS))
    text = (
        f"Made by `{common.command()}`; every number is in `benchmarks/results/digits_dynamics.json`, with the "
        "commands that trained the runs. One network (DiT, width 96, depth 4) and one optimiser for all of them; each "
        "dynamics has its own objective, and its own plan of at most 20 calls, chosen on sampling seed 0 from a list "
        f"fixed before looking. Entries are means over sampling seeds {seeds} of {NUM} samples each, with the least "
        "and the greatest; one training seed (0). Frechet (on pixels) and nearest-training distance stand beside those "
        "of as many real test images: 1 is the floor of the first, and the second well below 1 would mean copies. The "
        "classifier that judges agreement has 0.994 on real test images."
    )
    lines = [
        "# Dynamics on one small image set",
        "",
        *textwrap.wrap(text, 130, break_long_words=False, break_on_hyphens=False),
        "",
        "| dynamics | plan | calls | guidance | agreement | Frechet / floor | nearest / test's | training |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, found in results.items():
        each, plan = list(found["seeds"].values()), found["plan"]
        frechet = [row["frechet"] / row["frechet_floor"] for row in each]
        nearest = [row["nearest"] / row["nearest_test"] for row in each]
        lines.append(
            f"| {name} | `{plan['sampler']}`{', ' + plan['grid'] if plan['grid'] else ''} | {plan['nfe']} "
            f"| {plan['guidance']:g} | {spread([row['agreement'] for row in each])} "
            f"| {spread(frechet, 2)} | {spread(nearest, 2)} "
            f"| {found['training_seconds'] / 60:.1f} min |"
        )
    lines += [
        "",
        "![Samples of each dynamics, one row each, in the order of the table](../images/dynamics.png)",
        "",
        "Training time is steps times the median time of one, all dynamics taking turns on two CPU cores.",
    ]
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean, least and greatest."""
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main(settings: Settings) -> None:
    judge, runs = Judge.of_digits(), pathlib.Path(settings.runs)
    results = common.recorded("digits_dynamics") if settings.only else {}
    for entry in ENTRIES:
        folder = runs / entry.folder
        if settings.only and entry.folder not in settings.only:
            continue
        if not (folder / "config.json").exists():
            subprocess.run([sys.executable, "-m", "gendyn", "train", *entry.train, "--out", str(folder)], check=True)
        results[entry.name] = measured(entry, folder, judge)
        print(entry.name, results[entry.name]["plan"], results[entry.name]["seeds"], flush=True)
    if not settings.only or "times" in settings.only:
        seconds = training_seconds(runs)
        for entry in ENTRIES:
            results[entry.name]["training_seconds"] = seconds[entry.folder]
    results = {entry.name: results[entry.name] for entry in ENTRIES}
    print(common.record("digits_dynamics", results, dataclasses.asdict(settings)))
    PAGE.write_text(page(results))
    picture(results, runs)


if __name__ == "__main__":
    main(tyro.cli(Settings))
