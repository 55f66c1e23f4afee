"""A study makes exactly the calls it says, in three programs, and goes on where it stopped."""

import jax
import numpy as np
import pytest

import gendyn as gd
from gendyn.samplers import study
from gendyn.samplers.run import _execute


@pytest.fixture(scope="module")
def model():
    process = gd.processes.EDM()
    mixture = gd.oracles.GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], [[0.01, 0.01], [0.04, 0.09]])
    return process, mixture.denoiser(process), process.sample_prior(jax.random.key(0), (32, 2))


def test_sixty_cells_compile_three_programs_and_make_the_summed_calls(model):
    process, D, x_T = model
    names = ["ddim", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "ipndm", "deis_rhoab2", "ancestral"]
    chosen = study.cells(names, ["karras", "uniform_lam"], [5, 8, 10, 50])
    prepared = study.prepare(process, chosen)
    assert len(prepared.plans) >= 60
    counting, count = study.calls(D)
    before = _execute._cache_size()
    rows = list(study.study(process, counting, x_T, chosen, key=jax.random.key(1), fine_steps=50))
    jax.effects_barrier()
    assert _execute._cache_size() - before <= 3
    assert count() == prepared.nfe + 2 * 50 + 1
    assert len(rows) == len(chosen)


def test_errors_fall_with_calls_and_refusals_say_why(model):
    process, D, x_T = model
    chosen = study.cells(["ddim", "heun"], ["uniform_lam"], [8, 33, 64])
    rows = {(r["sampler"], r["nfe"]): r for r in study.study(process, D, x_T, chosen)}
    # First order: eight times the calls, about an eighth of the error.
    assert 4 < rows["ddim", 8]["median_error"] / rows["ddim", 64]["median_error"] < 16
    assert rows["heun", 64]["rmse"] < 0.5 * rows["ddim", 64]["rmse"]
    assert "32, 34" in rows["heun", 33]["refused"]


def test_done_cells_are_left_out_and_the_rest_unchanged(model):
    process, D, x_T = model
    chosen = study.cells(["ddim", "dpmpp_2m"], ["karras"], [5, 10])
    whole = list(study.study(process, D, x_T, chosen))
    rest = list(study.study(process, D, x_T, chosen, done=[("ddim", "karras", 5), ("dpmpp_2m", "karras", 5)]))
    assert [r for r in whole if r["nfe"] == 10] == rest


def test_common_ends_apply_to_every_cell_and_quality_is_measured(model):
    process, D, x_T = model
    chosen = study.cells(["ddim"], ["karras", "uniform_lam"], [40])
    rows = list(
        study.study(process, D, x_T, chosen, quality=lambda x: {"spread": float(x.std())}, t_end=0.1, final_zero=False)
    )
    assert not any(row["clean"] for row in rows)
    assert rows[0]["spread"] == pytest.approx(rows[1]["spread"], rel=0.05)
    assert all(np.isfinite(row["rmse"]) and row["rmse"] < 0.1 for row in rows)


def test_flows_start_from_pure_noise(model):
    process = gd.processes.RectifiedFlow()
    mixture = gd.oracles.GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], [[0.01, 0.01], [0.04, 0.09]])
    x_T = process.sample_prior(jax.random.key(0), (32, 2))
    chosen = study.cells(["euler"], ["uniform_t"], [10, 80])
    few, many = study.study(process, mixture.denoiser(process), x_T, chosen)
    assert 4 < few["median_error"] / many["median_error"] < 16
