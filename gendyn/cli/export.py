"""gendyn export: a run's network under its published names."""

from __future__ import annotations

import dataclasses

import tyro

from gendyn.cli.common import parse
from gendyn.importing import export


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's EDM-family network or DiT as safetensors, under the names that the published code uses."""

    run: tyro.conf.Positional[str]
    """Run directory, local or gs://."""
    out: str
    """File to write."""
    ema: float | None = None
    """Relative width of the averaged weights; 0 for the raw parameters."""


def run(argv: list[str]) -> int:
    """Write a network under its published names; exit status."""
    options: Export = parse(Export, argv, prog="gendyn export", description=Export.__doc__ or "")
    tensors = export(options.run, options.out, ema=options.ema)
    print(f"{options.out}: {len(tensors)} tensors, {sum(value.nbytes for value in tensors.values()) / 2**20:.1f} MiB")
    return 0
