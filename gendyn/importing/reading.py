"""From a file to named tensors, and what the file says about the network they belong to."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from gendyn.importing.arrays import parsed, read_npz, read_safetensors
from gendyn.importing.limits import Limits, Refused
from gendyn.importing.tensors import Tensor
from gendyn.importing.torch_files import opened, read_pickle, read_stream, read_zip
from gendyn.importing.values import Inert

KEYS = ("ema", "state_dict", "model", "net")
"""Where a checkpoint that is a dict keeps its network; the first that is there."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Named tensors, and what is known of their network.

    Attributes:
        tensors: name -> array, names as published.
        wrapper: class of the preconditioner, if the file says.
        options: what the network was constructed with, if the file says.
        key: which entry of the file they come from.
        name, sha256: of the file.
    """

    tensors: dict[str, np.ndarray]
    wrapper: str | None = None
    options: dict[str, Any] | None = None
    key: str | None = None
    name: str
    sha256: str


def read(
    path: str | pathlib.Path,
    *,
    key: str | None = None,
    config: str | pathlib.Path | None = None,
    limits: Limits | None = None,
) -> Checkpoint:
    """Read a public checkpoint without executing anything in it.

    Args:
        path: a .pkl or .pt of EDM or PFGM++, a PyTorch state dict, safetensors, or npz.
        key: which entry, where a file holds several copies; "ema" before others by default.
        config: JSON with {"precond": .., "kwargs": {..}}; a file of the same name ending in .json is found by itself.
        limits: what it may cost; `Limits()` by default.

    Raises:
        Refused: in one sentence, whatever is wrong with the file.
        FileNotFoundError: if it is not there.
    """
    path, limits = pathlib.Path(path), limits or Limits()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file.")
    beside = pathlib.Path(config) if config else path.with_suffix(".json")
    described = parsed(beside.read_text(), f"file {beside.name}") if config or beside.is_file() else None
    if path.suffix == ".safetensors":
        tensors, inside = read_safetensors(path, limits)
        found: dict[str, Any] = {"tensors": tensors, **_described(described or inside)}
    else:
        with path.open("rb") as file:
            found = _read(file, path.stat().st_size, key, described, limits)
    return Checkpoint(**found, name=path.name, sha256=digest(path))


def _read(
    file: BinaryIO, size: int, key: str | None, described: dict[str, Any] | None, limits: Limits
) -> dict[str, Any]:
    """Fields of a `Checkpoint`, by what the file is rather than by what it is called."""
    start = file.read(16)
    file.seek(0)
    if start[:2] == b"PK":
        archive = opened(file, limits)
        if any(name.endswith(".npy") for name in archive.namelist()):
            tensors, inside = read_npz(archive, limits)
            return {"tensors": tensors, **_described(described or inside)}
        value = read_zip(archive, limits)
    else:
        stream = start[:2] == b"\x80\x02" and start[2:3] == b"\x8a"  # a long integer first: torch's magic number
        value = (read_stream if stream else read_pickle)(file, size, limits)
    found = _network(value, key) | (_described(described) if described else {})
    return found | {"tensors": arrays_of(found["tensors"], limits)}


def arrays_of(tensors: dict[str, Tensor], limits: Limits) -> dict[str, np.ndarray]:
    """All elements, if they stay within bounds together."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > limits.tensors:
        raise Refused(f"the tensors have {total:,} bytes, more than the {limits.tensors:,} allowed (see --limit).")
    return {name: tensor.array() for name, tensor in tensors.items()}


def _described(config: dict[str, Any] | None) -> dict[str, Any]:
    if config is None:
        return {}
    wrapper, options = config.get("precond"), config.get("kwargs")
    if not (isinstance(wrapper, str | None) and isinstance(options, dict | None)):
        raise Refused('the configuration should be {"precond": name of the wrapper, "kwargs": {its options}}.')
    return {"wrapper": wrapper, "options": options}


def _network(value: Any, key: str | None) -> dict[str, Any]:
    """The network in what a file holds: a module, a state dict, or a dict that has one of either."""
    if key is None and isinstance(value, dict):
        key = next((k for k in KEYS if isinstance(value.get(k), (dict, Inert))), None)
    elif key is not None and not (isinstance(value, dict) and key in value):
        there = ", ".join(map(str, value)) if isinstance(value, dict) else f"one {type(value).__name__}"
        raise Refused(f"the file has no entry {key!r}; it holds {there[:200]}.")
    inner = value if key is None else value[key]
    if isinstance(inner, Inert):
        return {"key": key, **_module(inner)}
    if isinstance(inner, dict) and inner and all(isinstance(v, Tensor) for v in inner.values()):
        return {"key": key, "tensors": {str(name): tensor for name, tensor in inner.items()}}
    raise Refused(f"the file holds no network: found a {type(inner).__name__} where a module or state dict should be.")


def _module(module: Inert) -> dict[str, Any]:
    """Tensors of a module by their full names, its class, and the options it was made with."""
    tensors: dict[str, Tensor] = {}
    _collect(module, "", tensors.__setitem__)
    state = module.state if isinstance(module.state, dict) else {}
    options = state.get("_init_kwargs")
    if state.get("_init_args"):
        raise Refused("the network was made with unnamed options; give them by name in a --config file.")
    return {
        "tensors": tensors,
        "wrapper": module.name.rsplit(".", 1)[-1],
        "options": options if isinstance(options, dict) else None,
    }


def _collect(module: Any, prefix: str, take: Callable[[str, Tensor], None]) -> None:
    """PyTorch's modules keep their tensors in `_parameters` and `_buffers`, and their parts in `_modules`."""
    state = getattr(module, "state", None)
    if not (isinstance(module, Inert) and isinstance(state, dict)):
        raise Refused(f"{prefix or 'the network'} is no module with a state.")
    for group in ("_parameters", "_buffers"):
        for name, tensor in _entries(state, group):
            if isinstance(tensor, Tensor):
                take(f"{prefix}{name}", tensor)
            elif tensor is not None:
                raise Refused(f"{prefix}{name} is a {type(tensor).__name__}, not a tensor.")
    for name, part in _entries(state, "_modules"):
        if part is not None:
            _collect(part, f"{prefix}{name}.", take)


def _entries(state: dict[Any, Any], group: str) -> list[tuple[Any, Any]]:
    entries = state.get(group, {})
    if not isinstance(entries, dict):
        raise Refused(f"a module's {group} is a {type(entries).__name__}, not a dict.")
    return list(entries.items())


def digest(path: pathlib.Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
