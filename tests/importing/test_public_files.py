"""Checkpoints laid out as the public ones are: read without PyTorch and without running what they carry."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn.importing import Refused, adopt, export, read


def same(found, expected):
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)


@pytest.fixture
def marker(tmp_path, make, monkeypatch):
    """A file that the embedded source would write if anything executed it."""
    path = tmp_path / "executed"
    monkeypatch.setattr(make.Persistent, "source", f"open({str(path)!r}, 'w').close()")
    return path


@pytest.mark.parametrize("layout", ["pickle 2", "pickle 4", "pickle 5", "stream", "archive"])
def test_a_snapshot_is_read_and_its_source_stays_text(layout, make, small, tmp_path, marker):
    value = make.snapshot(small.tensors, small.kwargs)
    if layout.startswith("pickle"):
        data = make.dumps(value, protocol=int(layout[-1]))
    else:
        data = getattr(make, layout)(value)
    assert str(marker).encode() in data
    (tmp_path / "file.pkl").write_bytes(data)
    found = read(tmp_path / "file.pkl")
    assert not marker.exists()
    same(found.tensors, small.tensors)
    assert (found.wrapper, found.options, found.key) == ("EDMPrecond", small.kwargs, "ema")


def test_the_marker_would_be_written(make, small, marker):
    """That the test above can fail: executing the source does write the file."""
    exec(make.Persistent.source, {})
    assert marker.exists()


@pytest.mark.parametrize("layout", ["stream", "archive"])
def test_a_state_dict_is_read(layout, make, small, tmp_path):
    """With the versions that PyTorch hangs on its state dicts, and other entries beside the network."""
    tensors = {name: make.Tensor(value) for name, value in small.tensors.items()}
    (tmp_path / "a.pt").write_bytes(getattr(make, layout)(tensors))
    (tmp_path / "b.pt").write_bytes(getattr(make, layout)({"net": {}, "ema": tensors, "step": 3}))
    for name in ("a.pt", "b.pt"):
        same(read(tmp_path / name).tensors, small.tensors)
    with pytest.raises(Refused, match="no entry 'best'; it holds net, ema, step"):
        read(tmp_path / "b.pt", key="best")


def test_two_tensors_may_share_a_storage(make, tmp_path):
    """As views of one buffer do, transposed ones included."""

    class View(make.Tensor):
        def __init__(self, storage, offset, shape, strides):
            self.args = (storage, offset, shape, strides, False, {})

        def __reduce__(self):
            return super().__reduce__()[0], self.args

        array = np.zeros(())

    whole = make.Storage(np.arange(6.0))
    value = {"a": View(whole, 0, (2, 3), (3, 1)), "b": View(whole, 1, (2, 2), (1, 2))}
    (tmp_path / "views.pt").write_bytes(make.archive(value))
    found = read(tmp_path / "views.pt").tensors
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].tolist() == [[1, 3], [2, 4]]


@pytest.fixture(scope="module")
def run(make, small, tmp_path_factory):
    """The snapshot as a run directory."""
    folder = tmp_path_factory.mktemp("imported")
    (folder / "network-snapshot-000001.pkl").write_bytes(make.dumps(make.snapshot(small.tensors, small.kwargs)))
    adopt(read(folder / "network-snapshot-000001.pkl"), folder / "run")
    return folder / "run"


def test_an_imported_run_loads_as_the_network_that_it_was(run, small):
    """gd.load's denoiser against c_skip x + c_out F of the wrapper, written out at sigma = 1, sigma_data = 1/2."""
    model = gd.load(run)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    F = small.network.apply(small.params, x / np.sqrt(1.25), 0.0, jnp.array([1, 2]))
    expected = x / 5 + 0.5 / np.sqrt(1.25) * F
    np.testing.assert_allclose(model.denoiser(x, 1.0, jnp.array([1, 2])), expected, atol=2e-6)
    assert (model.shape, model.num_classes) == ((8, 8, 1), 2)
    assert model.process == gd.processes.EDM()


