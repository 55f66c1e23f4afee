"""Run directories from checkpoints of others, and back to their names."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gendyn.files import write_atomic, write_json
from gendyn.importing import dit, dit_experiment, edm
from gendyn.importing import experiment as edm_experiment
from gendyn.importing.arrays import write_safetensors
from gendyn.importing.limits import Refused
from gendyn.importing.reading import Checkpoint
from gendyn.networks.published import Published
from gendyn.predictions import IDDPMPreconditioner
from gendyn.training import Checkpoints, TrainState, load
from gendyn.training.runs import describe


def adopt(checkpoint: Checkpoint, folder: epath.PathLike, *, wrapper: str | None = None, **changes: Any) -> Any:
    """Write a run directory that holds this network.

    Args:
        checkpoint: what `read` returned.
        folder: a new or empty directory.
        wrapper: "edm", "vp", "ve" or "iddpm", "dit" or "sit", where the file does not say.
        changes: fields of the config that are to be others than the file's, for example sigma_max.

    Returns:
        The run's config.

    Raises:
        Refused: the network is of no known kind, or its tensors are not those of its options.
        ValueError: the folder is not empty.
    """
    folder = epath.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty directory; choose another --out.")
    is_dit = dit.recognised(checkpoint.tensors)
    template: Any = dit_experiment if is_dit else edm_experiment
    fields, tensors = (dit if is_dit else edm).settings(checkpoint, wrapper)
    origin = {"file": checkpoint.name, "sha256": checkpoint.sha256, "entry": checkpoint.key}
    known = {field.name for field in dataclasses.fields(template.Config)}
    if unknown := sorted(set(changes) - known):
        raise ValueError(f"a run of this network has no {unknown[0]} to change; leave it out.")
    config = template.Config(**{**fields, **origin, **changes})
    try:
        network = config.experiment().network
        params = Published.of(network).adopt(tensors)
    except ValueError as error:
        raise Refused(str(error)) from None
    if bad := next((name for name, value in tensors.items() if not np.isfinite(np.float32(value)).all()), None):
        raise Refused(f"the tensor {bad} holds NaN or infinity.")
    state = TrainState(
        params=jax.tree.map(jnp.asarray, params), opt_state=(), ema=(), step=jnp.int32(0), key=jnp.int32(0)
    )
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=None)
    checkpoints.save(state, (), {"imported": origin}, only=("params",))
    checkpoints.close()
    write_atomic(folder / "experiment.py", pathlib.Path(template.__file__).read_text())
    write_json(folder / "config.json", describe(config))
    return config


def export(run_dir: epath.PathLike, path: str | pathlib.Path, *, ema: float | None = None) -> dict[str, np.ndarray]:
    """Write a run's `EDMUNet` or `DiT` as safetensors, under the names and in the layouts of the published checkpoints.

    An imported run comes back bit for bit. The architecture goes into the header, so that `read` finds it.

    Returns:
        What was written, by name.

    Raises:
        ValueError: the run's network is of another family.
    """
    model = load(run_dir, ema=ema)
    names = Published.of(model.experiment.network)
    released = names.release(jax.device_get(model.denoiser.params))
    is_dit = dit.recognised(released)
    tensors = dict(released) if is_dit else {f"model.{name}": value for name, value in released.items()}
    precondition = model.denoiser.precondition
    if isinstance(precondition, IDDPMPreconditioner):
        tensors["u"] = precondition.levels.astype(np.float32)
    options = (dit if is_dit else edm).published_options
    described = options(vars(model.config)) if hasattr(model.config, "wrapper") else {}
    write_safetensors(pathlib.Path(path), tensors, described)
    return tensors
