"""Run directories: self-describing, and loadable anywhere without the training data.

RUN/experiment.py     the experiment file as it was
RUN/config.json       the resolved config, versions, mesh, command
RUN/metrics.jsonl     one row per log interval;  tensorboard/ the same
RUN/checkpoints/      last and kept steps;       ema/ snapshots for post-hoc averages
RUN/samples/          pictures made while training
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import platform
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath

from gendyn import distributed
from gendyn.files import read_json, write_atomic, write_json
from gendyn.training import ema as averages
from gendyn.training.checkpoint import Checkpoints, first_line
from gendyn.training.experiment import Experiment
from gendyn.training.rounds import Round
from gendyn.training.step import abstract_state

PACKAGES = ("gendyn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def load_config_class(path: epath.PathLike) -> type:
    """The `Config` of an experiment file. This executes the file: run only files you trust."""
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"experiment file {path} does not exist.")
    name = f"gendyn_experiment_{path.parent.name}_{path.stem}".replace("-", "_").replace(".", "_")
    spec = importlib.util.spec_from_file_location(name, str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config) and hasattr(config, "experiment")):
        raise ValueError(f"{path} must define a frozen dataclass Config with a method experiment(self) -> Experiment.")
    return config


def describe(config: Any, mesh: Any = None, round: Round | None = None) -> dict[str, Any]:
    """What is written to config.json: resolved fields, versions, platform, devices, command."""
    return {
        "config": _plain(dataclasses.asdict(config)),
        **({} if round is None else {"round": _plain(dataclasses.asdict(round))}),
        "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "mesh": dict(mesh.shape) if mesh is not None else None,
        "command": " ".join(sys.argv),
    }


def _plain(value: Any) -> Any:
    """As JSON would return it, so that saved and fresh configs compare."""
    return json.loads(json.dumps(value, default=repr))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Fields in which two resolved configs differ, as `name: old -> new`."""
    absent = object()
    lines = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name, absent), new.get(name, absent)
        if a != b:
            shown = ("(absent)" if v is absent else repr(v) for v in (a, b))
            lines.append(f"  {name}: {' -> '.join(shown)}")
    return lines


def _asked(described: dict[str, Any]) -> dict[str, Any]:
    """What makes one run differ from another: its config and, in a round of reflow, what the round changes."""
    return described["config"] | {f"round.{k}": v for k, v in described.get("round", {}).items()}


def open_run(
    folder: epath.PathLike,
    config: Any,
    source_file: epath.PathLike,
    mesh: Any,
    *,
    override: bool,
    round: Round | None = None,
) -> dict[str, Any]:
    """Create a run directory, or check that an existing one is of the same config; returns its description.

    `round` is what a round of reflow changes in the config's experiment; an ordinary run has none.

    Raises:
        ValueError: the directory holds a run of another config (the difference is listed) and `override` is not given,
            or it holds files that are not a run.
    """
    folder = epath.Path(folder)
    described = describe(config, mesh, round)
    check = partial(_check_folder, folder, described, override)
    if distributed.first("open the run directory", check):
        _check_continues(folder, config.experiment())  # in every process, and before anything is overwritten
    distributed.first("write the run directory", partial(_write_run, folder, described, source_file))
    return described


