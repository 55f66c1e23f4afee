"""Processes as plain values and back: what files say about the path they belong to."""

from __future__ import annotations

import dataclasses
from typing import Any

from gendyn.processes.flows import GVP, RectifiedFlow
from gendyn.processes.gaussian import Process
from gendyn.processes.pfgmpp import PFGMPP
from gendyn.processes.variance_exploding import EDM, VE
from gendyn.processes.variance_preserving import SubVP, VPCosine, VPDiscrete, VPLinear

KINDS: dict[str, type] = {
    cls.__name__: cls for cls in (VPLinear, VPCosine, VPDiscrete, SubVP, VE, EDM, PFGMPP, GVP, RectifiedFlow)
}


def describe(process: Process) -> dict[str, Any]:
    """JSON-able: the class's name and its constants.

    >>> describe(EDM())
    {'kind': 'EDM', 'sigma_min': 0.002, 'sigma_max': 80.0}
    """
    return {"kind": type(process).__name__, **dataclasses.asdict(process)}  # type: ignore[call-overload]


def from_description(description: dict[str, Any]) -> Process:
    """The process that `describe` described.

    >>> from_description({"kind": "GVP"})
    GVP()
    """
    values = dict(description)
    kind = values.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"unknown process {kind!r}; known: {', '.join(KINDS)}.")
    return KINDS[kind](**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
