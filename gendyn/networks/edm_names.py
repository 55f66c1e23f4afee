"""Names and layouts of an `EDMUNet` in the published checkpoints."""

from collections.abc import Mapping

import numpy as np

from gendyn.networks.edm import EDMUNet
from gendyn.networks.edm_layout import Row
from gendyn.networks.layouts import Entry, Layout

LAYERS = {
    "norm": "norm0",
    "hidden": "conv0",
    "modulation": "affine",
    "hidden_norm": "norm1",
    "out": "conv1",
    "skip": "skip",
    "attention_norm": "norm2",
    "attention/out": "proj",
    "attention/query": "qkv",
    "attention/key": "qkv",
    "attention/value": "qkv",
}
"""Layer of a block -> its published name."""

MAPS = {"level": "map_layer0", "mix": "map_layer1", "classes": "map_label", "augment": "map_augment"}
"""Layer of the conditioning -> its published name."""

POINTS = ("skip", "proj")
"""Linear layers that are published as 1x1 convolutions."""


def entries(shapes: Mapping[str, tuple[int, ...]], module: EDMUNet) -> list[Entry]:
    """One entry per published tensor; query, key and value are one."""
    found: dict[str, Entry] = {}
    heads = {f"{half}.{row.name}.qkv": row.heads for half, row in _rows(module) if row.heads}
    for path, shape in sorted(shapes.items()):
        name, layout = _published(path, len(shape), module)
        found.setdefault(name, Entry(name, _shape(shape, layout), layout, (), heads.get(name.rsplit(".", 1)[0], 1)))
        found[name] = found[name]._replace(paths=(*found[name].paths, path))
    ordered = {"query": 0, "key": 1, "value": 2}
    order = lambda path: ordered.get(path.split("/")[-2], 0)
    return [entry._replace(paths=tuple(sorted(entry.paths, key=order))) for entry in found.values()]


def _published(path: str, ndim: int, module: EDMUNet) -> tuple[str, Layout]:
    *layer, leaf = path.split("/")
    name = _layer(layer, module)
    if name == "map_noise":
        return "map_noise.freqs", "vector"
    full = f"{name}.{'bias' if leaf == 'bias' else 'weight'}"
    if name.endswith(".qkv"):
        return full, "qkv"
    if ndim == 1:
        return full, "vector"
    if ndim == 4:
        return full, "conv"
    return full, "point" if name.endswith((*POINTS, "_aux_skip")) else "linear"


def _layer(layer: list[str], module: EDMUNet) -> str:
    """Published name of a layer, from its place in the parameter tree."""
    side = module.shape[0]
    match layer:
        case ["stem"]:
            return f"enc.{side}x{side}_conv"
        case ["conditioning"]:
            return "map_noise"
        case ["conditioning", part]:
            return MAPS[part]
        case ["readout", at, part]:
            kind = "norm" if part == "norm" else "conv"
            return f"dec.{at}_aux_{kind}" if module.family.published == "SongUNet" else f"out_{kind}"
        case [("encoder" | "decoder") as half, row]:
            return f"{half[:3]}.{row}"
        case [half, row, *inner]:
            return f"{half[:3]}.{row}.{LAYERS['/'.join(inner)]}"
    raise ValueError(f"no published name is known for {'/'.join(layer)}.")


def _shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    match layout:
        case "conv":
            return (shape[3], shape[2], *shape[:2])
        case "point":
            return (*shape[::-1], 1, 1)
        case "linear":
            return shape[::-1]
        case "qkv":
            return (3 * shape[-1], *shape[:-1], *(1, 1) * (len(shape) - 1))
    return shape


def _rows(module: EDMUNet) -> list[tuple[str, Row]]:
    return [("enc", row) for row in module.encoder_rows] + [("dec", row) for row in module.decoder_rows]


def buffers(module: EDMUNet) -> dict[str, np.ndarray]:
    """The resampling filters, [1, 1, k, k], that every layer which halves or doubles carries along."""
    f = np.asarray(module.taps, np.float32)
    kernel = (np.outer(f, f) / f.sum() ** 2)[None, None]
    names = []
    for half, row in _rows(module):
        if row.kind == "block" and row.resample:
            names += [f"{half}.{row.name}.conv0", f"{half}.{row.name}.skip"]
        elif row.kind in ("image_down", "image_up", "image_residual"):
            names.append(f"{half}.{row.name}")
    return {f"{name}.resample_filter": kernel for name in names}
