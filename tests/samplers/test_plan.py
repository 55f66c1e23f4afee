"""The table itself: assembling, padding, stacking, printing, keeping."""

import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn import oracles, processes
from gendyn.samplers import SAMPLERS, Row, assemble, grids, plan, run_eager, stack
from gendyn.samplers.plan import LEAVES

EDM = processes.EDM()
NAMES = sorted(SAMPLERS)


def table(name, n=7):
    """The named solver on a short grid above zero."""
    return SAMPLERS[name].build(EDM, grids.karras(EDM, n, final_zero=False))


def samples(plan):
    mixture = oracles.GaussianMixture([0.3, 0.7], [[-1.0], [1.0]], [[0.1], [0.3]])
    random = np.random.default_rng(0)
    x_T, noise = 80 * random.standard_normal((4, 1)), random.standard_normal((plan.rows, 4, 1))
    return run_eager(plan, mixture.denoiser(EDM), x_T, noise=noise)


def test_missing_terms_are_zero_and_windows_are_minimal():
    rows = [Row(t=0.5, sm=(1.0, 2.0)), Row(t=0.4, sn=(3.0,), call=False), Row(t=0.3, em=(4.0,), ec=5.0)]
    ours = assemble(EDM, rows, name="test", order=1)
    assert (ours.rows, ours.window, ours.draws, ours.data_shape) == (3, 2, 1, ())
    assert ours.sm.tolist() == [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
    assert ours.em.tolist() == [[0.0, 0.0], [0.0, 0.0], [4.0, 0.0]]
    assert ours.sn.tolist() == [[0.0], [3.0], [0.0]]
    assert (ours.ec.tolist(), ours.sx.tolist(), ours.om.tolist()) == ([0.0, 0.0, 5.0], [1.0] * 3, [1.0] * 3)
    assert (ours.nfe, ours.call.tolist()) == (2, [True, False, True])
    assert (ours.name, ours.order, ours.process) == ("test", 1, EDM)


def test_one_per_element_coefficient_makes_the_table_per_element():
    ours = assemble(EDM, [Row(t=0.5, sx=np.ones((3, 2))), Row(t=0.4, sm=(2.0,))], name="test", order=1)
    assert ours.data_shape == (3, 2)
    assert ours.sm.shape == (2, 1, 3, 2)
    assert (ours.rows, ours.window, ours.draws) == (2, 1, 0)


def test_noise_rows_are_those_whose_draw_is_used_now_or_later():
    rows = [Row(t=0.5), Row(t=0.4, sn=(0.0, 1.0)), Row(t=0.3, en=(1.0,)), Row(t=0.2)]
    assert assemble(EDM, rows, name="test", order=1).noise_rows == 2  # draw 0, by row 1, and draw 2
    assert plan("ancestral", EDM, nfe=5).noise_rows == 4  # none into the clean node
    assert plan("ddim", EDM, nfe=5).noise_rows == 0


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_neither_samples_nor_calls(name):
    ours = table(name)
    padded = ours.pad(rows=ours.rows + 3, window=ours.window + 2, draws=ours.draws + 1)
    assert (padded.rows, padded.window, padded.draws) == (ours.rows + 3, ours.window + 2, ours.draws + 1)
    assert (padded.nfe, padded.noise_rows, padded.info) == (ours.nfe, ours.noise_rows, ours.info)
    x_T = np.full((1, 1), 80.0)
    noise = np.random.default_rng(0).standard_normal((padded.rows, 1, 1))
    first, second = (run_eager(p, lambda x, t: np.tanh(x), x_T, noise=noise[: p.rows]) for p in (ours, padded))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_plans_survive_saving_copying_and_flattening(name, tmp_path):
    ours = table(name)
    np.savez(tmp_path / "plan.npz", **{leaf: getattr(ours, leaf) for leaf in LEAVES})
    with np.load(tmp_path / "plan.npz") as saved:
        loaded = dataclasses.replace(ours, **dict(saved))
    leaves, structure = jax.tree.flatten(ours)
    for other in (loaded, pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), jax.tree.unflatten(structure, leaves)):
        assert other.info == ours.info
        np.testing.assert_array_equal(samples(other), samples(ours))


@pytest.mark.parametrize("name", NAMES)
def test_every_plan_is_a_finite_float64_table(name):
    ours = table(name)
    for leaf in LEAVES:
        value = getattr(ours, leaf)
        assert isinstance(value, np.ndarray)
        assert value.dtype == (bool if leaf == "call" else np.float64)
        assert np.isfinite(value).all()
        assert len(value) == ours.rows


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_draw_own_disjoint_intervals_of_the_brownian_clock(name):
    """Otherwise `brownian` would hand correlated, or empty, draws to a plan that takes them for independent."""
    ours = table(name)
    drawing = (ours.en != 0).any(1) | (ours.sn != 0).any(1)
    start, end = ours.clock[drawing].T
    assert (end > start).all()
    assert (start[1:] >= end[:-1] - 1e-12).all()


def test_stack_pads_to_one_shape():
    several = [table("ddim", 3), table("heun", 5), table("ancestral", 4)]
    together = stack(several)
    assert together.t.shape == (3, 10)
    assert (together.rows, together.window, together.draws) == (10, 2, 1)
    assert together.nfe == sum(p.nfe for p in several)
    for i, one in enumerate(several):
        padded = one.pad(10, 2, 1)
        for leaf in LEAVES:
            np.testing.assert_array_equal(getattr(together, leaf)[i], getattr(padded, leaf))


def test_the_printed_table_shows_every_row_and_its_calls():
    ours = plan("heun", EDM, nfe=5)
    lines = ours.table().splitlines()
    assert lines[0] == "heun: order 2, 5 network calls, 5 rows, 0 draws"
    assert len(lines) == 2 + ours.rows
    assert sum(" x " in line for line in lines[2:]) == 5
    assert str(ours) == ours.table()


# --- Refusals --------------------------------------------------------------------------------------------------


def test_refusals_say_what_to_do():
    ours = table("ddim")
    with pytest.raises(ValueError, match=r"pad can only enlarge: the plan has rows=7"):
        ours.pad(rows=3)
    with pytest.raises(ValueError, match="at least one plan"):
        stack([])
    per_element = assemble(EDM, [Row(t=0.5, sx=np.ones(3))], name="test", order=1)
    with pytest.raises(ValueError, match=r"one shape; got data shapes \[\(\), \(3,\)\]"):
        stack([ours, per_element])
    with pytest.raises(ValueError, match="carries no description"):
        _ = stack([ours, ours]).name
    with pytest.raises(ValueError, match=r"coefficient sx of row 1 \(t = 0.4\) is not finite.*t_start="):
        assemble(EDM, [Row(t=0.5), Row(t=0.4, sx=np.inf)], name="test", order=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_grid_of_another_process_is_refused(name):
    with pytest.raises(ValueError, match="build both from one process"):
        SAMPLERS[name].build(processes.VE(), grids.karras(EDM, 7, final_zero=False))


def test_plans_are_differentiable_on_the_jax_path():
    """A grid of jax arrays gives a plan of jax arrays, so that nodes can be tuned; numpy never meets a tracer."""

    def last_coefficient(t):
        grid = grids.Grid(t=t, alpha=EDM.alpha(t), sigma=EDM.sigma(t), process=EDM)
        return SAMPLERS["ddim"].build(EDM, grid).sx[-1]

    gradient = jax.grad(last_coefficient)(jnp.array([3.0, 2.0, 1.0]))
    np.testing.assert_allclose(gradient, [0.0, -0.25, 0.5], atol=1e-6)  # sx = sigma_2/sigma_1
