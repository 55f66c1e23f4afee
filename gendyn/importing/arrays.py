"""Files of plain arrays: safetensors, and npz with its configuration beside it."""

from __future__ import annotations

import json
import math
import pathlib
import zipfile
from typing import Any

import numpy as np

from gendyn.importing.limits import Limits, Refused
from gendyn.importing.torch_files import content

CONFIG = "gendyn.config"
"""Entry of a safetensors header that holds the configuration as JSON."""


def read_safetensors(path: pathlib.Path, limits: Limits) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Tensors by name, and the configuration if the header has one. The format cannot hold code."""
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size > limits.tensors:
        raise Refused(f"the file has {path.stat().st_size:,} bytes, more than {limits.tensors:,} (see --limit).")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise Refused(f"the file is no safetensors file, or damaged ({error}).") from None
    return tensors, parsed(metadata[CONFIG], "header") if CONFIG in metadata else None


def write_safetensors(path: pathlib.Path, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Tensors by name, with a configuration in the header; whole or absent."""
    from safetensors.numpy import save

    from gendyn.files import write_atomic

    whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    write_atomic(path, save(whole, metadata={CONFIG: json.dumps(config)}))


def read_npz(archive: zipfile.ZipFile, limits: Limits) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Arrays by name (a prefix "sd/" falls away, and what lacks it then), and an entry `config_json` parsed."""
    arrays = {}
    for name in archive.namelist():
        if name.endswith(".npy"):
            arrays[name.removesuffix(".npy")] = _array(content(archive, name, limits.tensors), name)
    config = arrays.pop("config_json", None)
    if any(name.startswith("sd/") for name in arrays):
        arrays = {name.removeprefix("sd/"): value for name, value in arrays.items() if name.startswith("sd/")}
    return arrays, None if config is None else parsed(str(config), "entry config_json")


def _array(data: bytes, name: str) -> np.ndarray:
    """A npy file, whose header must declare exactly the bytes that follow it."""
    import io

    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, EOFError) as error:
        raise Refused(f"the array {name[:100]} is damaged ({str(error)[:100]}).") from None
    if dtype.hasobject:
        raise Refused(f"the array {name[:100]} holds Python objects, which would have to be unpickled.")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise Refused(f"the array {name[:100]} declares {list(shape)} {dtype}, which is not what the file holds.")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")


def parsed(text: str, what: str) -> dict[str, Any]:
    """A configuration from JSON."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused(f"the {what} is no JSON.") from None
    if not isinstance(config, dict):
        raise Refused(f"the {what} holds a {type(config).__name__}, not a configuration.")
    return config
