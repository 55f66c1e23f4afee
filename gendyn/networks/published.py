"""Parameters of a network under the names and in the layouts of the published checkpoints, both ways."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import getitem

import jax
import numpy as np

from gendyn.networks import dit_names, edm_names
from gendyn.networks.bridge import Network, Params
from gendyn.networks.dit import DiT
from gendyn.networks.edm import EDMUNet
from gendyn.networks.layouts import Entry
from gendyn.tree import paths


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

    @classmethod
    def of(cls, network: Network) -> "Published":
        """The table of an `EDMUNet` or a `DiT` that went through `functional`; no memory, milliseconds.

        Raises:
            ValueError: for any other network.
        """
        abstract = jax.eval_shape(network.init, jax.random.key(0))
        blueprint = getattr(network.apply, "blueprint", None)
        module = None if blueprint is None else blueprint.module(abstract)
        shapes = {path: leaf.shape for path, leaf in paths(abstract)}
        if isinstance(module, EDMUNet):
            return cls(tuple(edm_names.entries(shapes, module)), edm_names.buffers(module))
        if isinstance(module, DiT):
            return cls(tuple(dit_names.entries(shapes, module)), dit_names.buffers(module))
        raise ValueError(f"published names exist for EDMUNet and DiT only, got {type(module or network).__name__}.")

    def adopt(self, tensors: Mapping[str, np.ndarray]) -> Params:
        """Parameters, float32, from published tensors; every tensor is used exactly once.

        Raises:
            ValueError: a tensor is missing, left over, of another shape, or a constant buffer of other values.
        """
        self.check({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        for name, expected in self.buffers.items():
            if name in tensors and not np.allclose(tensors[name], expected, atol=1e-6):
                raise ValueError(f"the fixed table or filter {name} is not the architecture's; give the right one.")
        params: Params = {}
        for entry in self.entries:
            for path, value in zip(entry.paths, entry.split(np.asarray(tensors[entry.name], np.float32))):
                *parents, leaf = path.split("/")
                reduce(lambda node, parent: node.setdefault(parent, {}), parents, params)[leaf] = value
        return params

    def release(self, params: Params) -> dict[str, np.ndarray]:
        """Parameters under their published names, the constant buffers included; the inverse of `adopt`."""
        found = {}
        for entry in self.entries:
            values = [np.asarray(reduce(getitem, path.split("/"), params)) for path in entry.paths]  # type: ignore[arg-type]
            found[entry.name] = np.ascontiguousarray(entry.join(values))
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
