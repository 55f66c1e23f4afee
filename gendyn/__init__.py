"""gendyn: generative dynamics in JAX.

Decide in a table, run a small program: a sampler is a `SamplerPlan`, a parametrisation a `ParamTable`, a layout over
devices a `ShardingTable`; each is made on the host, can be printed, and is executed by a small compiled function.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gendyn import control, objectives, oracles, predictions, processes, samplers
from gendyn.predictions import denoiser
from gendyn.samplers import plan

if TYPE_CHECKING:
    from gendyn import data, distributed, importing, metrics, networks, parametrization, plots, training
    from gendyn.training import load

__version__ = "0.1.0"

_LAZY = ("data", "distributed", "importing", "metrics", "networks", "parametrization", "plots", "training")
"""Rooms with heavy dependencies (flax, orbax, grain, matplotlib): imported at first use."""

__all__ = [
    "control",
    "data",
    "denoiser",
    "distributed",
    "importing",
    "load",
    "metrics",
    "networks",
    "objectives",
    "oracles",
    "parametrization",
    "plan",
    "plots",
    "predictions",
    "processes",
    "samplers",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"gendyn.{name}")
    if name == "load":
        return importlib.import_module("gendyn.training").load
    raise AttributeError(f"module 'gendyn' has no attribute {name!r}")
