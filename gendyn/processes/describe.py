"""Processes as plain values and back: what files say about the path they belong to."""

from __future__ import annotations

import dataclasses
from typing import Any

from gendyn.processes import interpolants
from gendyn.processes.flows import GVP, RectifiedFlow
from gendyn.processes.interpolants import Interpolant, OneSided
from gendyn.processes.mean_reverting import Constant, Cosine, Linear, MeanReverting, Table
from gendyn.processes.pfgmpp import PFGMPP
from gendyn.processes.variance_exploding import EDM, VE
from gendyn.processes.variance_preserving import SubVP, VPCosine, VPDiscrete, VPLinear

KINDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *(VPLinear, VPCosine, VPDiscrete, SubVP, VE, EDM, PFGMPP, GVP, RectifiedFlow),
        *(OneSided, Interpolant, MeanReverting),
    )
}
PARTS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Interpolant,
        interpolants.LinearPath,
        interpolants.TrigonometricPath,
        interpolants.EncodingDecoding,
        interpolants.Mirror,
        interpolants.NoLatent,
        interpolants.Bridge,
        interpolants.SineSquared,
        *(Constant, Linear, Cosine, Table),
    )
}
"""Values that are a constant of a process."""


def describe(process: Any) -> dict[str, Any]:
    """JSON-able: the class's name and its constants.

    Raises:
        ValueError: a process made of functions of your own, which no file can hold.

    >>> describe(EDM())
    {'kind': 'EDM', 'sigma_min': 0.002, 'sigma_max': 80.0}
    """
    values = {f.name: getattr(process, f.name) for f in dataclasses.fields(process)}
    if foreign := [name for name, value in values.items() if callable(value)]:
        raise ValueError(f"{process} holds functions ({', '.join(foreign)}), which cannot be written to a file.")
    parts = {name: describe(value) for name, value in values.items() if dataclasses.is_dataclass(value)}
    return {"kind": type(process).__name__, **values, **parts}


def from_description(description: dict[str, Any]) -> Any:
    """The process that `describe` described.

    >>> from_description({"kind": "GVP"})
    GVP()
    """
    return _made("process", KINDS, description)


def _made(what: str, kinds: dict[str, type], description: dict[str, Any]) -> Any:
    values = dict(description)
    kind = values.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"unknown {what} {kind!r}; known: {', '.join(kinds)}.")
    parts = {name: _made(f"{name} of {kind}", PARTS, v) for name, v in values.items() if isinstance(v, dict)}
    lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
    return kinds[kind](**(values | lists | parts))
