"""What does an example cost the loader, beside the shortest loop that does the same work?

Run:      JAX_PLATFORMS=cpu python -m benchmarks.loader
Takes:    about four minutes.
Measures: examples per second of processor time on one core, all threads and the system's share counted, contestants in
          turn, and their ratio in each repeat. Processor time, because other jobs on the machine do not enter it, nor
          what was read ahead before a turn (a turn ends when reading ahead has come to rest again).
          1. 32x32x3 uint8 with flips, to float32 in [-1, 1]: against the same in plain NumPy;
          2. 256x256 JPEG (windows of the two photographs that come with scikit-learn) from shards: against loops that
             decode the same bytes, in memory, with Pillow, and throw the pixels away ("pillow"), stack them ("pillow to
             uint8"), or make the batches of float32 in [-1, 1] that the loader brings ("pillow to float32").
          "threads" is how many read ahead of the loop; with none the loop reads.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from benchmarks.common import record, spread
from gendyn.data import Batches, Packing, Shards, Source, Transform, arrays, batches, pack, random_flip, shards
from gendyn.data.loader import example_at


@dataclass(frozen=True, kw_only=True)
class Config:
    """Throughput of the loader."""

    repeats: int = 5
    small: int = 50_000
    """Images of 32x32x3."""
    large: int = 2_000
    """JPEGs of 256x256."""
    quality: int = 90
    batch: int = 128
    batch_large: int = 32
    seconds: float = 1.0
    """How long a contestant runs in each repeat, about."""
    slices: int = 8
    """In so many turns, so that what else the machine does meets all alike."""


def plain(config: Config, data: np.ndarray, labels: np.ndarray) -> Callable[[int], Any]:
    """`count` batches of shuffled, flipped float32 images, as a short script would write it."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data))

    def run(count: int) -> None:
        for k in range(count):
            rows = order[np.arange(k * config.batch, (k + 1) * config.batch) % len(data)]
            pixels, label = data[rows], labels[rows]
            mirrored = rng.random(len(pixels)) < 0.5
            pixels[mirrored] = pixels[mirrored][:, :, ::-1]
            batch = pixels.astype(np.float32)
            batch /= 127.5
            batch -= 1
            assert len(batch) == len(label)

    return run


def pillow(config: Config, files: list[bytes], to: str | None) -> Callable[[int], Any]:
    """`count` batches decoded: pixels that nobody keeps, or stacked, or stacked and mapped to [-1, 1]."""
    order = np.random.default_rng(0).permutation(len(files))

    def run(count: int) -> None:
        for k in range(count):
            rows = order[np.arange(k * config.batch_large, (k + 1) * config.batch_large) % len(files)]
            images = (np.asarray(Image.open(io.BytesIO(files[i]))) for i in rows)
            if to is None:
                for image in images:
                    assert image.shape == (256, 256, 3)
                continue
            batch = np.stack(list(images))
            if to == "float32":
                batch = batch.astype(np.float32)
                batch /= 127.5
                batch -= 1

    return run


def loader(source: Source, batch: int, threads: int, transforms: tuple[Transform, ...] = ()) -> Callable[[int], Any]:
    """`count` more batches of one endless run."""
    run = batches(source, batch_size=batch, seed=0, transforms=transforms, num_threads=threads)

    def bring(count: int) -> None:
        for _ in range(count):
            next(run)

    return bring


def pixels(source: Shards, batch: int) -> Callable[[int], Any]:
    """`count` batches of a run before they become float32."""
    table = Batches(source=source, batch_size=batch, seed=0)

    def bring(count: int) -> None:
        for k in range(count):
            source.stored(example_at(source, table.positions(k), seed=0))

    return bring


def photographs(config: Config) -> list[bytes]:
    """JPEG files: random 256x256 windows of two photographs of 427x640."""
    from sklearn.datasets import load_sample_images

    rng, whole = np.random.default_rng(0), load_sample_images().images
    files = []
    for i in range(config.large):
        y, x = rng.integers(0, 427 - 256), rng.integers(0, 640 - 256)
        stream = io.BytesIO()
        Image.fromarray(whole[i % 2][y : y + 256, x : x + 256]).save(stream, "JPEG", quality=config.quality)
        files.append(stream.getvalue())
    return files


