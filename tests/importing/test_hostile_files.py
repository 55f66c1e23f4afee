"""Files that want to run something, to eat memory, or that are simply broken: refused in one sentence.

Every case is read with memory traced, in a directory where an executed payload would leave a file.
"""

import io
import os
import pickle
import random
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from gendyn.importing import Limits, Refused, read

MOST = 24 * 2**20  # bytes that reading a hostile file may take at its peak
MOST_SECONDS = 20


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(full):
    """STACK_GLOBAL."""
    module, _, name = full.rpartition(".")
    return text(module) + text(name) + b"\x93"


START = b"\x80\x04"
EMPTY = b")"
REDUCE, BUILD, STOP, MEMOIZE = b"R", b"b", b".", b"\x94"
ORDERED = named("collections.OrderedDict")


def bomb(levels):
    """(t, t) of (t, t) of ... : 2^levels leaves in a few bytes each."""
    return START + b"K\x01" + b"2\x86" * levels + STOP


def in_archive(pickle_, entries=(), declared=None):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/data.pkl", pickle_)
        for name, content in dict(entries).items():
            made.writestr(name, content)
    return file.getvalue()


def squeezed(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npy_in_zip(header, content=b""):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        padded = header.encode().ljust(117) + b"\n"
        made.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + content)
    return file.getvalue()


def stored(count, key="0", kind="FloatStorage", extra=b"", first="storage"):
    """BINPERSID of ("storage", torch.FloatStorage, key, "cpu", count)."""
    number = b"\x8a\x08" + struct.pack("<q", count)
    return b"(" + text(first) + named(f"torch.{kind}") + text(key) + text("cpu") + number + extra + b"tQ"


def tensor_of(storage, shape=(1,), strides=(1,), offset=0):
    parts = [pickle.dumps(part, 2)[2:-1] for part in (offset, shape, strides, False)]
    return named("torch._utils._rebuild_tensor_v2") + b"(" + storage + b"".join(parts) + b"}t" + REDUCE


def weights(storage, **view):
    """An archive with a state dict of one tensor and four bytes of storage."""
    return in_archive(START + b"}" + text("w") + tensor_of(storage, **view) + b"s" + STOP, {"a/data/0": b"\0" * 4})


def in_stream(*pickles, tail=b""):
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    return b"".join([*(pickle.dumps(h, 2) for h in head), *pickles, tail])


def persistent(**meta):
    body = b"".join(text(k) + v for k, v in meta.items())
    return named("torch_utils.persistence._reconstruct_persistent_obj") + b"}(" + body + b"u\x85" + REDUCE


def loaded(content):
    """torch.storage._load_from_bytes(content)."""
    return named("torch.storage._load_from_bytes") + b"B" + struct.pack("<I", len(content)) + content + b"\x85" + REDUCE


TOUCH = "touch executed"
SYSTEM = named("posix.system") + text(TOUCH) + b"\x85" + REDUCE

RUNS_SOMETHING = {
    "os.system": (pickle.dumps(Call(os.system, TOUCH)), "system"),
    "eval": (pickle.dumps(Call(eval, f"__import__('os').system({TOUCH!r})")), "builtins.eval"),
    "exec": (pickle.dumps(Call(exec, "open('executed', 'w')"), 2), "exec"),
    "getattr": (START + named("builtins.getattr") + STOP, "builtins.getattr"),
    "import": (START + named("builtins.__import__") + text("os") + b"\x85R.", "__import__"),
    "dotted name": (START + text("torch") + text("os.system") + b"\x93.", "torch.os.system"),
    "a module like ours": (START + named("torch.nn.modulesx.system") + STOP, "modulesx"),
    "a name below a storage": (START + named("torch.FloatStorage.from_file") + STOP, "from_file"),
    "protocol 0": (b"cposix\nsystem\n(S'touch executed'\ntR.", "posix.system"),
    "instance opcode": (b"(S'touch executed'\niposix\nsystem\n.", "INST"),
    "object opcode": (START + b"(" + ORDERED + b"o.", "OBJ"),
    "nested in a persistent object": (
        START + persistent(type=text("class"), module_src=text("x"), class_name=text("A"), state=SYSTEM) + STOP,
        "posix.system",
    ),
    "nested in a storage": (START + loaded(pickle.dumps(Call(os.system, TOUCH), 2)) + STOP, "system"),
    "nested in a stream": (in_stream(pickle.dumps(Call(os.system, TOUCH), 2)), "system"),
    "nested in an archive": (in_archive(pickle.dumps(Call(os.system, TOUCH), 2)), "system"),
    "nested twice": (START + loaded(in_stream(START + loaded(b"x") + STOP)) + STOP, "not laid out"),
    "extension registry": (START + b"\x82\x01.", "EXT1"),
    "extension registry, long": (START + b"\x84\x01\x00\x00\x00.", "EXT4"),
    "text identifier": (b"Pposix\n.", "PERSID"),
    "buffer outside": (START + b"\x97.", "NEXT_BUFFER"),
    "call of a made object": (START + ORDERED + EMPTY + REDUCE + EMPTY + REDUCE + STOP, "calls a dict"),
    "call of a value's name": (START + named("torch.FloatStorage") + EMPTY + REDUCE + STOP, "only a name"),
    "named arguments": (START + ORDERED + EMPTY + b"}" + text("a") + b"Ns\x92.", "named arguments"),
    "state of a list": (START + b"]}b.", "state of a list"),
    "state of a name": (START + ORDERED + b"}" + text("__call__") + b"Nsb.", "state of a Name"),
    "state of a text": (START + text("a") + b"}b.", "state of a str"),
    "items of a name": (START + ORDERED + text("a") + b"Ns.", "sets items of a Name"),
    "appends to a tuple": (START + b")Na.", "appends to a tuple"),
    "global by number": (START + b"K\x01K\x02\x93.", "no text"),
    "reconstructor of a call": (START + named("copyreg._reconstructor") + b"(NNNtR.", "no class"),
    "reconstructor of object": (START + named("copyreg.__newobj__") + STOP, "__newobj__"),
    "encoding trick": (START + named("_codecs.encode") + text("a") + text("rot13") + b"\x86R.", "encodes"),
    "object array": (squeezed(w=np.array([Call(os.system, TOUCH)], object)), "Python objects"),
}

