"""Arrays, npz files, foreign sequences, and what they refuse."""

import numpy as np
import pytest
from PIL import Image

from gendyn.data import SOURCES, CorruptData, Source, arrays, npz, open_source, wrap


def test_take_equals_one_by_one(rng):
    source = arrays(rng.integers(0, 256, [7, 4, 4, 3], dtype=np.uint8), rng.integers(0, 3, 7))
    batch = source.take(np.array([3, 3, 0]))
    for row, index in enumerate([3, 3, 0]):
        assert np.array_equal(batch["data"][row], source[index]["data"])
        assert batch["label"][row] == source[index]["label"]


def test_floats_are_taken_as_they_are_and_pixels_are_scaled():
    floats = arrays(np.array([[0.0], [255.0]]))
    pixels = arrays(np.array([[0], [255]], np.uint8))
    assert floats.take(np.arange(2))["data"].ravel().tolist() == [0.0, 255.0]
    assert pixels.take(np.arange(2))["data"].ravel().tolist() == [-1.0, 1.0]
    assert floats[0]["data"].dtype == pixels[0]["data"].dtype == np.float32


def test_float32_is_not_copied():
    data = np.zeros([3, 2], np.float32)
    assert np.shares_memory(arrays(data).data, data)


@pytest.mark.parametrize("source", [arrays(np.zeros([2, 3]), [0, 1]), wrap([np.zeros(3)])])
def test_protocol(source):
    assert isinstance(source, Source)
    assert source.shape == (3,)


def test_classes_may_be_more_than_the_labels_show():
    assert arrays(np.zeros([2, 1]), [0, 1]).num_classes == 2
    assert arrays(np.zeros([2, 1]), [0, 1], num_classes=10).num_classes == 10
    assert arrays(np.zeros([2, 1])).num_classes is None


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (np.zeros([0, 2]), None, "at least one example"),
        (np.float32(1.0), None, "at least one example"),
        (np.zeros([2, 2], np.int64), None, "got int64; convert it"),
        (
            np.array([[0.0], [np.nan], [np.inf]]),
            None,
            "2 of 3 examples hold NaN or infinity, the first is number 1",
        ),
        (np.zeros([2, 2]), [0, 1, 2], "labels must be 2 integers"),
        (np.zeros([2, 2]), [0.0, 1.0], "labels must be 2 integers"),
        (np.zeros([2, 2]), [-1, -1], "labels must not be negative, got -1; leave them out"),
    ],
)
def test_arrays_refuse(data, labels, message):
    with pytest.raises(ValueError, match=message):
        arrays(data, labels)


def test_labels_beyond_the_classes():
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got 3"):
        arrays(np.zeros([2, 2]), [0, 3], num_classes=3)


def test_npz_round_trip(tmp_path, rng):
    data, label = rng.normal(size=[5, 2]).astype(np.float32), np.arange(5)
    np.savez(tmp_path / "a.npz", data=data, label=label)
    source = npz(tmp_path / "a.npz")
    assert np.array_equal(source.data, data)
    assert np.array_equal(source.labels, label)
    assert npz(tmp_path / "a.npz", label=None).num_classes is None


def test_npz_with_other_names_lists_them(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros([2, 3]), classes=[0, 1])
    with pytest.raises(ValueError, match=r"no 'data' entry in .*found \['classes', 'images'\]; pass data="):
        npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="no 'klass' entry"):
        npz(tmp_path / "a.npz", data="images", label="klass")
    assert npz(tmp_path / "a.npz", data="images").num_classes is None
    assert npz(tmp_path / "a.npz", data="images", label="classes").num_classes == 2


def test_damaged_npz_is_named(tmp_path, rng):
    path = tmp_path / "a.npz"
    np.savez(path, data=rng.normal(size=[50, 2]))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(CorruptData, match=r"a.npz is not a complete"):
        npz(path)
    path.write_bytes(whole[:300] + bytes(100) + whole[400:])
    with pytest.raises(CorruptData, match=r"a.npz is damaged"):
        npz(path)