def settled(before: float) -> float:
    """Processor seconds since `before`, once nothing of this process runs any more."""
    now = time.process_time()
    while True:
        time.sleep(0.05)
        later = time.process_time()
        if later - now < 1e-3:
            return later - before
        now = later


def compare(
    config: Config, batch: int, contestants: dict[str, Callable[[int], Any]], bare: tuple[str, ...]
) -> dict[str, Any]:
    """Examples per processor second of each, and their ratios to each of the bare loops in the same repeat."""
    contestants[bare[0]](2)
    start = time.process_time()
    contestants[bare[0]](3)
    count = max(1, round(3 * config.seconds / config.slices / (time.process_time() - start)))
    seconds = {name: np.zeros(config.repeats + 1) for name in contestants}
    for i, k in np.ndindex(config.repeats + 1, config.slices):
        for name in list(contestants) if k % 2 else list(reversed(contestants)):
            start = time.process_time()
            contestants[name](count)
            seconds[name][i] += settled(start)
    measured = {name: values[1:] for name, values in seconds.items()}  # the first warmed up
    images = count * batch * config.slices
    return {
        "images_a_repeat": images,
        "images_per_cpu_second": {name: spread(images / values) for name, values in measured.items()},
        "ratios": {
            f"{name} / {loop}": spread(measured[loop] / values)
            for loop in bare
            for name, values in measured.items()
            if name not in bare
        },
    }


def small(config: Config, folder: Path) -> dict[str, Any]:
    """32x32x3, from memory and from shards."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (config.small, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, config.small)
    np.savez(folder / "small.npz", data=data, label=labels)
    pack(folder / "small.npz", folder / "raw", Packing(shards=4))
    contestants = {"numpy": plain(config, data, labels)}
    for where, source in (("memory", arrays(data, labels)), ("raw shards", shards(folder / "raw"))):
        for threads in (0, 2):
            contestants[f"{where}, {threads} threads"] = loader(source, config.batch, threads, (random_flip,))
    return compare(config, config.batch, contestants, bare=("numpy",))


def large(config: Config, folder: Path) -> dict[str, Any]:
    """256x256 JPEG from shards."""
    files, batch = photographs(config), config.batch_large
    (folder / "jpeg").mkdir()
    for i, content in enumerate(files):
        (folder / "jpeg" / f"{i:06d}.jpg").write_bytes(content)
    pack(folder / "jpeg", folder / "kept", Packing(encoding="kept", shards=2))
    source = shards(folder / "kept")
    contestants = {
        "pillow": pillow(config, files, to=None),
        "pillow to uint8": pillow(config, files, to="uint8"),
        "pillow to float32": pillow(config, files, to="float32"),
        "shards, uint8": pixels(source, batch),
        "shards, 0 threads": loader(source, batch, 0),
        "shards, 2 threads": loader(source, batch, 2),
        "shards, flips, 0 threads": loader(source, batch, 0, (random_flip,)),
    }
    return compare(config, batch, contestants, bare=("pillow", "pillow to uint8", "pillow to float32"))


def main(config: Config) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core for all that follows
    with tempfile.TemporaryDirectory() as folder:
        results = {"32x32x3 uint8": small(config, Path(folder)), "256x256 JPEG": large(config, Path(folder))}
    path = record("loader", results, asdict(config))
    for what, result in results.items():
        for name, rate in result["images_per_cpu_second"].items():
            print(f"{what}: {name:26} {rate['median']:7.0f} images/s")
        for name, ratio in result["ratios"].items():
            print(f"{what}: {name:44} {ratio['median']:.2f} ({ratio['quartile_low']:.2f}-{ratio['quartile_high']:.2f})")
    print(path)


if __name__ == "__main__":
    main(tyro.cli(Config))
