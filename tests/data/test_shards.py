"""Shards: what was packed comes back, to any process and thread; damage is named."""

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from gendyn.data import (
    Batches,
    CorruptData,
    Packing,
    RandomCrop,
    batches,
    from_uint8,
    pack,
    random_flip,
    shards,
    verify,
)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, [23, 6, 5, 3], dtype=np.uint8)


@pytest.fixture
def labels(rng):
    return rng.integers(0, 4, 23)


@pytest.fixture
def packed(tmp_path, images, labels):
    """`packed(**options)` packs the images and labels as npz, in five shards unless told otherwise."""

    def run(name="shards", arrays=None, fields=(), encoder=None, **options):
        from gendyn.data import incoming

        np.savez(tmp_path / "a.npz", **({"data": images, "label": labels} if arrays is None else arrays))
        packing = Packing(**{"shards": 5, **options})
        pack(incoming(tmp_path / "a.npz", fields=fields), tmp_path / name, packing, encoder=encoder)
        return tmp_path / name

    return run


def test_every_example_comes_back_bit_by_bit(packed, images, labels):
    source = shards(packed())
    assert (len(source), source.shape, source.num_classes) == (23, (6, 5, 3), labels.max() + 1)
    assert [shard.examples for shard in source.index.shards] == [4, 5, 4, 5, 5]
    batch = source.take(np.arange(23))
    assert np.array_equal(batch["data"], from_uint8(images))
    assert np.array_equal(batch["label"], labels)
    assert batch["label"].dtype == np.int32
    assert batch["data"].flags.writeable


def test_any_order_with_repetitions(packed, images, rng):
    source, indices = shards(packed()), rng.integers(0, 23, 100)
    assert np.array_equal(source.stored(indices)["data"], images[indices])
    assert np.array_equal(source[7]["data"], from_uint8(images[7]))
    assert [example["label"] for example in source] == [source[i]["label"] for i in range(23)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_latents_and_fields(packed, rng, dtype):
    latents = rng.normal(size=[23, 2, 2, 4]).astype(np.float32)
    arrays = {"data": rng.integers(0, 256, [23, 4, 4, 1], dtype=np.uint8), "base": latents}
    folder = packed(arrays=arrays, fields=("base",), encoder=lambda x: x[:, :2, :2].astype(dtype) / dtype(7))
    source = shards(folder)
    batch = source.take(np.array([22, 3]))
    assert source.index.layout.dtype == np.dtype(dtype).name
    assert batch["data"].dtype == batch["base"].dtype == np.float32
    assert np.array_equal(batch["data"], (arrays["data"][[22, 3], :2, :2].astype(dtype) / dtype(7)).astype(np.float32))
    assert np.array_equal(batch["base"], latents[[22, 3]])
    assert source.num_classes is None
    assert "label" not in batch


def test_a_process_reads_its_own_rows_and_nothing_else(packed, monkeypatch):
    """Two processes, batches of six: three records each, and together those of the one process."""
    source, read = shards(packed()), []
    module = sys.modules[type(source).__module__]
    reader = module._reader

    class Counting:
        def __init__(self, path, *rest):
            self.path, self.reader = path, reader(path, *rest)

        def read(self, *places):
            read.append((self.path, *places))
            return self.reader.read(*places)

    monkeypatch.setattr(module, "_reader", Counting)
    seen = []
    for index, count in ((0, 2), (1, 2), (0, 1)):
        table = Batches(source=source, batch_size=6, seed=0, process_index=index, process_count=count)
        read.clear()
        for k in range(4):
            table[k]
        seen.append(list(read))
    assert [len(records) for records in seen] == [12, 12, 24]
    halves = [seen[0][3 * k : 3 * k + 3] + seen[1][3 * k : 3 * k + 3] for k in range(4)]
    assert [record for half in halves for record in half] == seen[2]


def test_threads_and_other_processes_read_the_same(packed, images, rng):
    source = pickle.loads(pickle.dumps(shards(packed())))
    orders = [rng.permutation(23) for _ in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda order: source.stored(order)["data"], orders))
    assert all(np.array_equal(data, images[order]) for data, order in zip(found, orders))


