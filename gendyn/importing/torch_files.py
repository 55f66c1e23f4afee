"""PyTorch's three layouts of the same thing, read without PyTorch.

zip      NAME/data.pkl beside NAME/data/KEY, one entry per storage          torch.save since 1.6
stream   number, protocol, system, pickle, keys, then each storage          torch.save before, and inside pickles
pickle   each storage is a bytes object that holds such a stream            pickle.dump of a module
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from gendyn.importing.limits import Limits, Refused
from gendyn.importing.pickles import Bounded, load
from gendyn.importing.tensors import STORAGES, Storage, parameter, storage, tensor
from gendyn.importing.values import Inert, Name, check, key

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, ArithmeticError)
"""What zipfile raises for archives that are not in order."""
NESTED = 1000  # operations that a stream inside a pickle may have: it describes one storage


def read_pickle(file: BinaryIO, size: int, limits: Limits) -> Any:
    """A plain pickle whose tensors carry their storages with them."""
    if size > limits.structure:
        raise Refused(f"the pickle has {size:,} bytes, more than the {limits.structure:,} that are allowed.")
    value = load(Bounded(file, size), Vocabulary(limits), _nothing_outside, limits)
    check(value, limits)
    return value


def read_stream(file: BinaryIO, size: int, limits: Limits, vocabulary: Vocabulary | None = None) -> Any:
    """The stream layout. Storages are located now and read when their tensors are."""
    stream, vocabulary = Bounded(file, size), vocabulary or Vocabulary(limits)
    head = [load(stream, vocabulary, _nothing_outside, limits) for _ in range(3)]
    if head[:2] != [MAGIC, PROTOCOL] or not isinstance(head[2], dict):
        raise Refused("this is no file of torch.save, or one of an unknown version.")
    if not head[2].get("little_endian", True):
        raise Refused("the file was written on a big-endian machine, which is not supported.")
    known: dict[str, Storage] = {}
    value = load(stream, vocabulary, lambda identifier: _remembered(identifier, known), limits)
    check(value, limits)
    keys = load(stream, vocabulary, _nothing_outside, limits)
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or set(keys) != set(known):
        raise Refused("the storages that the file lists are not those that its tensors use.")
    for each in keys:
        _locate(file, stream, known[each])
    return value


def read_zip(archive: zipfile.ZipFile, limits: Limits) -> Any:
    """The zip layout. Storages are checked now and read when their tensors are."""
    sizes = {entry.filename: entry for entry in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in sizes if name.split("/", 1)[-1] == "data.pkl"]
    if len(roots) != 1:
        raise Refused("the archive holds no data.pkl where torch.save puts it.")
    root = roots[0]
    if f"{root}byteorder" in sizes and content(archive, f"{root}byteorder", 16) != b"little":
        raise Refused("the file was written on a big-endian machine, which is not supported.")
    known: dict[str, Storage] = {}

    def persistent(identifier: Any) -> Storage:
        found = _remembered(identifier, known)
        if found.read is None:
            name = f"{root}data/{identifier[2]}"
            if name not in sizes or sizes[name].file_size != found.nbytes:
                there = f"{sizes[name].file_size} bytes" if name in sizes else "absent"
                raise Refused(f"the entry {name[:100]} should have {found.nbytes} bytes, but is {there}.")
            found.read = lambda: content(archive, name, found.nbytes)
        return found

    data = content(archive, f"{root}data.pkl", limits.structure)
    value = load(Bounded(io.BytesIO(data), len(data)), Vocabulary(limits), persistent, limits)
    check(value, limits)
    return value


def opened(file: BinaryIO, limits: Limits) -> zipfile.ZipFile:
    """An archive whose declared sizes are within bounds."""
    try:
        archive = zipfile.ZipFile(file)
    except DAMAGED as error:
        raise Refused(f"the archive is damaged or cut short ({error}).") from None
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise Refused(f"the archive has {len(entries):,} entries, more than {limits.entries:,}.")
    if len({entry.filename for entry in entries}) != len(entries):
        raise Refused("the archive has two entries of one name.")
    size, packed = sum(e.file_size for e in entries), sum(e.compress_size for e in entries)
    if size > limits.tensors + limits.structure:
        raise Refused(f"the archive declares {size:,} bytes, more than are allowed (see --limit).")
    if size > max(limits.ratio * packed, 2**20):
        raise Refused(f"the archive would unpack to {size:,} bytes from {packed:,}, more than {limits.ratio:g} times.")
    return archive


def content(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """One entry whole, if it is no larger than `most`."""
    size = archive.getinfo(name).file_size
    if size > most:
        raise Refused(f"the entry {name[:100]} declares {size:,} bytes, more than {most:,}.")
    try:
        with archive.open(name) as entry:
            data = entry.read(size)
    except DAMAGED as error:
        raise Refused(f"the entry {name[:100]} cannot be read ({error}).") from None
    if len(data) != size:
        raise Refused(f"the entry {name[:100]} is cut short: {len(data)} of {size} bytes.")
    return data


class Vocabulary:
    """The names that checkpoints of PyTorch modules may contain, and what calling each makes here."""

    INERT = ("torch.nn.modules.", "training.networks.", "training.loss.", "training.augment.")
    """Classes of these modules become inert stand-ins, whatever their name."""

    def __init__(self, limits: Limits, nested: bool = True) -> None:
        self.limits, self.nested = limits, nested

    def __call__(self, full: str) -> Any:
        if full.startswith(self.INERT):
            return lambda *args: Inert(full, args)
        kind = full.rpartition(".")
        if kind[0] in ("torch", "torch.cuda") and kind[2] in STORAGES:
            return _not_called(full)
        return self._load_from_bytes if full == "torch.storage._load_from_bytes" else BUILDERS.get(full)

    def _load_from_bytes(self, data: Any) -> Storage:
        if not isinstance(data, bytes) or not self.nested:
            raise Refused("the file's storages are not laid out as torch.save does.")
        inner = replace(self.limits, operations=NESTED)
        found = read_stream(io.BytesIO(data), len(data), inner, Vocabulary(inner, nested=False))
        if not isinstance(found, Storage):
            raise Refused(f"the file has a {type(found).__name__} where a storage should be.")
        return found


def _remembered(identifier: Any, known: dict[str, Storage]) -> Storage:
    """The storage of this identifier, the same one each time."""
    where, found = storage(identifier)
    first = known.setdefault(where, found)
    if (first.dtype, first.count) != (found.dtype, found.count):
        raise Refused("the file describes one storage in two ways.")
    return first


def _locate(file: BinaryIO, stream: Bounded, found: Storage) -> None:
    """Where a storage of the stream begins; the stream is left behind it."""
    declared = int.from_bytes(stream.read(8), "little")
    start = stream.tell()
    if declared != found.count or start + found.nbytes > stream.size:
        raise Refused(f"the file is cut short: a storage of {found.nbytes:,} bytes is not there.")
    file.seek(start + found.nbytes)

    def read() -> bytes:
        file.seek(start)
        return file.read(found.nbytes)

    found.read = read


def _nothing_outside(identifier: Any) -> Any:
    raise Refused("the pickle refers to something outside itself, which only files of torch.save do.")


def _not_called(full: str) -> Any:
    """A name that stands as a value."""

    def refuse(*args: Any) -> Any:
        raise Refused(f"the pickle calls {full}, which is only a name; nothing was run.")

    return refuse


def _persistent(meta: Any) -> Inert:
    """An object of a persistent class: its class name and state. The source code that comes along is left alone."""
    if not (isinstance(meta, dict) and isinstance(meta.get("class_name"), str) and isinstance(meta.get("state"), dict)):
        raise Refused("a persistent object lacks its class name or state.")
    return Inert(meta["class_name"], state=meta["state"])


def _reconstructor(cls: Any, base: Any, state: Any) -> Any:
    """What protocols 0 and 1 make of an object: a stand-in, or the dict that it was derived from."""
    if not isinstance(cls, Name):
        raise Refused("the pickle reconstructs something that is no class; nothing was run.")
    return dict(state) if isinstance(state, dict) else Inert(cls.full)


def _pairs(items: Any = ()) -> dict[Any, Any]:
    pairs = list(items.items()) if isinstance(items, dict) else items
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(i, (list, tuple)) and len(i) == 2 for i in pairs):
        raise Refused("an ordered dict has items that are no pairs.")
    return {key(name): value for name, value in pairs}


def _set(items: Any = ()) -> set[Any]:
    if not isinstance(items, (list, tuple)):
        raise Refused("a set is made of something that is no list.")
    return {key(item) for item in items}


def _encode(text: Any, encoding: Any = None) -> bytes:
    """How protocol 2 spells bytes."""
    if encoding != "latin1":
        raise Refused("the pickle encodes a text in another way than bytes are spelled.")
    return text.encode("latin1")


NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


def _scalar(dtype: Any, data: Any) -> Any:
    """A numpy number as a Python one."""
    if not (isinstance(dtype, Inert) and dtype.args and dtype.args[0] in NUMBERS and isinstance(data, bytes)):
        raise Refused("the pickle holds a numpy scalar that is no plain number.")
    return np.frombuffer(data, np.dtype(dtype.args[0]))[:1].item()


def _size(items: Any = ()) -> tuple[Any, ...]:
    return tuple(items)


BUILDERS: dict[str, Any] = {
    "collections.OrderedDict": _pairs,
    "dnnlib.util.EasyDict": _pairs,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "torch._utils._rebuild_tensor": tensor,
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_parameter": parameter,
    "torch._utils._rebuild_parameter_with_state": parameter,
    "torch.Size": _size,
    "torch.device": lambda *args: Inert("torch.device", args),
    "_codecs.encode": _encode,
    "numpy.dtype": lambda *args: Inert("numpy.dtype", args),
}
BUILDERS |= dict.fromkeys(["builtins.set", "__builtin__.set"], _set)
BUILDERS |= dict.fromkeys(["copyreg._reconstructor", "copy_reg._reconstructor"], _reconstructor)
BUILDERS |= dict.fromkeys(["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"], _scalar)
BUILDERS |= {full: _not_called(full) for full in ("builtins.object", "__builtin__.object", "builtins.dict")}
BUILDERS |= {f"torch.{name}": _not_called(f"torch.{name}") for name in ("float32", "float16", "float64", "int64")}
