"""Packing: every kind of source, what is kept of an image, going on after a stop, and storage that fails."""

import errno
import io
import itertools
import json
import os
import resource
import sys
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gendyn.data import CorruptData, Packing, image_folder, incoming, pack, packing, shards
from gendyn.data.images import decode


@pytest.fixture
def colour(rng):
    """Seven coloured images of 9x7."""
    return rng.integers(0, 256, [7, 9, 7, 3], dtype=np.uint8)


LABELS = [0, 2, 1, 0, 2, 2, 1]


def jpeg(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def made(tmp_path, colour, png):
    """`made(kind)`: the images with their labels, as others would keep them."""

    def folder(path):
        for i, (pixels, label) in enumerate(zip(colour, LABELS)):
            (path / f"class{label}").mkdir(parents=True, exist_ok=True)
            (path / f"class{label}" / f"{i}.png").write_bytes(png(pixels))
        return path

    def edm(path, labels=LABELS, name="a.zip"):
        path.mkdir(exist_ok=True)
        names = [f"{i // 4:05d}/img{i:08d}.png" for i in range(len(colour))]
        with zipfile.ZipFile(path / name, "w") as archive:
            for name_, pixels in reversed(list(zip(names, colour))):  # order is that of the names
                archive.writestr(name_, png(pixels))
            listed = None if labels is None else [[n, label] for n, label in zip(names, labels)]
            archive.writestr("dataset.json", json.dumps({"labels": listed}))
        return path / name

    def webdataset(path, label="cls"):
        path.mkdir(exist_ok=True)
        for number, rows in enumerate([range(4), range(4, 7)]):
            with tarfile.open(path / f"{number:06d}.tar", "w") as archive:
                for i in rows:
                    text = str(LABELS[i]) if label == "cls" else json.dumps({"label": LABELS[i], "caption": "a"})
                    files = {"jpg": jpeg(colour[i]), label: text.encode(), "txt": b"a caption"}
                    for ending, content in files.items():
                        info = tarfile.TarInfo(f"some.folder/{i:04d}.{ending}")
                        info.size = len(content)
                        archive.addfile(info, io.BytesIO(content))
        return path

    def parquet(path):
        path.mkdir(exist_ok=True)
        for number, rows in enumerate([range(4), range(4, 7)]):
            cells = [{"bytes": png(colour[i]), "path": f"{i}.png"} for i in rows]
            table = pa.table({"image": cells, "label": [LABELS[i] for i in rows]})
            pq.write_table(table, path / f"train-{number:05d}-of-00002.parquet")
        return path

    def npz(path):
        path.mkdir(exist_ok=True)
        np.savez(path / "a.npz", data=colour, label=LABELS)
        return path / "a.npz"

    kinds = {"folder": folder, "zip": edm, "webdataset": webdataset, "parquet": parquet, "npz": npz}
    return lambda kind, **options: kinds[kind](tmp_path / kind, **options)


def order(kind):
    """A folder is read class by class, the others as they lie."""
    return sorted(range(7), key=lambda i: (LABELS[i], i)) if kind == "folder" else range(7)


@pytest.mark.parametrize("kind", ["folder", "zip", "webdataset", "parquet", "npz"])
def test_every_kind_of_source(made, tmp_path, colour, kind):
    source = incoming(made(kind))
    assert (source.kind, source.examples) == (kind, 7)
    pack(source, tmp_path / "out", Packing(shards=3))
    packed = shards(tmp_path / "out")
    expected = [decode(jpeg(pixels)) for pixels in colour] if kind == "webdataset" else colour
    batch = packed.stored(np.arange(7))
    assert np.array_equal(batch["data"], np.stack([expected[i] for i in order(kind)]))
    assert batch["label"].tolist() == [LABELS[i] for i in order(kind)]
    assert packed.num_classes == 3
    assert packed.class_names == (("class0", "class1", "class2") if kind == "folder" else ())
    assert [shard.examples for shard in packed.index.shards] == [2, 2, 3]
    assert packed.index.made_from["kind"] == kind


def test_labels_in_json_of_a_tar(made, tmp_path):
    pack(made("webdataset", label="json"), tmp_path / "out")
    assert shards(tmp_path / "out").take(np.arange(7))["label"].tolist() == LABELS


def test_a_zip_without_labels_and_labels_left_out(made, tmp_path):
    pack(made("zip", labels=None), tmp_path / "a")
    pack(made("npz"), tmp_path / "b", Packing(labels=False))
    assert shards(tmp_path / "a").num_classes is shards(tmp_path / "b").num_classes is None


def test_kept_files_are_the_very_bytes(made, tmp_path, colour):
    pack(made("webdataset"), tmp_path / "out", Packing(encoding="kept"))
    packed = shards(tmp_path / "out")
    assert [packed.records([i])[0][4:] for i in range(7)] == [jpeg(pixels) for pixels in colour]


def test_resized_images_are_not_kept_but_png(made, tmp_path):
    pack(made("webdataset"), tmp_path / "out", Packing(encoding="kept", resolution=4))
    packed = shards(tmp_path / "out")
    assert packed.shape == (4, 4, 3)
    assert packed.records([0])[0][4:].startswith(b"\x89PNG")


@pytest.mark.parametrize("sides", [(8, 13), (13, 8), (9, 9), (4, 4), (4, 3)])
def test_centre_crop_is_that_of_the_published_dataset_tool(tmp_path, rng, png, sides):
    """Written out from its description: the middle square by whole pixels, then Lanczos."""
    pixels = rng.integers(0, 256, [*sides, 3], dtype=np.uint8)
    side = min(sides)
    top, left = (sides[0] - side) // 2, (sides[1] - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    expected = np.asarray(square.resize((4, 4), Image.Resampling.LANCZOS))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(pixels))
    pack(tmp_path / "in", tmp_path / "out", Packing(resolution=4))
    assert np.array_equal(shards(tmp_path / "out").stored(np.array([0]))["data"][0], expected)
    assert np.array_equal(image_folder(tmp_path / "in", size=4).data[0], expected)


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_size_decides_the_number_of_shards(tmp_path, rng, encoding):
    data = rng.integers(0, 256, [300, 8, 8, 1], dtype=np.uint8)
    np.savez(tmp_path / "a.npz", data=data)
    index = pack(tmp_path / "a.npz", tmp_path / "out", Packing(shard_mb=0.005, encoding=encoding))
    assert [shard.examples for shard in index.shards] == ([128, 128, 44] if encoding == "raw" else [64] * 4 + [44])
    assert np.array_equal(shards(tmp_path / "out").stored(np.arange(300))["data"], data)


def test_again_does_nothing_and_another_source_is_refused(made, tmp_path):
    out = tmp_path / "out"
    pack(made("npz"), out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert before.keys() == {"train-00000.array_record", "train.index.json"}
    pack(made("npz"), out)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(ValueError, match=r"train.index.json belongs to another packing \(kind 'npz' there, 'zip' now"):
        pack(made("zip"), out)
    with pytest.raises(ValueError, match=r"\(resolution None there, 4 now\); choose another folder"):
        pack(made("npz"), out, Packing(resolution=4))
    pack(made("zip"), out, Packing(split="test"))
    assert len(shards(out, "test")) == len(shards(out)) == 7


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(Exception):
    pass


@pytest.mark.parametrize("shard_options", [{"shards": 4}, {"shard_mb": 0.005}])
def test_stopped_anywhere_it_goes_on_and_ends_in_the_same_bytes(tmp_path, rng, monkeypatch, shard_options):
    """Stopped at each file operation in turn; nothing is visible before the index, and only the rest is read again."""
    np.savez(tmp_path / "a.npz", data=rng.integers(0, 256, [300, 8, 8, 1], dtype=np.uint8), label=np.arange(300) % 7)
    options = Packing(**shard_options)
    encode = lambda pixels: pixels[:, :4].astype(np.float32) * len(pixels)  # sees the size of its batch
    whole = tmp_path / "whole"
    pack(tmp_path / "a.npz", whole, options, encoder=encode)
    replace = type(whole).replace
    for stop in itertools.count():
        calls, out = itertools.count(), tmp_path / f"out{stop}"

        def dies(self, target, calls=calls, stop=stop):
            if next(calls) == stop:
                raise Killed
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(type(whole), "replace", dies)
            patch.setattr(packing, "_write_json", lambda path, value: dies_json(path, value, dies))
            try:
                pack(tmp_path / "a.npz", out, options, encoder=encode)
                break
            except Killed:
                pass
        with pytest.raises(FileNotFoundError, match=r"packing did not finish|no shards of split|no data at"):
            shards(out)
        pack(tmp_path / "a.npz", out, options, encoder=encode)
        assert content(out) == content(whole)
    assert stop == 1 + 2 * len(shards(whole).index.shards) + 1


def dies_json(path, value, dies):
    """A note or an index, by way of a rename that may not happen."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.parent / ".a.tmp"
    temporary.write_text(json.dumps(value, indent=2, default=repr) + "\n")
    try:
        dies(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def test_a_note_that_is_none(made, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".train.packing.json").write_text("{}")
    with pytest.raises(ValueError, match=r"\.train\.packing\.json is no note of this version .*; remove it"):
        pack(made("npz"), tmp_path / "out")


def test_an_unfinished_folder_of_another_source_is_refused(made, tmp_path):
    out = tmp_path / "out"
    stop_at(out, made("npz"), 4, Packing(shards=3))
    with pytest.raises(ValueError, match=r"\.train\.packing\.json belongs to another packing \(shards 3 there, 2 now"):
        pack(made("npz"), out, Packing(shards=2))


def test_options_that_the_shards_so_far_do_not_depend_on_may_change(made, tmp_path, png, colour):
    """An image in the second shard is damaged: the same command with --skip-unreadable keeps the first."""
    folder = made("folder")
    (folder / "class2" / "5.png").write_bytes(b"damaged")
    with pytest.raises(CorruptData):
        pack(folder, tmp_path / "out", Packing(shards=2))
    rest = []
    index = pack(folder, tmp_path / "out", Packing(shards=2, skip_unreadable=True, num_classes=9), report=rest.append)
    assert (rest, index.examples, index.num_classes) == ([7], 6, 9)


def stop_at(out, source, items, options):
    """Pack until so many items of the source are done."""

    def report(done):
        if done >= items:
            raise Killed

    with pytest.raises(Killed):
        pack(source, out, options, report=report)


def test_the_first_image_that_does_not_decode_stops_it_by_name(made, tmp_path):
    folder = made("folder")
    (folder / "class1" / "6.png").write_bytes(b"damaged")
    with pytest.raises(CorruptData, match=r"folder: class1.6.png does not decode .*--skip-unreadable"):
        pack(folder, tmp_path / "out", Packing(shards=2))
    index = pack(folder, tmp_path / "other", Packing(shards=2, skip_unreadable=True))
    assert index.skipped == (os.path.join("class1", "6.png"),)
    assert (index.examples, index.num_classes) == (6, 3)
    for file in folder.rglob("*.png"):
        file.write_bytes(b"damaged")
    with pytest.raises(CorruptData, match="none of 7 images decodes"):
        pack(folder, tmp_path / "none", Packing(skip_unreadable=True))


def test_an_image_too_large_to_be_one_is_refused(tmp_path, monkeypatch, png, colour):
    """Pillow's guard against files that unpack to far more than they are."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(colour[0]))
    with pytest.raises(CorruptData, match=r"a\.png does not decode .*exceeds limit of 40 pixels"):
        pack(tmp_path / "in", tmp_path / "out")


def test_a_member_too_large_to_be_an_image_is_refused(made, monkeypatch):
    from gendyn.data import incoming as room

    monkeypatch.setattr(sys.modules[room.__module__], "LARGEST", 100)
    for kind in ("zip", "webdataset"):
        with pytest.raises(CorruptData, match=r"has \d+ bytes, more than an image may \(100\)"):
            incoming(made(kind))


def test_damaged_archives_are_named(made, tmp_path):
    path = made("zip")
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[:-30])
    with pytest.raises(CorruptData, match=r"a\.zip is damaged"):
        incoming(path)
    whole[whole.index(b"IDAT") + 20] ^= 255
    path.write_bytes(whole)
    with pytest.raises(CorruptData, match=r"a\.zip: 00001/img00000006\.png cannot be read \(Bad CRC"):
        pack(path, tmp_path / "out")
    tar = made("webdataset") / "000001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(CorruptData, match=r"000001\.tar (ends too early|is no complete)"):
        incoming(tar)
    tar.write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(CorruptData, match=r"000001\.tar is no complete, uncompressed tar"):
        incoming(tar)


def test_labels_that_do_not_fit(made, tmp_path):
    with pytest.raises(ValueError, match=r"labels in dataset.json must be integers"):
        incoming(made("zip", labels=[[0.5, 0.5]] * 7))
    with pytest.raises(ValueError, match=r"has the label 2, labels must lie in 0\.\.1"):
        pack(made("npz"), tmp_path / "out", Packing(num_classes=2))
    with pytest.raises(ValueError, match=r"has the label -3, labels must lie in 0\.\."):
        pack(made("zip", labels=[0, -3, 1, 0, 0, 0, 0]), tmp_path / "out")


def test_some_labels_are_none(made, tmp_path, png, colour):
    path = made("webdataset")
    with tarfile.open(path / "000001.tar", "a") as archive:
        info = tarfile.TarInfo("x.png")
        info.size = len(png(colour[0]))
        archive.addfile(info, io.BytesIO(png(colour[0])))
    with pytest.raises(ValueError, match=r"of 000001.tar: x labelled is False here and True before; .*--no-labels"):
        pack(path, tmp_path / "out")


def test_images_of_several_shapes(made, tmp_path, png, colour):
    folder = made("folder")
    (folder / "class2" / "5.png").write_bytes(png(colour[5][:5]))
    with pytest.raises(ValueError, match=r"class2.5.png is \[5, 7, 3\], those before it are \[9, 7, 3\]; pass --resol"):
        pack(folder, tmp_path / "out")
    assert pack(folder, tmp_path / "out2", Packing(resolution=3)).layout.shape == (3, 3, 3)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda x: x[:3].astype(float), r"finite floats \[7, \.\.\.\] for 7 images, got float64 of shape \[3, 9"),
        (lambda x: x / 0.0, "with NaN or infinity"),
        (lambda x: 1.0, r"got float64 of shape \[\]"),
    ],
)
def test_encoders_that_return_something_else(made, tmp_path, encoder, message):
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        pack(made("npz"), tmp_path / "out", encoder=encoder)