def _check_folder(folder: epath.Path, described: dict[str, Any], override: bool) -> bool:
    """Whether there is a run to continue; refuse a folder of something else."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; name a directory.")
    if (folder / "config.json").exists():
        changed = differences(_asked(stored_config(folder)), _asked(described))
        if changed and not override:
            listing = "\n".join(changed)
            raise ValueError(
                f"{folder} holds a run of another config:\n{listing}\n"
                "Pass --override to continue it with the new values, or choose another --out."
            )
        return True
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no run (no config.json); choose another --out.")
    return False


def _write_run(folder: epath.Path, described: dict[str, Any], source_file: epath.PathLike) -> None:
    copy, source = folder / "experiment.py", epath.Path(source_file).read_text()
    if copy.exists() and copy.read_text() != source:
        warnings.warn(f"the experiment file has changed since {folder} began; its copy there is replaced", stacklevel=2)
    write_json(folder / "config.json", described)
    write_atomic(copy, source)


def _check_continues(folder: epath.Path, experiment: Experiment) -> None:
    if (folder / "checkpoints").exists():
        stored = Checkpoints(folder / "checkpoints", read_only=True)
        stored.check(abstract_state(experiment), experiment.ema)
        for step in stored.steps()[-1:]:
            stored.check_table(step, experiment.network.table)


def stored_config(folder: epath.PathLike) -> dict[str, Any]:
    """The content of a run's config.json."""
    path = epath.Path(folder) / "config.json"
    described = read_json(path)
    if not (isinstance(described, dict) and isinstance(described.get("config"), dict)):
        raise ValueError(f"{path} has no entry 'config' with a run's values; restore it or choose another directory.")
    return described


