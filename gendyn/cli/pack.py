"""gendyn pack: a data set becomes shards."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from gendyn.cli.common import Flat, parse, progress
from gendyn.data.incoming import incoming
from gendyn.data.making import Encoder, Packing
from gendyn.data.packing import pack
from gendyn.data.shard_index import Index, index_path, splits, verify


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pack:
    """Write a data set as ArrayRecord shards, for `gd.data.shards(DIR)`. Stopped, the same command again goes on.

    SOURCE is a folder of images (sub-folders are classes), a zip of the EDM or StyleGAN release (labels in
    dataset.json), a webdataset tar or a folder of tars (.jpg or .png with .cls or .json), a folder of Hugging Face
    parquet files, or an .npz file. Nothing is unpacked to disk. The order is that of the source; training shuffles.
    """

    source: tyro.conf.Positional[str | None] = None
    """What to pack."""
    out: str | None = None
    """Folder to write; several splits may share it."""
    packing: Annotated[Packing, Flat] = dataclasses.field(default_factory=Packing)
    fields: tuple[str, ...] = ()
    """Further entries of an .npz that go with the examples."""
    encoder: str | None = None
    """MODULE:FUNCTION of your own, which is executed: pixels, uint8 [batch, height, width, channels], to latents,
    floats [batch, ...], that are stored in their place."""
    threads: int = min(os.cpu_count() or 1, 8)
    """That decode images."""
    verify: str | None = None
    """Instead of packing, read all shards of this folder and compare their checksums."""


def run(argv: list[str]) -> int:
    """Pack or verify; exit status."""
    options: Pack = parse(Pack, argv, prog="gendyn pack", description=Pack.__doc__ or "")
    if options.verify is not None:
        return _verify(Path(options.verify))
    if options.source is None or options.out is None:
        raise ValueError("gendyn pack needs SOURCE and --out DIR, or --verify DIR; `gendyn pack --help` explains.")
    encoder = None if options.encoder is None else _function(options.encoder)
    source = incoming(options.source, split=options.packing.split, fields=options.fields)
    done = index_path(Path(options.out).expanduser(), options.packing.split).exists()
    with progress("packing", min(source.examples, options.packing.limit or source.examples)) as report:
        index = pack(source, options.out, options.packing, encoder=encoder, threads=options.threads, report=report)
    print(f"{options.out}: {'already there, nothing to do: ' if done else ''}{_described(index)}")
    return 0


def _function(name: str) -> Encoder:
    """The user's function, from the current folder or anything installed."""
    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--encoder is MODULE:FUNCTION, importable from here; got {name!r} ({error}).") from error
    return found


def _verify(folder: Path) -> int:
    """All shards of all splits; a ValueError that names those that are not what their index says."""
    found = splits(folder.expanduser())
    if not found:
        raise FileNotFoundError(f"no shards in {folder.absolute()}: no file ends in .index.json")
    checked = [(shard, fault) for split in found for shard, fault in verify(folder, split)]
    faults = [f"{folder / shard.file} {fault}" for shard, fault in checked if fault]
    if faults:
        raise ValueError(f"{len(faults)} of {len(checked)} shards: {'; '.join(faults)}; copy or pack them again.")
    examples = sum(shard.examples for shard, _ in checked)
    print(f"{folder}: {len(checked)} shards, {examples:,} examples, split {', '.join(found)}: all checksums agree")
    return 0


def _described(index: Index) -> str:
    layout, size = index.layout, sum(shard.bytes for shard in index.shards)
    skipped = f", {len(index.skipped)} unreadable left out" if index.skipped else ""
    return (
        f"{index.examples:,} examples {list(layout.shape)} ({layout.encoding} {layout.dtype}, "
        f"{index.num_classes or 'no'} classes), {len(index.shards)} shards, {size / 2**20:.1f} MiB{skipped}"
    )
