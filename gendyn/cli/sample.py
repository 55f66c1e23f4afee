"""gendyn sample: pictures and arrays from a run."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np
import tyro
from etils import epath

from gendyn.cli.common import Drawing, Out, parse, prepare, progress
from gendyn.cli.train import PICTURES, save_picture
from gendyn.files import write_json, write_npz
from gendyn.training import class_labels, sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Drawing):
    """Draw samples: a picture, an npz with arrays, and a JSON file that says how they were made."""

    num: int = 100
    """How many."""
    class_: Annotated[int | None, tyro.conf.arg(name="class")] = None
    """One class throughout; by default all classes in turn."""
    out: Out = None


def run(argv: list[str]) -> int:
    options: Sample = parse(Sample, argv, prog="gendyn sample", description=Sample.__doc__ or "")
    if options.num < 1:
        raise ValueError(f"--num must be at least 1; got {options.num}.")
    model, denoiser, plan, sampling = prepare(options)
    labels = class_labels(options.num, model.num_classes, options.class_)
    with progress("sampling", options.num) as report:
        x = sample(
            denoiser, plan, model.shape, num=options.num, labels=labels, seed=options.seed, batch_size=options.batch, report=report
        )
    if not np.isfinite(x).all():
        raise ValueError("some samples are not finite; use more network calls, another sampler, or look at the training loss.")
    name = f"{sampling.sampler}_nfe{plan.nfe}_guidance{sampling.guidance:g}_seed{options.seed}"
    folder = epath.Path(options.out or epath.Path(options.run) / "samples" / name)
    decoded = model.decode(x)
    save_picture(str(folder / "samples.png"), decoded[:PICTURES] if decoded.ndim == 4 else decoded)
    write_npz(folder / "samples.npz", samples=decoded, **({} if labels is None else {"label": labels}))
    how = dataclasses.asdict(sampling) | {"nfe": plan.nfe, "seed": options.seed, "step": model.step, "weights": model.weights}
    write_json(folder / "samples.json", how | {"num": options.num, "run": options.run})
    print(f"{folder}: {options.num} samples, {sampling.sampler}, {plan.nfe} network calls each, step {model.step}, {model.weights}")
    return 0
