"""Pairs of noise and sample on disk: made shard by shard, each whole or absent, and read back as a source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from gendyn.data import Arrays, npz
from gendyn.files import write_npz
from gendyn.samplers import SamplerPlan
from gendyn.training.sampling import class_labels, pairs

SHARD = 1024  # pairs in a file: what a kill can cost


def store(
    folder: epath.Path,
    denoiser: Any,
    plan: SamplerPlan,
    shape: tuple[int, ...],
    *,
    num: int,
    num_classes: int | None,
    seed: int,
    batch_size: int,
    mesh: Mesh | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the first `num` pairs of a seed to FOLDER/000000.npz, ...: entries "base", "data" and, where there are
    classes, "label" (classes in turn). Shards on disk are left as they are."""
    for first in range(0, num, SHARD):
        rows = range(first, min(first + SHARD, num))
        path = folder / f"{first // SHARD:06d}.npz"
        if not path.exists():
            labels = classes(rows, num_classes)
            base, data = pairs(
                denoiser, plan, shape, rows=rows, labels=labels, seed=seed, batch_size=batch_size, mesh=mesh
            )
            if not np.isfinite(data).all():
                raise ValueError(f"some samples of {path} are not finite; use more network calls or another sampler.")
            write_npz(path, base=base, data=data, **({} if labels is None else {"label": labels}))
        report(rows.stop)


def stored(folder: epath.PathLike, num_classes: int | None) -> Arrays:
    """The pairs of a folder, in memory."""
    return npz(epath.Path(folder), fields=("base",), num_classes=num_classes)


def classes(rows: range, num_classes: int | None) -> np.ndarray | None:
    """The conditions of numbered rows: classes in turn."""
    labels = class_labels(rows.stop, num_classes)
    return None if labels is None else labels[rows.start :]


def seed_of(seed: int, number: int) -> int:
    """A round's seed (-1: of measured starts), apart from those people give to `gendyn sample`, whose noise is new."""
    return int(np.random.SeedSequence([seed, number + 1, 2209, 3003]).generate_state(1)[0] >> 1)
