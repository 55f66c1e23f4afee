"""The commands: what they make, and that everything wrong is one sentence with a remedy and a non-zero exit."""

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from gendyn.cli.main import COMMANDS
from gendyn.data import sample_files, shards
from gendyn.data.loader import permutation
from gendyn.training import load_config_class

pytestmark = pytest.mark.system
DIGITS = pathlib.Path(__file__).parents[2] / "experiments" / "digits_edm.py"


def refused(result, *parts):
    """One complaint on stderr, without a traceback, that says all of `parts`; nothing on stdout."""
    assert result.status not in (0, None)
    assert result.err.startswith("gendyn: ")
    assert "Traceback" not in result.err
    assert not result.out
    for part in parts:
        assert part in result.err, result.err


def samples(folder):
    with np.load(folder / "samples.npz") as found:
        return {name: found[name] for name in found.files}


# ---- help and names


def test_usage_lists_every_command(gendyn):
    for argv in ((), ("--help",)):
        result = gendyn(*argv)
        assert result.status == 0
        assert all(name in result.out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(gendyn, command):
    result = gendyn(command, "--help")
    assert result.status == 0
    assert f"gendyn {command}" in result.out


@pytest.mark.parametrize("argv", [("sample",), ("evaluate",), ("info",), ("train", "digits_edm")])
def test_every_option_of_a_command_is_explained(gendyn, argv):
    """Between an option and the next one there is a word that is not its type or its default."""
    text = re.sub(r"[│╭╮╰╯─]", " ", gendyn(*argv, "--help").out)
    explained = dict(re.findall(r"--([a-z-]+)(.*?)(?=\s--(?!no-)[a-z]|\Z)", text, flags=re.DOTALL))
    config = {field.name.replace("_", "-") for field in dataclasses.fields(load_config_class(DIGITS))}
    assert len(explained) > 1
    for option in explained.keys() - config:
        assert re.search(r"\b(?!default|required)[a-z]{4,}", explained[option]), option


def test_help_of_an_experiment_lists_its_options_and_the_commands(gendyn, tiny):
    result = gendyn("train", tiny, "--help")
    for option in ("--out", "--override", "--dry-run", "--devices", "--wandb", "--width", "--batch-size"):
        assert option in result.out
    assert "Width of the network." in result.out


def test_unknown_command_suggests_one(gendyn):
    refused(gendyn("trian"), "unknown command 'trian'", "did you mean `gendyn train`", "sample")


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (("train",), ("needs an experiment", "--help")),
        (("train", "digit_edm"), ("no experiment named 'digit_edm'", "Did you mean digits_edm?", "path of a .py file")),
        (("train", "no/such.py"), ("experiment file no/such.py does not exist",)),
        (("sample", "no/such/run"), ("is not a run directory", "does not exist", "gendyn train")),
        (("info", "no/such/run"), ("is not a run directory",)),
        (("evaluate", "no/such/run"), ("is not a run directory",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and value[0] in COMMANDS else "",
)
def test_unknown_names_are_refused(gendyn, argv, parts):
    refused(gendyn(*argv), *parts)


@pytest.mark.parametrize("argv", [("--widht", "3"), ("--width", "wide"), ("--steps",)])
def test_unknown_options_and_values_are_explained(gendyn, tiny, tmp_path, argv):
    result = gendyn("train", tiny, "--out", tmp_path / "run", *argv)
    assert result.status == 2
    assert "Traceback" not in result.err
    assert argv[0] in result.err
    assert "--help" in result.err
    assert not (tmp_path / "run").exists()


# ---- train


def test_dry_run_creates_nothing(gendyn, tiny, tmp_path):
    result = gendyn("train", tiny, "--out", tmp_path / "run", "--width", 24, "--dry-run")
    assert result.status == 0
    for part in ("width = 24", "parameters", "{'data': 8, 'fsdp': 1, 'tensor': 1, 'sequence': 1}", "memory"):
        assert part in result.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (("--batch-size", 20), ("batch_size 20 does not divide over 8 devices", "use 16 or 24")),
        (("--batch-size", 24, "--accumulate", 2), ("8 devices x 2 micro-batches", "use 16 or 32")),
        (("--count", 0), ("at least one example",)),
        (("--mesh", "fsdp=3"), ("fsdp=3", "does not fit 8 devices")),
        (("--mesh", "fdsp=2"), ("sizes of data, fsdp, tensor", "got 'fdsp=2'")),
        (("--devices", 99), ("--devices must lie in 1..8; got 99",)),
        (("--steps", 0), ("steps must be at least 1; got 0",)),
        (("--keep-last", 0), ("keep_last must be at least 1",)),
    ],
)
def test_bad_values_leave_nothing_behind(gendyn, tiny, tmp_path, argv, parts):
    refused(gendyn("train", tiny, "--out", tmp_path / "run", *argv), *parts)
    assert not list(tmp_path.iterdir())


