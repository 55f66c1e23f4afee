"""Where do the best hyperparameters lie at every size, under a rule and under its control?

Run:      make experiment-transfer_mlp (and so on; see RUNS), then python -m benchmarks.transfer --runs runs
Takes:    the sweeps take minutes to an hour each, and resume; this reads their tables.
Writes:   benchmarks/results/transfer.json, docs/explanation/transfer.md and docs/images/transfer_*.png.

Every sweep that is there is reported, whatever it says; grids and seeds were fixed before looking.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import textwrap
from typing import Any

import numpy as np
import tyro

import gendyn as gd
from benchmarks import common
from gendyn.parametrization import Transfer
from gendyn.tables import read_table

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGE = DOCS / "explanation" / "transfer.md"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A folder of `gendyn transfer`, and what it is called."""

    folder: str
    title: str


SWEEPS = (
    Sweep("transfer_mlp", "Perceptron by width, muP"),
    Sweep("transfer_mlp_sp", "Perceptron by width, the standard parametrisation (control)"),
    Sweep("transfer_dit_mnist", "Transformer on MNIST by width, muP"),
    Sweep("transfer_dit_mnist_sp", "Transformer on MNIST by width, the standard parametrisation (control)"),
    Sweep("transfer_depth", "Residual perceptron by depth, CompleteP"),
    Sweep("transfer_depth_none", "Residual perceptron by depth, no rule (control)"),
    Sweep("weight_decay_independent", "Weight decay of a perceptron by width, independent"),
    Sweep("weight_decay_naive", "Weight decay of a perceptron by width, naive"),
    Sweep("weight_decay_robust", "Weight decay of a perceptron by width, robust"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    runs: str = "runs"
    """Folder of the sweeps' folders."""


def read(folder: pathlib.Path) -> tuple[Transfer, dict[str, Any]]:
    """A finished sweep and its summary."""
    summary = json.loads((folder / "transfer.json").read_text())
    names = tuple(summary["winner"])
    return Transfer(tuple(read_table(folder / "transfer")), summary["along"], names, summary["base"]), summary


def curves(found: Transfer, name: str) -> dict[str, Any]:
    """Size -> value -> score pooled over seeds; not finite where a run diverged."""
    every = {}
    for size in found.sizes:
        values, scores = found.curve(name, size)
        every[str(size)] = {f"{v:g}": float(2.0**s) if np.isfinite(s) else "diverged" for v, s in zip(values, scores)}
    return every


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 130, break_long_words=False, break_on_hyphens=False)


def section(sweep: Sweep, found: Transfer, summary: dict[str, Any]) -> list[str]:
    """A table of the sizes, the verdict, and the figure."""
    [name] = found.names
    config, seeds, rows = summary["config"], len(found.seeds), len(found.rows)
    lines = [f"## {sweep.title}", ""]
    text = (
        f"`{summary['command']}`: {rows} runs, {seeds} seeds, {config.get('steps', '?')} steps, batch "
        f"{config.get('batch_size', '?')}. Tuned at {found.along} {found.base}: {name} {summary['winner'][name]:.4g}."
    )
    lines += [
        *wrapped(text),
        "",
        f"| {found.along} | best {name} | its score | score of the tuned | regret | seeds differ by |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size in found.sizes:
        best, regret = found.optimum(name, size), found.regret(size)
        edge = " (edge)" if best.edge else ""
        lines.append(
            f"| {size} | {best.fit:.3g}{edge} | {best.score:.4g} | {found.transferred[size]:.4g} "
            f"| {100 * regret.value:.1f} +- {100 * regret.error:.1f} % | {100 * found.noise(size):.1f} % |"
        )
    falls = "falls" if found.wider_is_better else "does not fall"
    lines += [
        "",
        f"Shift of the best {name}: **{found.shift(name)}** octaves per doubling of {found.along}.",
        f"With the tuned value the score {falls} with every step of {found.along}.",
        "",
        f"![Score against {name}, a line for each {found.along}](../images/{sweep.folder}.png)",
        "",
    ]
    return lines


def main(settings: Settings) -> None:
    results, lines = {}, []
    for sweep in SWEEPS:
        folder = pathlib.Path(settings.runs) / sweep.folder
        if not (folder / "transfer.json").exists():
            print(f"{folder} has no finished sweep; left out")
            continue
        found, summary = read(folder)
        [name] = found.names
        results[sweep.folder] = summary | {"curves": curves(found, name), "seeds": found.seeds}
        lines += section(sweep, found, summary)
        figure = gd.plots.transfer(found.rows, along=found.along, value=name)
        gd.plots.save_figure(str(DOCS / "images" / f"{sweep.folder}.png"), figure)
    common.record("transfer", results, dataclasses.asdict(settings))
    text = (
        f"Made by `{common.command()}` from the tables of the commands below; every number is in "
        "`benchmarks/results/transfer.json`. Scores are pooled over seeds by geometric means, and errors are standard "
        "errors over seeds. The best value is the vertex of a parabola in the logarithms through the best of the grid "
        "and its neighbours; *edge* is where there is none. Regret is what the tuned value costs. Every sweep that was "
        "made is here."
    )
    head = ["# Transfer, measured", "", *wrapped(text), ""]
    PAGE.write_text("\n".join([*head, *lines]))


if __name__ == "__main__":
    main(tyro.cli(Settings))
