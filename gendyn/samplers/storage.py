"""Plans on disk and side by side: one npz with a JSON header, and the difference of two plans in words."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from etils import epath

from gendyn.files import write_npz
from gendyn.processes import describe, from_description
from gendyn.samplers.plan import LEAVES, PlanInfo, SamplerPlan

FORMAT = 1


def save(path: epath.PathLike, plan: SamplerPlan) -> None:
    """Write a plan, atomically: its arrays in float64 and a JSON header with name, order, process and notes."""
    header = {
        "format": FORMAT,
        "name": plan.name,
        "order": plan.order,
        "process": describe(plan.process),
        "notes": plan.info.notes if plan.info else "",
        "field": plan.field,
    }
    arrays = {name: np.asarray(getattr(plan, name)) for name in LEAVES}
    write_npz(path, header=np.array(json.dumps(header)), **arrays)


def load(path: epath.PathLike) -> SamplerPlan:
    """Read a plan; nothing in the file is executed.

    Raises:
        FileNotFoundError, or ValueError for a file that is not a plan of this format.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            header = json.loads(str(stored["header"]))
            arrays = {name: stored[name] for name in LEAVES}
    except Exception:  # zip, numpy and json each have their own errors for a foreign or damaged file
        raise ValueError(f"{path} is not a saved plan; write one with gendyn.samplers.save.") from None
    if header["format"] != FORMAT:
        raise ValueError(f"{path} is a plan of format {header['format']}; this version reads format {FORMAT}.")
    info = PlanInfo(
        name=header["name"],
        order=header["order"],
        process=from_description(header["process"]),
        notes=header["notes"],
        field=header.get("field", "denoised"),
    )
    return SamplerPlan(**arrays, info=info)


def difference(a: SamplerPlan, b: SamplerPlan, tolerance: float = 0.0) -> str:
    """The entries in which two plans differ, one line each; empty if they agree within `tolerance` (absolute).

    Plans of different size are compared after padding to the larger one.
    """
    sizes: dict[str, Any] = {k: max(getattr(a, k), getattr(b, k)) for k in ("rows", "window", "draws")}
    lines = [f"{k}: {getattr(a, k)} -> {getattr(b, k)}" for k in sizes if getattr(a, k) != getattr(b, k)]
    a, b = a.pad(**sizes), b.pad(**sizes)
    for name in LEAVES:
        left, right = (np.asarray(getattr(plan, name), float) for plan in (a, b))
        try:
            left, right = np.broadcast_arrays(left, right)
        except ValueError:
            lines.append(f"{name}: shape {left.shape} -> {right.shape}")
            continue
        for index in map(tuple, np.argwhere(np.abs(left - right) > tolerance)):
            lines.append(f"{name}{list(map(int, index))}: {left[index]:.6g} -> {right[index]:.6g}")
    return "\n".join(lines)
