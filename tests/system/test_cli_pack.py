"""gendyn pack, and a run that trains on what it made."""

import json
import shutil

import numpy as np
import pytest

from gendyn.data import from_uint8, shards

pytestmark = pytest.mark.system


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, [40, 8, 8, 3], dtype=np.uint8)


@pytest.fixture
def file(tmp_path, pixels):
    np.savez(tmp_path / "a.npz", data=pixels, label=np.arange(40) % 4)
    return tmp_path / "a.npz"


def test_pack_verify_and_pack_again(file, gendyn, tmp_path, pixels):
    out = tmp_path / "out"
    made = gendyn("pack", file, "--out", out, "--shards", 4)
    assert made.status == 0, made.err
    assert "40 examples [8, 8, 3] (raw uint8, 4 classes), 4 shards" in made.out
    assert np.array_equal(shards(out).take(np.arange(40))["data"], from_uint8(pixels))
    again = gendyn("pack", file, "--out", out, "--shards", 4)
    assert (again.status, "already there, nothing to do" in again.out) == (0, True)
    checked = gendyn("pack", "--verify", out)
    assert (checked.status, "4 shards, 40 examples, split train: all checksums agree" in checked.out) == (0, True)
    path = out / "train-00002.array_record"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (out / "train-00003.array_record").unlink()
    refused = gendyn("pack", "--verify", out)
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "2 of 4 shards: " in refused.err
    assert f"{path} has another checksum; {out}/train-00003.array_record is missing" in refused.err


def test_an_encoder_by_name_is_run_and_noted(file, gendyn, tmp_path, pixels, monkeypatch):
    (tmp_path / "vae_for_test.py").write_text(
        "def encode(pixels):\n    return pixels[:, ::2, ::2].astype('float16') / 8\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    made = gendyn("pack", file, "--out", "out", "--encoder", "vae_for_test:encode", "--no-labels", "--split", "test")
    assert made.status == 0, made.err
    source = shards("out", "test")
    assert (source.shape, source.num_classes, source.index.layout.dtype) == ((4, 4, 3), None, "float16")
    assert np.array_equal(source[5]["data"], pixels[5, ::2, ::2] / np.float32(8))
    assert source.index.made_from["encoder"]["function"] == "vae_for_test:encode"
    assert len(source.index.made_from["encoder"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "needs SOURCE and --out DIR, or --verify DIR"),
        (["nowhere", "--out", "out"], "no data at"),
        (["a.npz", "--out", "out", "--encoder", "nothing"], "--encoder is MODULE:FUNCTION"),
        (["a.npz", "--out", "out", "--encoder", "json:nothing"], "--encoder is MODULE:FUNCTION"),
        (["a.npz", "--out", "out", "--shards", "0"], "shards must be positive, got 0"),
        (["a.npz", "--out", "a.npz/out"], "a.npz"),
        (["--verify", "nowhere"], "no shards in"),
    ],
)
def test_refusals_are_one_sentence(file, gendyn, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    refused = gendyn("pack", *argv)
    assert (refused.status, refused.err.count("\n")) == (1, 1), refused.err
    assert said in refused.err
    assert not (tmp_path / "out").exists()


def test_help_says_that_the_encoder_is_executed(gendyn):
    assert "which is executed" in " ".join(gendyn("pack", "--help").out.replace("│", " ").split())


EXPERIMENT = '''
from dataclasses import dataclass
from functools import partial

import gendyn as gd


@dataclass(frozen=True, kw_only=True)
class Config:
    """A small network on shards."""

    data: str
    steps: int = 4

    def source(self):
        return gd.data.mix({gd.data.shards(self.data): 3, gd.data.shards(self.data, "other"): 1})

    def experiment(self):
        return gd.training.Experiment(
            network=gd.networks.functional(partial(gd.networks.MLP, 2, width=8, depth=1)),
            objective=gd.objectives.Denoising(process=gd.processes.RectifiedFlow(), predicts="velocity"),
            source=self.source,
            shape=(2,),
            batch_size=8,
            steps=self.steps,
            log_every=1,
            optimizer=gd.training.adamw(1e-3),
            schedule=lambda step: 1e-3,
        )
'''


@pytest.mark.slow
def test_a_run_trains_on_a_mixture_of_shards_and_names_a_damaged_one(gendyn, tmp_path, rng):
    out, run = tmp_path / "out", tmp_path / "run"
    np.savez(tmp_path / "points.npz", data=rng.normal(size=[40, 2]))
    for split in ("train", "other"):
        assert gendyn("pack", tmp_path / "points.npz", "--out", out, "--split", split).status == 0
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    trained = gendyn("train", tmp_path / "experiment.py", "--data", out, "--out", run)
    assert trained.status == 0, trained.err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4
    copy = shutil.copytree(out, tmp_path / "copy")
    path = copy / "other-00000.array_record"
    path.write_bytes(path.read_bytes()[:-10])
    refused = gendyn("train", tmp_path / "experiment.py", "--data", copy, "--out", tmp_path / "run2")
    assert (refused.status, refused.err.count("\n")) == (1, 1), refused.err
    assert f"{path} has" in refused.err