def read_config(folder: epath.PathLike) -> Any:
    """The config object of a run directory, from its own experiment file and resolved values."""
    folder = epath.Path(folder)
    if not (folder / "config.json").exists():
        found = "does not exist" if not folder.exists() else "has no config.json"
        raise FileNotFoundError(f"{folder} is not a run directory: it {found}; a run is made by `gendyn train`.")
    values = stored_config(folder)["config"]
    cls = load_config_class(folder / "experiment.py")
    fields = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(values.keys() - fields)
    if unknown:
        raise ValueError(f"{folder}/config.json has fields its experiment.py does not know: {', '.join(unknown)}.")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def read_experiment(folder: epath.PathLike, config: Any = None) -> Experiment:
    """The experiment of a run directory: what its config makes, as changed by its round of reflow if it is one."""
    config, round = read_config(folder) if config is None else config, stored_config(folder).get("round")
    return config.experiment() if round is None else Round(**round)(config.experiment())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model, ready to sample.

    Attributes:
        process: its path. denoiser: D(x, t, cond) with the chosen weights. shape: of one example.
        decode: states to what is written (uint8 images). config: the run's config object; experiment: what it makes
            (a round of reflow: what it trained).
        num_classes: classes of a conditional model, else None; the null class is that number.
        null: the condition that stands for none, for `gd.control.cfg`: that number, or a mapping if there are others.
        step: of the checkpoint. weights: which weights were chosen, in words.
    """

    process: Any
    denoiser: Any
    shape: tuple[int, ...]
    decode: Callable[[Any], np.ndarray]
    config: Any
    experiment: Experiment
    num_classes: int | None
    null: Any
    step: int
    weights: str


def load(run_dir: epath.PathLike, ema: float | None = None, step: int | None = None) -> Model:
    """Load a run's model: any device count, no training data, no optimiser.

    Args:
        run_dir: a directory made by `gendyn train`, local or gs://. Its experiment.py is executed.
        ema: relative width of the averaged weights. None: the run's first tracked profile. 0: the raw parameters.
            A tracked width is read; any other is reconstructed from the run's snapshots (EDM2's post-hoc EMA).
        step: of the checkpoint; the newest by default.

    Raises:
        FileNotFoundError: not a run, or no checkpoint yet.
        ValueError: a step or width that cannot be had, with those that can.

    Example:
        m = gd.load("runs/digits")
        x = gd.samplers.run(gd.plan("heun", m.process, nfe=19), m.denoiser, m.process.sample_prior(key, (16, *m.shape)))
    """
    folder = epath.Path(run_dir)
    config = read_config(folder)
    experiment = read_experiment(folder, config)
    if not (folder / "checkpoints").exists():
        raise FileNotFoundError(f"{folder} has no checkpoint yet; train it first.")
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    steps = checkpoints.steps()
    if not steps:
        raise FileNotFoundError(f"{folder} has no checkpoint yet; train it first.")
    if step is not None and step not in steps:
        raise ValueError(f"{folder} has no checkpoint at step {step}; it has {', '.join(map(str, steps))}.")
    params, step, weights = _weights(folder, experiment, checkpoints, ema, steps, step)
    checkpoints.check_table(step, experiment.network.table)
    params = jax.device_put(jax.device_get(params))  # committed to no device: the weights follow the batch
    return Model(
        process=experiment.process,
        denoiser=experiment.objective.denoiser(experiment.network.apply, params),
        shape=tuple(experiment.shape),
        decode=experiment.decode,
        config=config,
        experiment=experiment,
        num_classes=experiment.num_classes,
        null=experiment.null,
        step=step,
        weights=weights,
    )


def _weights(
    folder: epath.Path,
    experiment: Experiment,
    checkpoints: Checkpoints,
    width: float | None,
    steps: list[int],
    step: int | None,
) -> tuple[Any, int, str]:
    abstract = jax.eval_shape(experiment.network.init, jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    tracked = {
        f"{std:g}": jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, np.float32), abstract)
        for std in experiment.ema
    }
    if width is None:
        width = experiment.ema[0] if experiment.ema else 0.0
    if width == 0:
        found, params = _newest(checkpoints, steps, step, lambda s: checkpoints.item(s, "params", abstract, device))
        return params, found, "raw parameters"
    averages.exponent(width)
    if not tracked:
        raise ValueError(f"{folder} tracks no averages (its experiment has ema=()); use 0, the raw parameters.")
    found, own = _newest(checkpoints, steps, step, lambda s: checkpoints.item(s, "ema", tracked, device))
    if f"{width:g}" in tracked:
        return own[f"{width:g}"], found, f"EMA of relative width {width:g}"
    return _reconstruct(folder, own, tracked, width, found), found, f"post-hoc EMA of relative width {width:g}"


def _newest(
    checkpoints: Checkpoints, steps: list[int], step: int | None, read: Callable[[int], Any]
) -> tuple[int, Any]:
    """The asked step, or the newest that can be read (an unreadable one is passed over with a warning)."""
    for candidate in [step] if step is not None else list(reversed(steps)):
        try:
            return candidate, read(candidate)
        except Exception as error:
            where = f"checkpoint {candidate} in {checkpoints.folder}"
            warnings.warn(f"{where} cannot be read: {first_line(error)}", stacklevel=2)
    raise ValueError(f"no readable checkpoint in {checkpoints.folder}; tried {steps if step is None else [step]}.")


def _reconstruct(folder: epath.Path, own: dict[str, Any], tracked: dict[str, Any], width: float, step: int) -> Any:
    """Least-squares combination of the checkpoint's own averages and of every snapshot before it.

    Its own matter most: with snapshots alone, the last 5% of a run missing, the profile was off by 98% (0.6% with
    them).
    """
    stored = _snapshots(folder / "ema", tracked, before=step)
    if not stored:
        raise ValueError(
            f"{folder} has no snapshots to build an EMA of width {width:g} from (set snapshot_every in the "
            f"experiment); tracked widths: {', '.join(tracked)}."
        )
    stored[step] = own
    times, widths, trees = zip(*((s, float(std), tree) for s, item in stored.items() for std, tree in item.items()))
    return averages.mix(trees, averages.combination(times, widths, step, width))


def _snapshots(folder: epath.Path, tracked: dict[str, Any], before: int) -> dict[int, dict[str, Any]]:
    """Step -> the averages stored then; what cannot be read is passed over with a warning."""
    if not folder.exists():
        return {}
    store, found = Checkpoints(folder, read_only=True), {}
    for step in [s for s in store.steps() if s < before]:
        try:
            found[step] = store.item(step, "ema", tracked)
        except Exception as error:  # orbax raises many kinds for files cut short
            warnings.warn(f"snapshot {step} in {folder} is passed over: {first_line(error)}", stacklevel=2)
    return found
