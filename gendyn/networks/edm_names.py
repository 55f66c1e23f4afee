"""Parameters of an `EDMUNet` under the names and in the layouts of the published checkpoints, both ways.

published [out, in, kh, kw]  <->  kernel (kh, kw, in, out)        convolutions of 3x3
published [out, in, 1, 1]    <->  kernel (in, out)                convolutions of 1x1
published [out, in]          <->  kernel (in, out)                linear layers
qkv [(head, feature, 3), in] <->  query, key, value (in, (head, feature))
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Literal, NamedTuple

import jax
import numpy as np

from gendyn.networks.bridge import Network, Params
from gendyn.networks.edm import EDMUNet
from gendyn.networks.edm_layout import Row
from gendyn.tree import paths

Layout = Literal["conv", "point", "linear", "vector", "qkv"]

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


class Entry(NamedTuple):
    """One published tensor."""

    name: str
    shape: tuple[int, ...]
    layout: Layout
    paths: tuple[str, ...]  # in the parameter tree: one, or query, key and value


@dataclass(frozen=True)
class Published:
    """What the checkpoint of a network holds: a table of tensors, each used once, and constant buffers.

    >>> from functools import partial
    >>> from gendyn.networks import functional
    >>> network = functional(partial(EDMUNet, 8, 3, width=8, multipliers=(1, 2), blocks=1))
    >>> [entry.name for entry in Published.of(network).entries][:2]
    ['map_layer0.bias', 'map_layer0.weight']
    """

    entries: tuple[Entry, ...]
    buffers: dict[str, np.ndarray]
    heads: dict[str, int]

    @classmethod
    def of(cls, network: Network) -> "Published":
        """The table of an `EDMUNet` that went through `functional`; no memory, milliseconds.

        Raises:
            ValueError: for any other network.
        """
        abstract = jax.eval_shape(network.init, jax.random.key(0))
        blueprint = getattr(network.apply, "blueprint", None)
        module = None if blueprint is None else blueprint.module(abstract)
        if not isinstance(module, EDMUNet):
            raise ValueError(f"published names exist for EDMUNet only, got {type(module or network).__name__}.")
        flat = {path: leaf.shape for path, leaf in paths(abstract)}
        rows = [("enc", row) for row in module.encoder_rows] + [("dec", row) for row in module.decoder_rows]
        heads = {f"{side}.{row.name}.qkv": row.heads for side, row in rows if row.heads}
        return cls(tuple(_entries(flat, module)), _buffers(rows, module.taps), heads)

    def adopt(self, tensors: Mapping[str, np.ndarray]) -> Params:
        """Parameters, float32, from published tensors; every tensor is used exactly once.

        Raises:
            ValueError: a tensor is missing, left over, of another shape, or a constant buffer of other values.
        """
        self.check({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        for name, expected in self.buffers.items():
            if name in tensors and not np.allclose(tensors[name], expected, atol=1e-6):
                raise ValueError(f"the resampling filter {name} is not the architecture's; give the right one.")
        params: Params = {}
        for entry in self.entries:
            for path, value in zip(entry.paths, self._split(entry, np.asarray(tensors[entry.name], np.float32))):
                *parents, leaf = path.split("/")
                reduce(lambda node, parent: node.setdefault(parent, {}), parents, params)[leaf] = value
        return params

    def release(self, params: Params) -> dict[str, np.ndarray]:
        """Parameters under their published names, the constant buffers included; the inverse of `adopt`."""
        found = {}
        for entry in self.entries:
            values = [np.asarray(reduce(getitem, path.split("/"), params)) for path in entry.paths]  # type: ignore[arg-type]
            found[entry.name] = np.ascontiguousarray(self._join(entry, values))
        return found | self.buffers

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse tensors that are not this network's, from their names and shapes alone."""
        wanted = {entry.name: entry.shape for entry in self.entries}
        constant = {name: value.shape for name, value in self.buffers.items()}
        if missing := sorted(wanted.keys() - shapes.keys()):
            raise ValueError(f"the file lacks {len(missing)} tensors of this architecture, first {missing[0]}.")
        if more := sorted(shapes.keys() - wanted.keys() - constant.keys()):
            raise ValueError(f"the file has {len(more)} tensors that this architecture lacks, first {more[0]}.")
        for name, shape in (wanted | constant).items():
            if name in shapes and shapes[name] != shape:
                raise ValueError(f"{name} is {list(shapes[name])} in the file, but {list(shape)} in the architecture.")

    def _split(self, entry: Entry, value: np.ndarray) -> list[np.ndarray]:
        match entry.layout:
            case "conv":
                return [value.transpose(2, 3, 1, 0)]
            case "point":
                return [value[:, :, 0, 0].T]
            case "linear":
                return [value.T]
            case "qkv":
                inputs = value.shape[1:2]  # none for a bias
                parts = value.reshape(self.heads[entry.name.rsplit(".", 1)[0]], -1, 3, *inputs)
                return [parts[:, :, i].reshape(len(value) // 3, *inputs).T for i in range(3)]
        return [value]

    def _join(self, entry: Entry, values: list[np.ndarray]) -> np.ndarray:
        match entry.layout:
            case "conv":
                return values[0].transpose(3, 2, 0, 1)
            case "point":
                return values[0].T[:, :, None, None]
            case "linear":
                return values[0].T
            case "qkv":
                heads = self.heads[entry.name.rsplit(".", 1)[0]]
                parts = [value.T.reshape(heads, -1, *value.shape[:-1]) for value in values]
                return np.stack(parts, axis=2).reshape(entry.shape)
        return values[0]


def _entries(shapes: Mapping[str, tuple[int, ...]], module: EDMUNet) -> list[Entry]:
    """One entry per published tensor; query, key and value are one."""
    found: dict[str, Entry] = {}
    for path, shape in sorted(shapes.items()):
        name, layout = _published(path, len(shape), module)
        found.setdefault(name, Entry(name, _shape(shape, layout), layout, ()))
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


def _buffers(rows: list[tuple[str, Row]], taps: tuple[float, ...]) -> dict[str, np.ndarray]:
    """The resampling filters, [1, 1, k, k], that every layer which halves or doubles carries along."""
    f = np.asarray(taps, np.float32)
    kernel = (np.outer(f, f) / f.sum() ** 2)[None, None]
    names = []
    for half, row in rows:
        if row.kind == "block" and row.resample:
            names += [f"{half}.{row.name}.conv0", f"{half}.{row.name}.skip"]
        elif row.kind in ("image_down", "image_up", "image_residual"):
            names.append(f"{half}.{row.name}")
    return {f"{name}.resample_filter": kernel for name in names}
