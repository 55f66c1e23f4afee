"""Plans survive the disk bit by bit; their difference is said in words; foreign files are refused."""

import numpy as np
import pytest

import gendyn as gd
from gendyn.processes import PROCESSES, describe, from_description
from gendyn.samplers.plan import LEAVES


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_processes_survive_their_description(name):
    process = PROCESSES[name]()
    assert from_description(describe(process)) == process


@pytest.mark.parametrize("sampler", ["heun", "ancestral", "ddim"])
def test_plan_survives_save_and_load(tmp_path, sampler):
    plan = gd.plan(sampler, gd.processes.VPCosine(), nfe=7)
    gd.samplers.save(tmp_path / "plan.npz", plan)
    again = gd.samplers.load(tmp_path / "plan.npz")
    assert again.info == plan.info
    for leaf in LEAVES:
        np.testing.assert_array_equal(getattr(again, leaf), getattr(plan, leaf))
    assert gd.samplers.difference(plan, again) == ""


def test_difference_names_what_changed():
    process = gd.processes.EDM()
    a, b = gd.plan("ddim", process, nfe=4), gd.plan("ddim", process, nfe=4, grid_options={"rho": 5.0})
    said = gd.samplers.difference(a, b)
    assert "t[1]" in said
    assert "sx[" in said
    assert "t[0]" not in said
    assert "rows: 4 -> 5" in gd.samplers.difference(a, gd.plan("ddim", process, nfe=5))


def test_tables_print_every_row():
    plan = gd.plan("heun", gd.processes.EDM(), nfe=5)
    assert len(str(plan).splitlines()) == 2 + plan.rows
    assert "5 network calls" in plan._repr_html_()


def test_foreign_files_are_refused_without_being_executed(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        gd.samplers.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("not a plan")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    np.savez(tmp_path / "pickled.npz", header=np.array([{"evil": 1}], dtype=object))
    for name in ("text.npz", "other.npz", "pickled.npz"):
        with pytest.raises(ValueError, match="not a saved plan"):
            gd.samplers.load(tmp_path / name)
