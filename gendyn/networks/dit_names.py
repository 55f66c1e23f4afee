"""Names and layouts of a `DiT` in the published checkpoints of DiT and SiT, which have the same network."""

from collections.abc import Mapping

import numpy as np

from gendyn.networks.dit import DiT
from gendyn.networks.embeddings import grid_sinusoids
from gendyn.networks.layouts import Entry, Layout

LAYERS = {
    "stem": "x_embedder.proj",
    "conditioning/level": "t_embedder.mlp.0",
    "conditioning/mix": "t_embedder.mlp.2",
    "modulation": "final_layer.adaLN_modulation.1",
    "readout": "final_layer.linear",
}
"""Layer outside the blocks -> its published name."""

BLOCK = {
    "modulation": "adaLN_modulation.1",
    "attention/query": "attn.qkv",
    "attention/key": "attn.qkv",
    "attention/value": "attn.qkv",
    "attention/out": "attn.proj",
    "hidden": "mlp.fc1",
    "out": "mlp.fc2",
}
"""Layer of a block -> its published name."""

PARTS = ("query", "key", "value")
"""What lies one after the other in a published "qkv"."""

TABLES: dict[str, tuple[str, Layout]] = {
    "positions/table": ("pos_embed", "first"),
    "conditioning/classes/table": ("y_embedder.embedding_table.weight", "vector"),
}


def entries(shapes: Mapping[str, tuple[int, ...]], module: DiT) -> list[Entry]:
    """One entry per published tensor; query, key and value are one.

    Raises:
        ValueError: a network with more than the published ones have.
    """
    order = lambda path: [PARTS.index(part) for part in path.split("/") if part in PARTS]
    found: dict[str, Entry] = {}
    for path in sorted(shapes, key=lambda path: (order(path), path)):
        name, layout = _published(path, len(shapes[path]))
        entry = found.get(name, Entry(name, _shape(shapes[path], layout, module), layout, ()))
        found[name] = entry._replace(paths=(*entry.paths, path))
    return list(found.values())


def buffers(module: DiT) -> dict[str, np.ndarray]:
    """The positions, where they are fixed."""
    if module.positions is not None:
        return {}
    return {"pos_embed": grid_sinusoids(module.tokens, module.width)[None].astype(np.float32)}


def _published(path: str, ndim: int) -> tuple[str, Layout]:
    if path in TABLES:
        return TABLES[path]
    layer, _, leaf = path.rpartition("/")
    name = LAYERS.get(layer)
    match layer.split("/", 2):
        case ["blocks", number, inner] if number.isdigit() and inner in BLOCK:
            name = f"blocks.{number}.{BLOCK[inner]}"
    if name is None:
        raise ValueError(
            f"the parameter {path} has no published name; DiT and SiT are told a class alone, without normalised "
            "queries and keys, and their blocks are not stacked (see unstack_blocks)."
        )
    full = f"{name}.{'bias' if leaf == 'bias' else 'weight'}"
    if name.endswith("attn.qkv"):
        return full, "thirds"
    if ndim == 1:
        return full, "vector"
    return full, "patch" if name == "x_embedder.proj" else "linear"


def _shape(shape: tuple[int, ...], layout: Layout, module: DiT) -> tuple[int, ...]:
    match layout:
        case "patch":
            return (shape[-1], module.shape[-1], module.patch, module.patch)
        case "linear":
            return shape[::-1]
        case "thirds":
            return (3 * shape[-1], *shape[:-1])
        case "first":
            return (1, *shape)
    return shape