def test_what_is_no_data_set(tmp_path, made):
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.tar\.gz is none of \.zip, \.tar, \.parquet, \.npz and no folder"):
        incoming(tmp_path / "a.tar.gz")
    (made("webdataset") / "a.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"several kinds \(webdataset, npz\)"):
        incoming(tmp_path / "webdataset")
    with pytest.raises(ValueError, match=r"fields are entries of \.npz"):
        incoming(made("zip"), fields=("base",))
    with pytest.raises(ValueError, match="shards must be positive, got 0"):
        Packing(shards=0)


@pytest.fixture
def files_end_at():
    """`files_end_at(n)`: no file may grow beyond n bytes, as on a disk that fills; back to what it was afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [500, 3_000, 90_000])
def test_full_storage_names_the_file_and_shows_nothing_half_done(tmp_path, rng, files_end_at, room):
    np.savez(tmp_path / "a.npz", data=rng.integers(0, 256, [200, 16, 16, 3], dtype=np.uint8))
    files_end_at(room)
    with pytest.raises(OSError, match="File too large") as error:
        pack(tmp_path / "a.npz", tmp_path / "out", Packing(shard_mb=0.1))
    files_end_at(resource.RLIM_INFINITY)
    assert error.value.errno == errno.EFBIG
    assert error.value.filename.startswith(str(tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {".train.packing.json"}
    pack(tmp_path / "a.npz", tmp_path / "out", Packing(shard_mb=0.1))
    assert len(shards(tmp_path / "out")) == 200


def test_a_disk_that_fills_after_some_shards_keeps_them(tmp_path, rng, files_end_at):
    """The third shard is larger than the first two; with room again only the rest is packed."""
    data = rng.integers(0, 256, [300, 8, 8, 1], dtype=np.uint8)
    np.savez(tmp_path / "a.npz", data=data)
    options, done = Packing(shards=3), []

    def report(items):
        done.append(items)
        files_end_at(4_000 if items > 200 else resource.RLIM_INFINITY)

    with pytest.raises(
        OSError, match=r"File too large; the shards before it are whole; .*run the same command"
    ) as error:
        pack(tmp_path / "a.npz", tmp_path / "out", options, report=report)
    assert error.value.filename == str(tmp_path / "out" / "train-00002.array_record")
    files_end_at(resource.RLIM_INFINITY)
    rest = []
    pack(tmp_path / "a.npz", tmp_path / "out", options, report=rest.append)
    assert (done[0], rest[0]) == (64, 264)
    assert np.array_equal(shards(tmp_path / "out").stored(np.arange(300))["data"], data)


def test_storage_that_cannot_be_written(made, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"file") as error:
        pack(made("npz"), tmp_path / "file" / "out")
    assert error.value.filename
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(PermissionError) as error:
            pack(made("npz"), tmp_path / "closed")
        assert str(tmp_path / "closed") in str(error.value.filename)