def test_out_must_be_a_directory_of_ours(gendyn, tiny, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    refused(gendyn("train", tiny, "--out", tmp_path), "is not empty and holds no run", "choose another --out")
    refused(gendyn("train", tiny, "--out", tmp_path / "thesis.tex"), "is a file; name a directory")
    refused(gendyn("train", tiny, "--out", tmp_path / "thesis.tex" / "run"), "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_another_config_prints_its_difference(gendyn, tiny, trained):
    before = (trained / "config.json").read_text()
    result = gendyn("train", tiny, "--out", trained, "--steps", 30)
    refused(result, "holds a run of another config", "steps: 20 -> 30", "snapshot_every: 5 -> None", "--override")
    assert (trained / "config.json").read_text() == before


def test_override_continues_and_another_model_is_refused(gendyn, tiny, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    refused(gendyn("train", tiny, "--out", run, "--width", 32, "--override"), "of another model", "undo the change")
    assert gendyn("sample", run, "--num", 2).status == 0
    result = gendyn("train", tiny, "--out", run, "--steps", 22, "--override")
    assert result.status == 0
    assert "continuing from step 20" in result.err
    assert "trained 22 steps" in result.out


def test_damaged_files_are_one_sentence(gendyn, tiny, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "experiment.py").unlink()
    refused(gendyn("sample", run), "experiment.py does not exist")
    (run / "config.json").write_text('{"config": ')
    refused(gendyn("sample", run), "config.json is not valid JSON")
    refused(gendyn("info", run), "config.json is not valid JSON")
    refused(gendyn("train", tiny, "--out", run), "config.json is not valid JSON", "restore it or remove it")


def test_damaged_checkpoints_are_said_and_training_goes_on(gendyn, tiny, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "20" / "params")
    drawn = gendyn("sample", run, "--num", 2, "--ema", 0)
    assert "warning: checkpoint 20" in drawn.err
    assert "step 18" in drawn.out
    result = gendyn("train", tiny, "--out", run, "--snapshot-every", 5)
    assert result.status == 0
    assert "checkpoint 20 cannot be read" in result.err
    assert "continuing from step 18" in result.err


def test_divergence_exits_with_the_step(gendyn, tiny, tmp_path):
    poison = int(permutation(512, 0, epoch=0)[7 * 16])
    result = gendyn("train", tiny, "--out", tmp_path / "run", "--poison", poison, "--checkpoint-every", 3)
    assert result.status == 1
    assert "Traceback" not in result.err
    assert "not finite at step 8" in result.err
    assert "the last good checkpoint is step 6" in result.err
    assert gendyn("sample", tmp_path / "run", "--num", 2).status == 0


def test_fewer_devices_train_and_draw(gendyn, tiny, tmp_path):
    """The picture at the end is drawn on the run's own devices; the model then samples on all."""
    run = tmp_path / "run"
    result = gendyn("train", tiny, "--out", run, "--devices", 2, "--steps", 2)
    assert result.status == 0, result.err
    assert (run / "samples" / "step_0000002.png").stat().st_size > 0
    assert gendyn("sample", run, "--num", 3).status == 0


def test_a_field_that_is_an_option_too_is_named(gendyn, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Config:\n    mesh: int = 1\n\n"
        "    def experiment(self): ...\n"
    )
    refused(gendyn("train", file), "has the field 'mesh', which is an option of gendyn train too; rename the field")


# ---- sample, evaluate, info


@pytest.mark.slow
def test_a_sharded_run_goes_on_elsewhere_and_its_table_is_printed(gendyn, tiny, tmp_path):
    """Two steps with parameters cut over four devices, the rest on two whole copies; nothing of the run changes."""
    command = ("train", tiny, "--out", tmp_path, "--steps", 4)
    assert gendyn(*command, "--devices", 4, "--mesh", "fsdp=2,tensor=2", "--dry-run").status == 0
    result = gendyn("train", tiny, "--out", tmp_path, "--steps", 2, "--devices", 4, "--mesh", "fsdp=4")
    assert result.status == 0, result.err
    assert gendyn(*command, "--devices", 2, "--override").status == 0
    assert gendyn("sample", tmp_path, "--num", 4).status == 0
    assert "FLOPs per example" in gendyn("info", tmp_path, "--costs").out
    result = gendyn("info", tmp_path, "--mesh", "data=2,fsdp=4")
    for part in ("readout/kernel", "fsdp -", "8 devices, MiB on each: parameters"):
        assert part in result.out
    refused(gendyn("info", tmp_path, "--mesh", "pods=2"), "sizes of data, fsdp, tensor")


def test_samples_are_the_same_bytes_twice_and_the_same_in_other_batches(gendyn, trained, tmp_path):
    for name, batch in (("a", 256), ("b", 256), ("c", 8)):
        argv = ("--num", 20, "--batch", batch, "--sampler", "ancestral", "--nfe", 4, "--guidance", 2)
        result = gendyn("sample", trained, *argv, "--out", tmp_path / name)
        assert result.status == 0, result.err
        assert "20 samples, ancestral, 4 network calls" in result.out
    for file in ("samples.npz", "samples.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    a, c = samples(tmp_path / "a"), samples(tmp_path / "c")
    np.testing.assert_allclose(c["samples"], a["samples"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(a["label"], np.arange(20) % 3)
    how = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert (how["sampler"], how["nfe"], how["guidance"], how["num"], how["step"]) == ("ancestral", 4, 2.0, 20, 20)


def test_many_samples_are_files_that_parts_and_later_commands_complete(gendyn, trained, tmp_path):
    """Jobs draw every other file, a lost file is drawn again, and all are what one command draws at once."""
    argv = ("--num", 20, "--sampler", "ancestral", "--nfe", 4)
    many = ("sample", trained, *argv, "--shard", 8, "--out", tmp_path / "many")
    assert (
        "2 of 3 files of 8 samples, ancestral, 4 network calls each; 1 files are" in gendyn(*many, "--part", "0/2").out
    )
    absent = ("1 of the 3 files", "samples-00001-of-00003.npz")
    refused(gendyn("evaluate", trained, "--samples", tmp_path / "many"), *absent)
    assert "3 of 3 files" in gendyn(*many, "--part", "1/2").out
    (tmp_path / "many" / "samples-00000-of-00003.npz").unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "many").glob("*.npz")}
    assert gendyn(*many).status == 0
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "many").glob("*.npz")}.items()

    assert gendyn("sample", trained, *argv, "--out", tmp_path / "few").status == 0
    found = [np.concatenate(parts) for parts in zip(*sample_files(tmp_path / "many").read())]
    np.testing.assert_allclose(found[0], samples(tmp_path / "few")["samples"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[1], samples(tmp_path / "few")["label"])

    result = gendyn("evaluate", trained, "--samples", tmp_path / "many")
    assert "all samples: frechet" in result.out, result.err
    assert json.loads((tmp_path / "many" / "evaluation.json").read_text())["all"]["n"] == 20
    refused(gendyn(*many, "--seed", 1), "made otherwise (seed: 0 there, 1 here)", "choose another --out")
    refused(gendyn(*many, "--part", "2/2"), "--part is written i/n")
    (tmp_path / "many" / "samples-00001-of-00003.npz").write_bytes(b"PK")
    refused(gendyn("evaluate", trained, "--samples", tmp_path / "many"), "samples-00001-of-00003.npz cannot be read")

    records = (*argv, "--shard", 8, "--kind", "array_record", "--out", tmp_path / "records")
    assert gendyn("sample", trained, *records).status == 0
    source = shards(tmp_path / "records", "samples")
    np.testing.assert_array_equal(source.stored(np.arange(20))["data"], found[0])
    refused(gendyn("sample", trained, *argv, "--shard", 8, "--kind", "zip"), "a zip holds images of bytes")


def test_class_ema_and_step_are_obeyed(gendyn, trained, tmp_path):
    argv = ("--num", 4, "--class", 1, "--ema", 0.07, "--step", 18, "--seed", 5)
    result = gendyn("sample", trained, *argv, "--out", tmp_path)
    assert result.status == 0, result.err
    assert "step 18" in result.out
    assert "post-hoc EMA of relative width 0.07" in result.out
    assert samples(tmp_path)["label"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (("--sampler", "ddmi"), ("unknown sampler 'ddmi'", "ddim")),
        (("--grid", "karas"), ("unknown grid 'karas'", "karras")),
        (("--sampler", "heun", "--nfe", 4), ("heun cannot make exactly 4 network calls", "3, 5")),
        (("--nfe", 0), ("nfe must be at least 1",)),
        (("--class", 3), ("class must lie in 0..2; got 3",)),
        (("--ema", 0.5), ("EMA width", "0.289")),
        (("--step", 7), ("no checkpoint at step 7", "9, 18, 20")),
        (("--num", 0), ("at least 1",)),
        (("--batch", 0), ("at least 1",)),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) and str(value[0]).startswith("-") else "",
)
def test_samples_that_cannot_be_had_are_refused(gendyn, trained, argv, parts):
    refused(gendyn("sample", trained, "--num", 2, *argv), *parts)


def test_guidance_of_an_unconditional_model_is_refused(gendyn, tiny, tmp_path):
    assert gendyn("train", tiny, "--out", tmp_path, "--classes", "None", "--steps", 2).status == 0
    refused(gendyn("sample", tmp_path, "--guidance", 2), "needs a class-conditional model")
    refused(gendyn("sample", tmp_path, "--class", 0), "model without classes")


def test_sampling_needs_no_training_data(gendyn, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_NO_DATA", "1")
    assert gendyn("sample", trained, "--num", 2, "--out", tmp_path).status == 0
    assert gendyn("info", trained).status == 0


def test_evaluate_prints_n_and_floors(gendyn, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    result = gendyn("evaluate", run, "--num", 64)
    assert result.status == 0, result.err
    assert "floor" in result.out
    assert re.search(r"\b64\b", result.out)
    report = json.loads((run / "evaluation.json").read_text())
    assert report["sampling"]["num"] == 64
    assert report["report"]


def test_info_prints_the_run_and_every_parameter(gendyn, trained):
    result = gendyn("info", trained, "--parameters")
    assert result.status == 0
    for part in ("width = 16", "EDM(", "checkpoints 9, 18, 20 of 20 steps", "jax "):
        assert part in result.out
    assert re.search(r"stem/kernel +\(2, 16\) +data embed +input", result.out)
    assert re.search(r"readout/kernel +\(16, 2\) +embed data +output", result.out)
