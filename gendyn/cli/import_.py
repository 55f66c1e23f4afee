"""gendyn import: a public checkpoint becomes a run directory."""

from __future__ import annotations

import dataclasses
from typing import Literal

import tyro

from gendyn.cli.common import parse
from gendyn.importing import Limits, adopt, read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import:
    """Read a checkpoint of EDM, PFGM++, DiT or SiT, a state dict (.pt, .safetensors, .npz); nothing in it is run.

    The run directory is then sampled, studied and tuned like any other. Files of unknown origin are safe to try.
    """

    file: tyro.conf.Positional[str]
    """The checkpoint. Options that it does not contain are read from FILE with the ending .json, if there is one."""
    out: str
    """Run directory to make, local or gs://."""
    wrapper: Literal["edm", "vp", "ve", "iddpm", "dit", "sit"] | None = None
    """Preconditioning, where the file does not say; DiT and SiT files never do."""
    config: str | None = None
    """JSON with {"precond": wrapper, "kwargs": options of the network}."""
    entry: str | None = None
    """Which network of the file; "ema" before others by default."""
    sigma_min: float | None = None
    """Where samplers stop."""
    sigma_max: float | None = None
    """Where samplers start."""
    data: str | None = None
    """Images for statistics and evaluation: a folder with train.parquet, a folder of images, or an .npz file."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the network's arithmetic."""
    limit: float = 8.0
    """GiB that the tensors may have."""


def run(argv: list[str]) -> int:
    """Make a run of a file; exit status."""
    options: Import = parse(Import, argv, prog="gendyn import", description=Import.__doc__ or "")
    limits = Limits(tensors=int(options.limit * 2**30))
    checkpoint = read(options.file, key=options.entry, config=options.config, limits=limits)
    changes = {name: getattr(options, name) for name in ("sigma_min", "sigma_max", "data", "dtype")}
    given = {name: value for name, value in changes.items() if value is not None}
    config = adopt(checkpoint, options.out, wrapper=options.wrapper, **given)
    count = sum(value.size for value in checkpoint.tensors.values())
    print(
        f"{options.out}: {config.network} in the {config.wrapper} wrapper, {count:,} numbers from "
        f"{config.entry or 'the whole'} of {checkpoint.name}\n"
        f"sha256 {checkpoint.sha256}\nNext: gendyn sample {options.out}"
    )
    return 0