def test_the_loader_resumes_and_augments_encoded_images(packed, images):
    """Flips and crops of PNG shards are those of the same pixels in memory, at every step."""
    from gendyn.data import arrays

    source = shards(packed(encoding="png"))
    assert source.index.layout.encoding == "image"
    options = {"batch_size": 8, "seed": 3, "transforms": [random_flip, RandomCrop(4)]}
    memory = Batches(source=arrays(images), **{**options, "transforms": tuple(options["transforms"])})
    run = batches(source, **options, start=2)
    assert all(np.array_equal(next(run)["data"], memory[k]["data"]) for k in range(2, 6))


def test_files_are_ordinary_array_records(packed, images, labels):
    """Readable without gendyn: label in four bytes, then the pixels."""
    reader = ArrayRecordReader(str(packed() / "train-00001.array_record"))
    (record,) = reader.read(2, 3)
    assert record == int(labels[6]).to_bytes(4, "little") + images[6].tobytes()


def test_a_split_that_is_not_there_names_those_that_are(packed):
    folder = packed(split="valid")
    with pytest.raises(FileNotFoundError, match=r"no shards of split 'train'.*found the splits \['valid'\]"):
        shards(folder)


@pytest.mark.parametrize("keep", [0, 100, 2000, -1])
def test_a_truncated_shard_is_named(packed, keep):
    folder = packed(shards=1)
    path = folder / "train-00000.array_record"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptData, match=r"train-00000.array_record has [\d,]+ bytes, its index says [\d,]+; copy"):
        shards(folder)[0]


def test_a_shard_truncated_while_it_is_open_is_named(packed, tmp_path, rng):
    """The library then answers with empty records and no error."""
    arrays = {"data": rng.integers(0, 256, [64, 64, 64, 3], dtype=np.uint8)}
    source = shards(packed(arrays=arrays, shards=1))
    source[0]
    path = source.folder / "train-00000.array_record"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(CorruptData, match=r"train-00000.array_record, example 60, is damaged \(a record of 0 bytes\)"):
        source[60]


def test_a_changed_byte_is_found_when_read_and_by_its_checksum(packed, images):
    folder = packed(shards=1)
    path = folder / "train-00000.array_record"
    content = bytearray(path.read_bytes())
    content[content.index(images[7].tobytes()) + 40] ^= 1
    path.write_bytes(content)
    assert np.array_equal(shards(folder).stored(np.arange(7))["data"], images[:7])
    with pytest.raises(CorruptData, match=r"train-00000.array_record, example 7, is damaged .*hash mismatch"):
        shards(folder).take(np.arange(23))
    assert [(shard.file, fault) for shard, fault in verify(folder, "train")] == [(path.name, "has another checksum")]


def test_damage_reaches_the_loader_as_one_error(packed):
    folder = packed()
    (folder / "train-00003.array_record").write_bytes(b"")
    with pytest.raises(CorruptData, match=r"^\S+train-00003.array_record has 0 bytes"):
        next(batches(shards(folder), batch_size=23, seed=0))


def test_a_missing_shard_is_named(packed):
    folder = packed()
    (folder / "train-00002.array_record").unlink()
    with pytest.raises(FileNotFoundError) as error:
        shards(folder).take(np.arange(23))
    assert error.value.filename == str(folder / "train-00002.array_record")
    assert "".join(fault for _, fault in verify(folder, "train")) == "is missing"


def test_an_index_of_a_later_version(packed):
    folder = packed()
    path = folder / "train.index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(ValueError, match=r"train.index.json has format version 2, .* up to 1; update gendyn"):
        shards(folder)


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"version": 1, "encoding": "raw"}'])
def test_a_damaged_index_is_named(packed, text):
    folder = packed()
    (folder / "train.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"train\.index\.json"):
        shards(folder)


def test_an_image_that_does_not_decode_is_named(packed):
    """Every byte as it was written, but what was written is no image."""
    folder = packed(encoding="png", shards=1)
    path = folder / "train.index.json"
    path.write_text(path.read_text().replace('"shape": [\n    6,\n    5,', '"shape": [\n    5,\n    6,'))
    with pytest.raises(
        CorruptData, match=r"train-00000.array_record, example 4, is \[6, 5, 3\], its index says \[5, 6"
    ):
        shards(folder)[4]


def test_indices_out_of_range(packed):
    with pytest.raises(IndexError, match=r"indices must lie in 0\.\.22, got -1 to 3"):
        shards(packed()).take(np.array([3, -1]))
