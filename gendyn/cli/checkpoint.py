"""gendyn checkpoint: list, verify, prune and convert what a run has saved."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import tyro
from etils import epath

from gendyn.cli.common import first_positional, parse
from gendyn.files import write_npz
from gendyn.importing.arrays import write_safetensors
from gendyn.training import Checkpoints, load, read_experiment
from gendyn.tree import paths

MIB = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ls:
    """List a run's checkpoints and snapshots: step, time, size."""

    run: tyro.conf.Positional[str]
    """Run directory, local or gs://."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify:
    """Read every array of a run's checkpoints and snapshots; exit status 1 if one is damaged or not finite."""

    run: tyro.conf.Positional[str]
    """Run directory, local or gs://."""
    step: int | None = None
    """Only this one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prune:
    """Delete old checkpoints, and those that were set aside as unreadable. The newest that can be read always stays."""

    run: tyro.conf.Positional[str]
    """Run directory, local or gs://."""
    keep: int = 1
    """How many of the newest to keep."""
    keep_every: int | None = None
    """Keep every so many steps too."""
    snapshots: bool = False
    """Delete the snapshots of averages too, with which no other EMA can be reconstructed any more."""
    dry_run: bool = False
    """Say what would be deleted, and delete nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert:
    """Write the weights of one checkpoint as one file, under the names that `gendyn info RUN --parameters` lists."""

    run: tyro.conf.Positional[str]
    """Run directory, local or gs://."""
    out: str
    """File to write: .safetensors, or .npz."""
    ema: float | None = None
    """Relative width of the averaged weights; 0 for the raw parameters; any width the run can reconstruct."""
    step: int | None = None
    """Checkpoint; the newest by default."""


def run(argv: list[str]) -> int:
    """Do what the verb says; exit status."""
    verbs: dict[str, tuple[type, Callable[..., int]]] = {
        "ls": (Ls, _list),
        "verify": (Verify, _verify),
        "prune": (Prune, _prune),
        "convert": (Convert, _convert),
    }
    name, rest = first_positional(argv, "checkpoint", f"one of {', '.join(verbs)}")
    if name is None:
        lines = "\n".join(f"  {verb:8} {options.__doc__}" for verb, (options, _) in verbs.items())
        print(
            f"usage: gendyn checkpoint VERB RUN [options]\n\n{lines}\n\n`gendyn checkpoint VERB --help` explains each."
        )
        return 0
    if name not in verbs:
        near = difflib.get_close_matches(name, verbs, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ValueError(f"gendyn checkpoint does {', '.join(verbs)}, not {name!r}{hint}")
    options, act = verbs[name]
    return act(parse(options, rest, prog=f"gendyn checkpoint {name}", description=options.__doc__ or ""))


def _stores(run_dir: str, *, read_only: bool = True) -> dict[str, Checkpoints]:
    """What a run keeps: its checkpoints, and its snapshots of averages if it has any."""
    read_experiment(run_dir)  # says what is wrong with a folder that is no run
    folder = epath.Path(run_dir)
    if not (folder / "checkpoints").exists():
        raise FileNotFoundError(f"{folder} has no checkpoint yet; train it first.")
    kept = {name: folder / name for name in ("checkpoints", "ema") if (folder / name).exists()}
    return {name: Checkpoints(path, keep_last=None, read_only=read_only) for name, path in kept.items()}


def _list(options: Ls) -> int:
    for name, store in _stores(options.run).items():
        steps = store.steps()
        print(f"{store.folder}: {len(steps)} {'snapshots of averages' if name == 'ema' else 'checkpoints'}")
        for step in steps:
            written = datetime.datetime.fromtimestamp((store.folder / str(step)).stat().mtime)
            print(f"  step {step:>9,}  {written:%Y-%m-%d %H:%M}  {store.size(step) / MIB:10.1f} MiB")
        for path in _set_aside(store):
            print(f"  set aside as unreadable: {path}")
    return 0


def _verify(options: Verify) -> int:
    damaged = found = 0
    for store in _stores(options.run).values():
        for step in store.steps():
            if options.step is not None and step != options.step:
                continue
            found += 1
            wrong = store.problems(step)
            damaged += bool(wrong)
            print(f"{store.folder / str(step)}: {'; '.join(wrong) if wrong else 'whole and finite'}")
    if not found:
        raise ValueError(
            f"{options.run} has no checkpoint{'' if options.step is None else f' at step {options.step}'}."
        )
    if damaged:
        raise ValueError(f"{damaged} of {found} are damaged; training continues from the newest whole one.")
    return 0


def _prune(options: Prune) -> int:
    if options.keep < 1 or (options.keep_every or 1) < 1:
        raise ValueError(f"--keep and --keep-every must be at least 1; got {options.keep} and {options.keep_every}.")
    freed, verb = 0, "would delete" if options.dry_run else "deleted"
    for name, store in _stores(options.run, read_only=options.dry_run).items():
        old = _old(store, options) if name == "checkpoints" else store.steps() if options.snapshots else []
        for step in old:
            size = store.size(step)
            if not options.dry_run:
                store.delete(step)
            freed += size
            print(f"{verb} {store.folder / str(step)} ({size / MIB:.1f} MiB)")
        for path in _set_aside(store):
            if not options.dry_run:
                path.rmtree()
            print(f"{verb} {path}")
        store.close()
    print(f"{freed / MIB:.1f} MiB {'would be freed' if options.dry_run else 'freed'} in {options.run}")
    return 0


def _old(store: Checkpoints, options: Prune) -> list[int]:
    """What is neither among the newest nor kept for good; the newest whole one is never in it."""
    steps = store.steps()
    whole = next((step for step in reversed(steps) if not store.problems(step)), None)
    kept = {*steps[-options.keep :], whole}
    if options.keep_every is not None:
        kept |= {step for step in steps if step % options.keep_every == 0}
    return [step for step in steps if step not in kept]


def _set_aside(store: Checkpoints) -> list[epath.Path]:
    folder = store.folder / "unreadable"
    return sorted(folder.iterdir()) if folder.exists() else []


def _convert(options: Convert) -> int:
    kind = pathlib.PurePath(options.out).suffix
    if kind not in (".safetensors", ".npz"):
        raise ValueError(f"--out must end in .safetensors or .npz; got {options.out!r}.")
    model = load(options.run, ema=options.ema, step=options.step)
    arrays = {name: np.asarray(leaf) for name, leaf in paths(jax.device_get(model.denoiser.params))}
    if kind == ".npz":
        write_npz(options.out, **arrays)
    else:
        write_safetensors(pathlib.Path(options.out), arrays, {"step": model.step, "weights": model.weights})
    size = sum(value.nbytes for value in arrays.values()) / MIB
    print(f"{options.out}: {len(arrays)} arrays, {size:.1f} MiB, step {model.step}, {model.weights}")
    return 0
