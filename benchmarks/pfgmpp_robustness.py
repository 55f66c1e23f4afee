"""Which D of PFGM++ forgives more: errors injected into every step, few steps, coarse weights?

Run:      python -m benchmarks.pfgmpp_robustness --runs runs/pfgmpp
Takes:    the training of the runs that are missing (`experiments/pfgmpp_digits.py`, one per D), and some ten minutes.
Writes:   benchmarks/results/pfgmpp_robustness.json and docs/explanation/pfgmpp_robustness.md.

The three tests of Xu et al. 2023 (arXiv 2302.04265), at the size of 8x8 digits. Fixed before looking: `dpmpp_2m` on
Karras' grid without guidance, 20 calls unless the calls are what is varied; the levels below; `SEEDS`.

  * error: after every step but the last, x <- x + a sigma z with z standard normal and sigma of the node arrived at;
  * steps: fewer calls;
  * bits: every weight rounded to one of 2^bits - 1 levels, symmetric, one scale per array.
"""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import gendyn as gd
from benchmarks import common
from benchmarks.digits_dynamics import Judge
from gendyn.samplers import SamplerPlan

DIMENSIONS = ("64", "128", "2048", "inf")
SEEDS = (1, 2, 3)
NUM = 360
CALLS = 20
PAGE = pathlib.Path(__file__).parent.parent / "docs" / "explanation" / "pfgmpp_robustness.md"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    runs: str = "runs/pfgmpp"
    """Where the runs are, or go: one folder for each D."""


def injected(plan: SamplerPlan, size: float) -> SamplerPlan:
    """The plan of a one-stage solver with an error added to every state it arrives at: size x sigma x normal."""
    sigma = plan.process.sigma(plan.t)
    plan = plan.pad(draws=1)
    sn = np.array(plan.sn)
    sn[:-1, 0] = size * sigma[1:]
    return dataclasses.replace(plan, sn=sn)


def quantised(params: Any, bits: int) -> Any:
    """Every array rounded to 2^bits - 1 equally spaced values between its plus and minus largest."""
    steps = 2 ** (bits - 1) - 1

    def rounded(array: jax.Array) -> jax.Array:
        scale = jnp.maximum(jnp.abs(array).max(), jnp.finfo(array.dtype).tiny) / steps
        return jnp.round(array / scale) * scale

    return jax.tree.map(rounded, params)


TESTS: dict[str, tuple[tuple[float, ...], Callable[[SamplerPlan, Any, float], tuple[SamplerPlan, Any]]]] = {
    "error": ((0.0, 0.05, 0.1, 0.2, 0.4), lambda plan, D, size: (injected(plan, size), D)),
    "steps": (
        (20, 10, 7, 5, 4),
        lambda plan, D, calls: (gd.plan(plan.name, plan.process, int(calls), "karras"), D),
    ),
    "bits": (
        (32, 8, 6, 5, 4),
        lambda plan, D, bits: (plan, dataclasses.replace(D, params=quantised(D.params, int(bits))) if bits < 32 else D),
    ),
}
"""Name -> its levels, the first of which changes nothing, and (plan, denoiser, level) -> what is sampled with."""


def measured(folder: pathlib.Path, judge: Judge) -> Iterator[dict[str, Any]]:
    """One row per test, level and sampling seed."""
    model = gd.load(folder)
    plan = gd.plan("dpmpp_2m", model.process, CALLS, "karras")
    labels = gd.training.class_labels(NUM, model.num_classes)
    for test, (levels, changed) in TESTS.items():
        for level in levels:
            used, D = changed(plan, model.denoiser, level)
            for seed in SEEDS:
                x = gd.training.sample(D, used, model.shape, num=NUM, labels=labels, seed=seed)
                yield {"test": test, "level": level, "seed": seed, **judge(x, labels)}


def table(test: str, results: dict[str, Any]) -> list[str]:
    """Frechet distance over its floor, and class agreement, mean over seeds; a row per D, a column per level."""
    levels = TESTS[test][0]
    lines = [f"| D | {' | '.join(f'{test} {level:g}' for level in levels)} |", "| --- |" + " --- |" * len(levels)]
    for D, rows in results.items():
        cells = []
        for level in levels:
            found = [row for row in rows if (row["test"], row["level"]) == (test, level)]
            ratio = np.mean([row["frechet"] / row["frechet_floor"] for row in found])
            cells.append(f"{ratio:.2f}, {np.mean([row['agreement'] for row in found]):.3f}")
        lines.append(f"| {D} | {' | '.join(cells)} |")
    return [*lines, ""]


def page(results: dict[str, Any]) -> str:
    """The documentation page."""
    text = (
        f"Made by `{common.command()}`; every number is in `benchmarks/results/pfgmpp_robustness.json`. One training "
        f"seed per D, {NUM} samples for each of the sampling seeds {', '.join(map(str, SEEDS))}, whose means are "
        "shown: Frechet distance on pixels over that of as many real test images, then agreement with the requested "
        f"class. Sampler `dpmpp_2m` without guidance, {CALLS} calls except where their number is the test. *error*: "
        "after each step an independent normal of standard deviation error x sigma is added to the state. *bits*: "
        "every weight is rounded to 2^bits - 1 levels. D = inf is EDM."
    )
    head = ["# Robustness of PFGM++ by D", "", *textwrap.wrap(text, 130, break_on_hyphens=False), ""]
    return "\n".join(head + [line for test in TESTS for line in table(test, results)]).rstrip() + "\n"


def main(settings: Settings) -> None:
    judge, results = Judge.of_digits(), {}
    for D in DIMENSIONS:
        folder = pathlib.Path(settings.runs) / D
        command = ["train", "pfgmpp_digits", "--D", D, "--out", str(folder)]
        if not (folder / "config.json").exists():
            subprocess.run([sys.executable, "-m", "gendyn", *command], check=True)
        results[D] = list(measured(folder, judge))
        print(D, results[D], flush=True)
    print(common.record("pfgmpp_robustness", results, dataclasses.asdict(settings)))
    PAGE.write_text(page(results))


if __name__ == "__main__":
    main(tyro.cli(Settings))
