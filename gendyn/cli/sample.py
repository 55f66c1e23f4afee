"""gendyn sample: pictures and arrays from a run."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro
from etils import epath

from gendyn.cli.common import Drawing, draw, open_model, parse
from gendyn.cli.train import PICTURES, save_picture
from gendyn.files import write_json, write_npz


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Drawing):
    """Draw samples: a picture, an npz with the arrays, and a JSON file that says how they were made."""

    num: int = 100
    """How many."""
    class_: Annotated[int | None, tyro.conf.arg(name="class")] = None
    """One class throughout; by default all classes in turn."""
    out: str | None = None
    """Where to write; in RUN/samples, under a name made of these options, by default."""


def run(argv: list[str]) -> int:
    options: Sample = parse(Sample, argv, prog="gendyn sample", description=Sample.__doc__ or "")
    drawn = draw(options, open_model(options), options.num, options.class_)
    how = drawn.how
    asked = {"class": options.class_, "diffusion": options.diffusion, "ema": options.ema, "step": options.step}
    asked |= {"direction": options.direction, "margin": options.margin}
    name = f"{how['sampler']}_nfe{how['nfe']}_guidance{how['guidance']:g}_seed{how['seed']}"
    name += "".join(f"_{k}{v}" for k, v in asked.items() if v is not None)
    folder = epath.Path(options.out or epath.Path(options.run) / "samples" / name)
    decoded = drawn.model.decode(drawn.x)
    save_picture(str(folder / "samples.png"), decoded[:PICTURES] if decoded.ndim == 4 else decoded)
    write_npz(folder / "samples.npz", samples=decoded, **({} if drawn.labels is None else {"label": drawn.labels}))
    write_json(folder / "samples.json", how | {"run": options.run})
    print(f"{folder}: {drawn}")
    return 0
