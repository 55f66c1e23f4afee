"""gendyn sample: pictures and arrays from a run, few or many."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from etils import epath

from gendyn import distributed
from gendyn.cli.common import Drawing, Prepared, onward, open_model, parse, part_of, prepare, progress
from gendyn.cli.train import save_picture
from gendyn.data import SampleFiles
from gendyn.data.records import Layout
from gendyn.data.sample_files import Kind
from gendyn.files import write_json, write_npz


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(distributed.Cluster, Drawing):
    """Draw samples: a picture, an npz with the arrays, and a JSON file that says how they were made.

    More than --shard are written as files of so many, each whole or absent: the same command draws what is missing.
    Several processes, or independent jobs by --part, share the files out; sample i is the same whoever draws it.
    """

    num: int = 100
    """How many."""
    class_: Annotated[int | None, tyro.conf.arg(name="class")] = None
    """One class throughout; by default all classes in turn."""
    out: str | None = None
    """Where to write; in RUN/samples, under a name made of these options, by default."""
    shard: int = 5000
    """Samples per file, where there are more than that."""
    kind: Kind = "npz"
    """Files of many samples: arrays, zips of PNG images as EDM's tools read them, or a data set of records."""
    part: str | None = None
    """Draw only every n-th file from the i-th on: 0/8, 1/8 to 7/8 in eight jobs that know nothing of each other."""


def run(argv: list[str]) -> int:
    """Draw few samples or many; exit status."""
    options: Sample = parse(Sample, argv, prog="gendyn sample", description=Sample.__doc__ or "")
    if options.part is not None and options.coordinator is not None:
        raise ValueError("--part is for jobs that know nothing of each other; leave it out, or --coordinator.")
    part, parts = part_of(options.part)
    if options.shard < 1:
        raise ValueError(f"--shard must be at least 1; got {options.shard}.")
    if options.part is None:
        options.start()
        part, parts = jax.process_index(), jax.process_count()
    prepared = prepare(options, open_model(options), options.num, options.class_)
    folder = epath.Path(options.out or epath.Path(options.run) / "samples" / _name(options, prepared.how))
    if options.num <= options.shard and options.kind == "npz" and parts == 1:
        return _few(options, prepared, folder)
    return _many(options, prepared, folder, part, parts)


def _few(options: Sample, prepared: Prepared, folder: epath.Path) -> int:
    """One array and its picture."""
    drawn = prepared.draw(options.num)
    decoded = prepared.model.decode(drawn.x)
    save_picture(str(folder / "samples.png"), decoded)
    write_npz(folder / "samples.npz", samples=decoded, **({} if drawn.labels is None else {"label": drawn.labels}))
    write_json(folder / "samples.json", drawn.how | {"run": options.run})
    print(f"{folder}: {drawn}")
    return 0


def _many(options: Sample, prepared: Prepared, folder: epath.Path, part: int, parts: int) -> int:
    """This part's files, those that are not there yet."""
    model = prepared.model
    files = SampleFiles(folder=folder, num=options.num, each=options.shard, kind=options.kind, layout=_layout(prepared))
    how = prepared.how | {"run": options.run, "class": options.class_, "num_classes": model.num_classes}
    distributed.first("begin the samples", lambda: files.begin(how))
    mesh = distributed.data_mesh(jax.local_devices())  # processes need nothing of each other
    todo = files.missing(part, parts)
    total = sum(len(files.rows(index)) for index in todo)
    done = 0
    with progress(f"sampling {len(todo)} of {len(files)} files", total) as report:
        for index in todo:
            rows = files.rows(index)
            x, labels = prepared.rows(rows.start, len(rows), mesh=mesh, report=onward(report, done))
            decoded = model.decode(x)
            files.write(index, decoded, labels)
            if index == 0:
                save_picture(str(folder / "samples.png"), decoded)
            done += len(rows)
    distributed.together("sample", lambda: None, timeout=float("inf"))
    distributed.first("complete the samples", files.finish)
    if jax.process_index() == 0:
        left = len(files.missing())
        rest = f"; {left} files are other parts'" if left else ""
        made = f"{prepared.how['sampler']}, {prepared.how['nfe']} network calls each"
        print(f"{folder}: {len(files) - left} of {len(files)} files of {options.shard} samples, {made}{rest}.")
    return 0


def _layout(prepared: Prepared) -> Layout:
    """Of every sample, before one is drawn."""
    example = prepared.model.decode(np.zeros((1, *prepared.model.shape), np.float32))
    labelled = prepared.model.num_classes is not None
    return Layout(encoding="raw", shape=example.shape[1:], dtype=example.dtype.name, labelled=labelled)


def _name(options: Sample, how: dict[str, Any]) -> str:
    """A folder name made of what was chosen."""
    asked = {"class": options.class_, "diffusion": options.diffusion, "ema": options.ema, "step": options.step}
    asked |= {"direction": options.direction, "margin": options.margin}
    name = f"{how['sampler']}_nfe{how['nfe']}_guidance{how['guidance']:g}_seed{how['seed']}"
    return name + "".join(f"_{k}{v}" for k, v in asked.items() if v is not None)
