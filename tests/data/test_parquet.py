"""Parquet files of images: columns, splits, classes, damage, and the two published sets."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gendyn.data import CorruptData, image_parquet


@pytest.fixture
def table(png):
    """Write a parquet file as the hub does: structs of bytes and path, perhaps labels, perhaps more columns."""

    def write(path, pixels, label=None, **columns):
        cells = [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(pixels)]
        labels = {} if label is None else {"label": label}
        path.parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.table({"image": cells, **labels, **columns}), path)
        return path

    return write


def test_parquet_of_structs(tmp_path, pixels, table):
    source = image_parquet(table(tmp_path / "a.parquet", pixels, label=[0, 1, 2, 0, 1, 2]))
    assert np.array_equal(source.data, pixels[..., None])
    assert source.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert source.num_classes == 3


def test_parquet_of_plain_bytes_without_labels(tmp_path, pixels, png):
    pq.write_table(pa.table({"id": [1, 2], "png": [png(p) for p in pixels[:2]]}), tmp_path / "a.parquet")
    source = image_parquet(tmp_path / "a.parquet")
    assert np.array_equal(source.data, pixels[:2, ..., None])
    assert source.labels is None


def test_limit_reads_fewer_rows_but_all_classes(tmp_path, pixels, table):
    source = image_parquet(table(tmp_path / "a.parquet", pixels, label=[0, 0, 0, 0, 0, 5]), limit=2)
    assert (len(source), source.num_classes) == (2, 6)


def test_class_names_from_hub_metadata(tmp_path, pixels, table):
    rows = pq.read_table(table(tmp_path / "a.parquet", pixels[:2], label=[0, 1]))
    hub = b'{"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}'
    pq.write_table(rows.replace_schema_metadata({b"huggingface": hub}), tmp_path / "a.parquet")
    source = image_parquet(tmp_path / "a.parquet")
    assert (source.class_names, source.num_classes) == (("a", "b", "c"), 3)


@pytest.mark.parametrize(
    "names",
    [
        ["train.parquet", "test.parquet"],
        ["train/0.parquet", "train/1.parquet", "test/0.parquet"],
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-0.parquet"],
    ],
)
def test_splits_of_a_folder(tmp_path, pixels, names, table):
    shards = np.array_split(np.arange(6), len(names))
    for name, rows in zip(names, shards):
        table(tmp_path / name, pixels[rows], label=rows)
    assert image_parquet(tmp_path, "train").labels.tolist() == list(range(6 - len(shards[-1])))
    assert image_parquet(tmp_path, "test").labels.tolist() == shards[-1].tolist()
    with pytest.raises(FileNotFoundError, match=r"no parquet files of split 'valid'.*found .*parquet"):
        image_parquet(tmp_path, "valid")


def test_corrupt_rows_are_named(tmp_path, pixels, png):
    cells = [{"bytes": png(p), "path": f"{i}.png"} for i, p in enumerate(pixels)]
    cells[1]["bytes"] = cells[1]["bytes"][:40]
    cells[4] = None
    pq.write_table(pa.table({"image": cells, "label": range(6)}), tmp_path / "a.parquet")
    with pytest.raises(CorruptData, match=r"^2 of 6 images do not decode: row 1 \(1.png\), row 4 "):
        image_parquet(tmp_path / "a.parquet")
    source = image_parquet(tmp_path / "a.parquet", on_corrupt="skip")
    assert source.labels.tolist() == [0, 2, 3, 5]
    assert source.skipped == ("row 1 (1.png)", "row 4")


def test_damaged_parquet_file_is_named(tmp_path, pixels, table):
    path = table(tmp_path / "a.parquet", pixels)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptData, match=r"a.parquet is not a complete parquet file"):
        image_parquet(path)


def test_damage_inside_a_file_is_named(tmp_path, pixels, table):
    path = table(tmp_path / "a.parquet", pixels)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(60) + whole[64:])  # the head of the first page
    with pytest.raises(CorruptData, match=r"a.parquet is damaged inside"):
        image_parquet(path)


def test_rows_without_a_label(tmp_path, pixels, table):
    with pytest.raises(ValueError, match="labels must be 6 integers"):
        image_parquet(table(tmp_path / "a.parquet", pixels, label=[0, 1, None, 1, 0, 1]))
    path = table(tmp_path / "b.parquet", pixels, label=[-1] * 6)
    with pytest.raises(ValueError, match="leave them out"):
        image_parquet(path)
    assert image_parquet(path, label=None).num_classes is None


def test_columns_that_are_not_there(tmp_path, pixels, table):
    path = table(tmp_path / "a.parquet", pixels, text=list("abcdef"))
    with pytest.raises(ValueError, match=r"no 'picture' column, found \['image', 'text'\]; pass image="):
        image_parquet(path, image="picture")
    with pytest.raises(ValueError, match="no 'klass' column"):
        image_parquet(path, label="klass")
    with pytest.raises(ValueError, match="column 'text' holds string"):
        image_parquet(path, label="text")
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(ValueError, match=r"no column holds encoded images .*found {'text': 'string'}"):
        image_parquet(path)


def test_a_file_without_rows(tmp_path, pixels, png):
    pq.write_table(pa.table({"image": [png(pixels[0])]}).slice(0, 0), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="at least one image"):
        image_parquet(tmp_path / "a.parquet")


@pytest.mark.parametrize(("name", "shape", "rows"), [("mnist", (28, 28, 1), 60_000), ("cifar10", (32, 32, 3), 50_000)])
def test_published_sets(shared, name, shape, rows):
    source = image_parquet(shared / "data" / name, "train", limit=500)
    assert pq.ParquetFile(shared / "data" / name / "train.parquet").metadata.num_rows == rows
    assert (len(source), source.shape, source.num_classes) == (500, shape, 10)
    assert set(source.labels.tolist()) == set(range(10))
    assert source.data.min() == 0
    assert source.data.max() == 255


@pytest.mark.slow
def test_mnist_has_its_known_mean(shared):
    """0.1307 of full ink: the constant in every MNIST tutorial."""
    source = image_parquet(shared / "data" / "mnist", "train")
    assert len(source) == 60_000
    assert abs(source.data.mean() / 255 - 0.1307) < 5e-5