def test_a_run_remembers_its_file(run):
    config = json.loads((run / "config.json").read_text())["config"]
    path = run.parent / config["file"]
    assert config["sha256"] == read(path).sha256
    assert len(config["sha256"]) == 64
    assert config["entry"] == "ema"


def test_export_is_the_inverse_of_import(run, small, tmp_path):
    """Bit for bit, buffers included; and the file says enough to be imported again."""
    same(export(run, tmp_path / "again.safetensors"), small.tensors)
    found = read(tmp_path / "again.safetensors")
    same(found.tensors, small.tensors)
    adopt(found, tmp_path / "run")
    here, there = (vars(gd.load(folder).config) for folder in (run, tmp_path / "run"))
    assert {k: v for k, v in here.items() if k not in ("file", "sha256", "entry")} == {
        k: v for k, v in there.items() if k not in ("file", "sha256", "entry")
    }


def test_tensors_without_a_word_about_the_network(small, tmp_path):
    """Only the wrapper must be said: the architecture is read off names and shapes."""
    from safetensors.numpy import save_file

    save_file(small.tensors, tmp_path / "bare.safetensors")
    found = read(tmp_path / "bare.safetensors")
    with pytest.raises(Refused, match="pass --wrapper"):
        adopt(found, tmp_path / "run")
    config = adopt(found, tmp_path / "run", wrapper="vp")
    assert (config.width, config.multipliers, config.augment, config.num_classes) == (4, (1, 2), 9, 2)
    assert type(gd.load(tmp_path / "run").denoiser.precondition) is gd.predictions.VPPreconditioner


def test_pfgmpp_keeps_its_extra_dimensions(make, small):
    from gendyn.importing.edm import settings
    from gendyn.importing.experiment import Config
    from gendyn.importing.reading import Checkpoint

    known = {"tensors": small.tensors, "wrapper": "EDMPrecond", "name": "a", "sha256": "b"}
    given = small.kwargs | {"pfgmpp": True, "D": 2048}
    fields, tensors = settings(Checkpoint(options=given, **known))
    assert Config(**fields).process() == gd.processes.PFGMPP(D=2048)
    assert tensors.keys() == {name.removeprefix("model.") for name in small.tensors}
    assert "D" not in settings(Checkpoint(options=given | {"pfgmpp": False}, **known))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_blocks": 2}, "lacks"),
        ({"label_dim": 0}, "that this architecture lacks"),
        ({"model_channels": 8}, "in the architecture"),
        ({"resample_filter": [1, 3, 3, 1]}, "in the architecture"),
        ({"num_blocks": 10**9}, "whole number from 1 to"),
        ({"channel_mult": [1] * 1000}, "short list"),
        ({"img_resolution": "8"}, "whole number"),
        ({"resample_filter": [1, 1, 1]}, "even number of taps"),
        ({"encoder_type": "dense"}, "one of standard, skip, residual"),
        ({"embedding_type": ["fourier"]}, "one of positional, fourier"),
        ({"teacher": "x"}, "'teacher'"),
        ({"model_type": "UNet3D"}, "'UNet3D'"),
    ],
)
def test_options_that_do_not_fit_are_named(change, message, small, tmp_path):
    from gendyn.importing.reading import Checkpoint

    options = small.kwargs | change
    checkpoint = Checkpoint(tensors=small.tensors, wrapper="EDMPrecond", options=options, name="a", sha256="b")
    with pytest.raises(Refused, match=message):
        adopt(checkpoint, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_folder_in_use_is_left_alone(run, small):
    with pytest.raises(ValueError, match="not an empty directory"):
        adopt(read(run.parent / "network-snapshot-000001.pkl"), run)


def test_pathlib_and_text_name_a_file_alike(run):
    path = pathlib.Path(run.parent / "network-snapshot-000001.pkl")
    assert read(str(path)).sha256 == read(path).sha256
    with pytest.raises(FileNotFoundError, match="not a file"):
        read(path.parent / "absent.pkl")