EATS_MEMORY = {
    "billion laughs": (bomb(60), "repeating itself"),
    "billion laughs as a key": (START + b"}" + bomb(60)[2:-1] + b"Ns.", "tuple for a key"),
    "billion laughs in a set": (START + b"\x8f(" + bomb(60)[2:-1] + b"\x90.", "tuple for a key"),
    "billion laughs by lists": (START + b"]\x94" + b"](h\x00h\x00e\x94h\x01" * 1 + STOP, "no network"),
    "list in itself": (START + b"]\x94h\x00a.", "contains itself"),
    "dict in itself": (START + b"}\x94" + text("a") + b"h\x00s.", "contains itself"),
    "state in itself": (
        START + named("torch.nn.modules.X") + EMPTY + REDUCE + MEMOIZE + b"}" + text("a") + b"h\x00sb.",
        "contains itself",
    ),
    "deep": (START + b"]" * 50_000 + b"a" * 49_999 + STOP, "levels deep"),
    "huge bytes": (START + b"\x8e" + struct.pack("<Q", 2**62) + b"abc", "cut short"),
    "huge text": (START + b"\x8d" + struct.pack("<Q", 2**40) + b"abc", "cut short"),
    "huge number": (START + b"\x8b" + struct.pack("<I", 2**31 - 1) + b"abc", "cut short"),
    "long decimal": (b"L" + b"9" * 1_000_000 + b"L\n.", "damaged"),
    "huge frame": (START + b"\x95" + struct.pack("<Q", 2**62) + b"N.", "no network"),
    "huge memo index": (START + b"Nr" + struct.pack("<I", 2**32 - 1) + STOP, "no network"),
    "huge storage": (weights(stored(2**40)), "should have"),
    "huge view": (weights(stored(1), shape=(2**20, 2**20), strides=(0, 0)), "larger than its storage"),
    "many dimensions": (weights(stored(1), shape=(1,) * 40, strides=(1,) * 40), "do not match"),
    "view beyond": (weights(stored(1), offset=1), "beyond its storage"),
    "view before": (weights(stored(1), strides=(-1,), shape=(1,)), "natural numbers"),
    "huge storage in a stream": (
        in_stream(START + tensor_of(stored(2**40)) + STOP, pickle.dumps(["0"]), tail=struct.pack("<q", 2**40)),
        "cut short",
    ),
    "zip bomb": (squeezed(w=np.zeros(30_000_000, np.float32)), "more than 100 times"),
    "array that lies": (
        npy_in_zip("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }", b"\0" * 4),
        "not what the file holds",
    ),
    "array header that is code": (npy_in_zip("{'descr': __import__('os').system('touch executed')}"), "damaged"),
}

