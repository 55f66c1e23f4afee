"""How do the dynamics compare on one small image set, each with its own objective and its own best plan?

Run:      python -m benchmarks.digits_dynamics [--runs runs/dynamics]
Takes:    about 2.5 minutes of training per dynamics on two CPU cores, and a minute each of measuring.
Writes:   benchmarks/results/digits_dynamics.json, docs/explanation/dynamics.md and docs/images/dynamics.png.

Every dynamics trains the same network with the same optimiser for the same number of steps; runs that exist are not
trained again. What was fixed before looking: the list of plans below. A dynamics' own plan is the one with the lowest
Frechet distance among those with the highest agreement (to a hundredth) over seed 0; it is then measured on the other
seeds, and only those are reported.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tyro

import gendyn as gd
from benchmarks import common
from experiments import consistency_digits, digits_dynamics
from gendyn.data.loader import take
from gendyn.files import read_json, write_json

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "explanation" / "dynamics.md"
PICTURE = pathlib.Path(__file__).parent.parent / "docs" / "images" / "dynamics.png"

PLANS = tuple(
    gd.training.Sampling(sampler=sampler, nfe=nfe, grid=grid, guidance=guidance)
    for sampler, nfe, grid in (
        ("dpmpp_2m", 10, None),
        ("dpmpp_2m", 20, None),
        ("dpmpp_2m", 20, "uniform_t"),
        ("unipc_3", 10, "uniform_lam"),
        ("heun", 19, None),
        ("ddim", 20, None),
    )
    for guidance in (1.0, 1.35)
)
CONSISTENCY = tuple(gd.training.Sampling(sampler="consistency", nfe=nfe) for nfe in (1, 2))
"""Consistency models are asked for two calls."""

DYNAMICS: dict[str, tuple[Callable[[], Any], Sequence[gd.training.Sampling]]] = {
    "EDM": (lambda: digits_dynamics.Config(dynamics="edm"), PLANS),
    "VP, cosine": (lambda: digits_dynamics.Config(dynamics="vp"), PLANS),
    "rectified flow": (lambda: digits_dynamics.Config(dynamics="rectified_flow"), PLANS),
    "one-sided interpolant": (lambda: digits_dynamics.Config(dynamics="one_sided"), PLANS),
    "PFGM++, D = 64": (lambda: digits_dynamics.Config(dynamics="pfgmpp", D=64), PLANS),
    "PFGM++, D = 128": (lambda: digits_dynamics.Config(dynamics="pfgmpp", D=128), PLANS),
    "PFGM++, D = 2048": (lambda: digits_dynamics.Config(dynamics="pfgmpp", D=2048), PLANS),
    "consistency": (consistency_digits.Config, CONSISTENCY),
}