def test_missing_path_says_where_it_looked(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.npz"):
        npz(tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    "item",
    [np.full([2, 2, 1], 255, np.uint8), Image.new("L", (2, 2), 255), np.ones([2, 2, 1])],
    ids=["uint8", "grey pillow image", "float"],
)
@pytest.mark.parametrize("form", [lambda x: (x, 3), lambda x: {"data": x, "label": 3}], ids=["tuple", "mapping"])
def test_wrapped_items_of_every_form(item, form):
    example = wrap([form(item)], num_classes=4)[0]
    assert np.array_equal(example["data"], np.ones([2, 2, 1]))
    assert example["data"].dtype == np.float32
    assert example["label"] == 3


def test_wrapped_entries_of_another_name_and_others_that_travel_along():
    items = [{"image": np.zeros([2]), "label": 1, "caption": np.arange(4)}]
    source = wrap(items, data="image")
    assert sorted(source[0]) == ["caption", "data", "label"]
    with pytest.raises(ValueError, match=r"found \['caption', 'image', 'label'\]; pass data="):
        wrap(items)


def test_a_plain_list_of_two_numbers_is_a_point_and_not_a_pair():
    assert wrap([[0.5, 1.5]]).shape == (2,)


def test_wrapping_touches_one_item_only():
    class Lazy(list):
        classes = ("cat", "dog")
        touched = ()

        def __getitem__(self, index):
            self.touched += (index,)
            return super().__getitem__(index)

    items = Lazy([np.zeros(2)] * 100)
    source = wrap(items)
    assert items.touched == (0,)
    assert (len(source), source.num_classes) == (100, 2)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (np.zeros(3), r"item 1 is \[3\], item 0 is \[2\]"),
        (np.array([0, np.nan]), "item 1 of the wrapped list holds NaN"),
        ((np.zeros(2), 0.5), "a label must be an integer"),
        (np.zeros(2, int), "got int64; convert it"),
    ],
)
def test_wrapped_items_that_do_not_fit_are_named(second, message):
    with pytest.raises(ValueError, match=message):
        wrap([np.zeros(2), second])[1]


def test_wrapping_nothing():
    with pytest.raises(ValueError, match="empty list"):
        wrap([])


def test_every_named_source_opens_lazily():
    """A name and its options describe: nothing is looked at before the call."""
    assert all(callable(source) for source in SOURCES.values())
    with pytest.raises(FileNotFoundError):
        open_source("image_folder", path="no/such/folder")
    with pytest.raises(ValueError, match=r"no source 'imagenet', choose one of .*'digits'"):
        open_source("imagenet")
    assert len(open_source("synthetic2d", name="moons", n=10)) == 10


def test_a_folder_of_npz_is_one_source_in_order_of_name_with_its_fields(tmp_path, rng):
    data, base = rng.standard_normal([2, 7, 2]).astype(np.float32)
    label = np.array([0, 1, 0, 1, 0, 1, 0])
    for name, rows in (("b", slice(3, 7)), ("a", slice(0, 3))):
        np.savez(tmp_path / f"{name}.npz", data=data[rows], label=label[rows], base=base[rows])
    (tmp_path / ".c.npz.17.tmp").write_bytes(b"half")
    source = npz(tmp_path, fields=("base",), num_classes=3)
    assert (len(source), source.num_classes) == (7, 3)
    batch = source.take(np.arange(7))
    for found, wanted in ((batch["data"], data), (batch["base"], base), (batch["label"], label)):
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ValueError, match="fields="):
        npz(tmp_path, fields=("noise",))
    np.savez(tmp_path / "c.npz", data=data)
    with pytest.raises(ValueError, match=r"some .npz files in .* have labels and others none"):
        npz(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no .npz files"):
        npz(tmp_path / "..", fields=())