IS_BROKEN = {
    "nothing": (b"", "cut short"),
    "noise": (random.Random(0).randbytes(1000), "damaged"),
    "no end": (START + b"N", "cut short"),
    "empty stack": (START + b".", "damaged"),
    "no mark": (START + b"t.", "damaged"),
    "unknown memo": (START + b"h\x05.", "damaged"),
    "a number": (pickle.dumps(3), "no network"),
    "a module without parts": (START + persistent(class_name=text("EDMPrecond")) + STOP, "lacks its class name"),
    "identifier in a plain pickle": (START + b"NQ.", "outside itself"),
    "identifier of a module": (in_archive(START + stored(1, first="module") + STOP), "no storage"),
    "identifier that is short": (in_archive(START + text("storage") + b"\x85Q."), "no storage"),
    "storage outside the archive": (weights(stored(1, key="../../../etc/passwd")), "absent"),
    "storage of objects": (weights(stored(1, kind="nn.modules.X")), "unknown kind"),
    "storage with a view": (weights(stored(1, extra=text("v"))), "views of storages"),
    "two sizes of one storage": (
        in_stream(START + b"(" + stored(1) + stored(2) + b"t.", pickle.dumps(["0"])),
        "in two ways",
    ),
    "parameter of a text": (START + named("torch._utils._rebuild_parameter") + text("a") + b"\x85R.", "no tensor"),
    "tensor of nothing": (START + tensor_of(b"N") + STOP, "holds no elements"),
    "archive without a pickle": (squeezed(), "no data.pkl"),
    "archive cut short": (weights(stored(1))[:-30], "damaged"),
    "storages not listed": (in_stream(START + tensor_of(stored(1)) + STOP, pickle.dumps([])), "are not those"),
    "unknown torch protocol": (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(7, 2) * 2, "unknown version"),
    "big-endian": (in_archive(START + b"N.", {"a/byteorder": b"big"}), "big-endian"),
}
ALL = {**RUNS_SOMETHING, **EATS_MEMORY, **IS_BROKEN}


@pytest.mark.parametrize("name", ALL)
def test_refused_in_one_sentence_at_bounded_cost(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, message = ALL[name]
    path = tmp_path / "file.pkl"
    path.write_bytes(data)
    began = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(Refused) as refused:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    said = str(refused.value)
    assert message in said
    assert "\n" not in said
    assert len(said) < 400
    assert peak < MOST
    assert time.perf_counter() - began < MOST_SECONDS
    assert not (tmp_path / "executed").exists()


def test_the_payloads_are_real(tmp_path, monkeypatch):
    """That the test above can fail: Python's own unpickler runs the first of them."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(RUNS_SOMETHING["os.system"][0])
    assert (tmp_path / "executed").exists()


def test_operations_and_tensors_are_counted(make, small, tmp_path):
    (tmp_path / "a.pkl").write_bytes(make.dumps(make.snapshot(small.tensors, small.kwargs)))
    with pytest.raises(Refused, match="more than 100 operations"):
        read(tmp_path / "a.pkl", limits=Limits(operations=100))
    with pytest.raises(Refused, match=r"the 1,000 allowed \(see --limit\)"):
        read(tmp_path / "a.pkl", limits=Limits(tensors=1000))
    with pytest.raises(Refused, match="than the 10 that are allowed"):
        read(tmp_path / "a.pkl", limits=Limits(structure=10))


@pytest.mark.parametrize("layout", ["pickle", "stream", "archive"])
def test_a_file_cut_anywhere_is_refused(layout, make, tmp_path):
    tensors = {f"layer{i}.weight": make.Tensor(np.ones((2, 3))) for i in range(2)}
    data = make.dumps(tensors) if layout == "pickle" else getattr(make, layout)(tensors)
    path = tmp_path / "file.pt"
    path.write_bytes(data)
    assert len(read(path).tensors) == 2
    for end in range(0, len(data), 7):
        path.write_bytes(data[:end])
        with pytest.raises(Refused):
            read(path)


@pytest.mark.parametrize("layout", ["pickle", "stream", "archive"])
def test_a_file_with_bytes_changed_is_read_or_refused(layout, make, tmp_path, monkeypatch):
    """Fixed seed, 300 files with one to four bytes changed: no other error, nothing run."""
    monkeypatch.chdir(tmp_path)
    tensors = {"weight": make.Tensor(np.ones((2, 3))), "bias": make.Tensor(np.ones(2))}
    data = make.dumps(tensors) if layout == "pickle" else getattr(make, layout)(tensors)
    path, dice, read_ = tmp_path / "file.pt", random.Random(1), 0
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            changed[dice.randrange(len(data))] = dice.randrange(256)
        path.write_bytes(changed)
        try:
            read(path)
            read_ += 1
        except Refused:
            pass
    assert 0 < read_ < 300
    assert [p.name for p in tmp_path.iterdir()] == ["file.pt"]


def test_safetensors_that_are_none(small, tmp_path):
    from safetensors.numpy import save

    whole = save(small.tensors)
    lies = struct.pack("<Q", 2**60) + whole[8:]
    for content in (b"", b"\0" * 100, whole[: len(whole) // 2], lies):
        (tmp_path / "file.safetensors").write_bytes(content)
        with pytest.raises(Refused, match="no safetensors file, or damaged"):
            read(tmp_path / "file.safetensors")
    (tmp_path / "file.safetensors").write_bytes(whole)
    with pytest.raises(Refused, match="--limit"):
        read(tmp_path / "file.safetensors", limits=Limits(tensors=100))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "no JSON"), ("[" * 100_000, "no JSON"), ("[1]", "list"), ('{"kwargs": 3}', "kwargs")]
)
def test_a_bad_configuration_is_refused(text, message, make, small, tmp_path):
    (tmp_path / "file.pkl").write_bytes(make.dumps({"w": make.Tensor(np.ones(2))}))
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(Refused, match=message):
        read(tmp_path / "file.pkl")
