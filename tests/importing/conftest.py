"""Files laid out as EDM, PFGM++ and torch.save lay them out, built without PyTorch from stand-in classes."""

import functools
import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from functools import partial
from unittest import mock

import numpy as np
import pytest

from gendyn.networks import EDMUNet, functional
from gendyn.networks.published import Published

BUFFERS = ("resample_filter", "freqs", "u")
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def never(*args):
    raise AssertionError("a stand-in was called")


class Storage:
    """Elements; a plain pickle holds them as a stream of their own."""

    def __init__(self, array):
        self.array, self.count = np.ascontiguousarray(array, np.float32), None

    def __reduce__(self):
        return MODULES["torch.storage"]._load_from_bytes, (stream(self),)


class Tensor:
    def __init__(self, array):
        self.array = np.asarray(array, np.float32)

    def __reduce__(self):
        strides = tuple(n // 4 for n in np.ascontiguousarray(self.array).strides)
        args = (Storage(self.array), 0, self.array.shape, strides, False, OrderedDict())
        return MODULES["torch._utils"]._rebuild_tensor_v2, args


class Parameter(Tensor):
    def __reduce__(self):
        return MODULES["torch._utils"]._rebuild_parameter, (Tensor(self.array), True, OrderedDict())


class Persistent:
    """An object whose class travels as source code."""

    source = "raise SystemExit('the embedded source was executed')"

    def __init__(self, name, state):
        self.meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": name, "state": state}

    def __reduce__(self):
        return MODULES["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,), None


class ModuleDict:
    """As torch's own containers are pickled: by class and state."""


class EasyDict(dict):
    pass


def put(full, value):
    """Make `value` what the pickler will call by this name."""
    name, _, last = full.rpartition(".")
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        MODULES.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    value.__module__, value.__qualname__ = name, last
    setattr(MODULES[name], last, value)


MODULES: dict[str, types.ModuleType] = {}
put("torch._utils._rebuild_tensor_v2", lambda *args: never())
put("torch._utils._rebuild_parameter", lambda *args: never())
put("torch.storage._load_from_bytes", lambda *args: never())
put("torch_utils.persistence._reconstruct_persistent_obj", lambda *args: never())
put("torch.FloatStorage", type("FloatStorage", (), {}))
put("torch.nn.modules.container.ModuleDict", ModuleDict)
put("dnnlib.util.EasyDict", EasyDict)


def importable(build):
    """The function, with the stand-ins' modules in place while it pickles and no longer."""

    @functools.wraps(build)
    def built(*args, **kwargs):
        with mock.patch.dict(sys.modules, MODULES):
            return build(*args, **kwargs)

    return built


class TorchPickler(pickle.Pickler):
    """Storages leave the pickle by persistent identifiers."""

    def __init__(self, file, protocol=2, view=False):
        super().__init__(file, protocol)
        self.view, self.storages = view, {}

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        key = str(len(self.storages))
        self.storages[key] = obj.array
        found = ("storage", MODULES["torch"].FloatStorage, key, "cpu", obj.array.size)
        return (*found, None) if self.view else found


@importable
def stream(obj):
    """torch.save before version 1.6."""
    file = io.BytesIO()
    for head in (MAGIC, PROTOCOL, SYSTEM):
        pickle.dump(head, file, 2)
    pickler = TorchPickler(file, view=True)
    pickler.dump(obj)
    pickle.dump(list(pickler.storages), file, 2)
    for array in pickler.storages.values():
        file.write(struct.pack("<q", array.size) + array.tobytes())
    return file.getvalue()


@importable
def archive(obj, *, protocol=2, compression=zipfile.ZIP_STORED, entries=()):
    """torch.save since version 1.6."""
    data, file = io.BytesIO(), io.BytesIO()
    pickler = TorchPickler(data, protocol)
    pickler.dump(obj)
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr("archive/data.pkl", data.getvalue())
        made.writestr("archive/byteorder", "little")
        for key, array in pickler.storages.items():
            made.writestr(f"archive/data/{key}", array.tobytes())
        for name, content in dict(entries).items():
            made.writestr(name, content)
        made.writestr("archive/version", "3\n")
    return file.getvalue()


def module(tensors, name="SongUNet", **state):
    """A persistent module, with its parts, from tensors by their full names."""
    parts, own = {}, {}
    for full, value in tensors.items():
        head, _, rest = full.partition(".")
        (parts.setdefault(head, {}) if rest else own).__setitem__(rest or head, value)
    made = {
        "training": False,
        "_parameters": OrderedDict((n, Parameter(v)) for n, v in own.items() if n not in BUFFERS),
        "_buffers": OrderedDict((n, Tensor(v)) for n, v in own.items() if n in BUFFERS),
        "_non_persistent_buffers_set": set(),
        "_forward_hooks": OrderedDict(),
        "_modules": OrderedDict((n, part(v, n)) for n, v in parts.items()),
        "_init_args": (),
        "_init_kwargs": EasyDict(),
        "gain": np.sqrt(0.5),  # a numpy scalar, as the blocks of the release have it
        **state,
    }
    if name == "container":
        container = ModuleDict()
        container.__dict__.update(made)
        return container
    return Persistent(name, EasyDict(made))


def part(tensors, name):
    return module(tensors, "container" if name in ("enc", "dec") else "SongUNet" if name == "model" else "UNetBlock")


def snapshot(tensors, kwargs, wrapper="EDMPrecond"):
    """What network-snapshot-*.pkl holds."""
    ema = module(tensors, wrapper, _init_kwargs=EasyDict(kwargs), sigma_data=0.5)
    loss = Persistent("EDMLoss", {"P_mean": -1.2, "P_std": 1.2, "sigma_data": 0.5})
    pipe = Persistent("AugmentPipe", {"p": 0.12, "xflip": 1e8})
    return {"ema": ema, "loss_fn": loss, "augment_pipe": pipe, "dataset_kwargs": EasyDict(resolution=8)}


@pytest.fixture(scope="session")
def make():
    """This file's builders."""
    return types.SimpleNamespace(
        archive=archive, stream=stream, snapshot=snapshot, module=module, Tensor=Tensor, Storage=Storage,
        Persistent=Persistent, dumps=importable(pickle.dumps),
    )  # fmt: skip


@pytest.fixture(scope="session")
def small():
    """The smallest conditional network with augmentation labels: its published options and random tensors."""
    kwargs = {"img_resolution": 8, "img_channels": 1, "label_dim": 2, "augment_dim": 9, "model_type": "SongUNet"}
    kwargs |= {"model_channels": 4, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    sizes = {"width": 4, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "num_classes": 2, "augment": 9}
    network = functional(partial(EDMUNet, 8, 1, **sizes))
    names = Published.of(network)
    rng = np.random.default_rng(0)
    own = {entry.name: 0.3 * rng.standard_normal(entry.shape).astype(np.float32) for entry in names.entries}
    tensors = {f"model.{name}": value for name, value in (own | names.buffers).items()}
    return types.SimpleNamespace(kwargs=kwargs, tensors=tensors, network=network, params=names.adopt(own))
