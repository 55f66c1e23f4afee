"""Tuned plans: what may move and what may not, exact optima, derivatives, and the promise never to be worse."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn import control, oracles, processes, samplers
from gendyn.samplers import SAMPLERS, MovingGrid, grids, run_eager, tune, tuning
from gendyn.samplers.plan import LEAVES, Row, assemble
from gendyn.samplers.tuning_free import Base, Family
from gendyn.samplers.tuning_solve import Problem

EDM = processes.EDM()
FLOW = processes.RectifiedFlow()
KEY = jax.random.key(0)
MIXTURE = oracles.GaussianMixture(
    [0.2, 0.5, 0.3], [[-1.0, 0.5], [0.6, 0.9], [0.3, -1.2]], [[0.04, 0.01], [0.02, 0.09], [0.01, 0.03]]
)
D = MIXTURE.denoiser(EDM)
QUICK = tuning.LevenbergMarquardt(iterations=4)
EVERYTHING = (tuning.Nodes(), tuning.Labels(), tuning.Rows(consistent=False))


def starts(process, n=8, dim=2):
    sigma = process.sigma(np.float64(process.interval[0]))
    return sigma * np.random.default_rng(0).standard_normal((n, dim))


def moving(name, process=EDM, n=5, **options):
    return MovingGrid(solver=SAMPLERS[name].build, grid=grids.karras(process, n, **options))


def family(start, *free):
    return Family(base=Base(start=start, example=(2,)), free=free)


def plans():
    """Every way in which rows can be written: stages, correctors, past eps, rows without a call, ends without lam."""
    yield "heun", gd.plan("heun", EDM, nfe=5)
    yield "singlestep", gd.plan("dpmpp_3s", EDM, nfe=5, grid="uniform_lam")
    yield "corrector", gd.plan("unipc_3", processes.VPLinear(), nfe=5)
    yield "past eps", gd.plan("ipndm", EDM, nfe=5)
    yield "skipped call", samplers.analytical_first_step(gd.plan("ipndm", EDM, nfe=5))
    yield "pure noise", gd.plan("dpmpp_2m", FLOW, nfe=4, grid="uniform_t")
    yield "padded", gd.plan("dpmpp_2m", EDM, nfe=4).pad(rows=7, window=4)
    rows = [Row(t=9.0, sx=np.array([0.1, 0.2]), sm=(0.8,), sc=0.3), Row(t=2.0, ec=0.5, sx=0.2, sm=(0.5, 0.4), sc=-0.1)]
    yield "per element, with constants", assemble(EDM, rows, name="test", order=1)


@pytest.mark.parametrize("plan", [pytest.param(plan, id=name) for name, plan in plans()])
def test_the_canonical_form_is_the_same_sampler(plan):
    x_T, D = starts(plan.process), MIXTURE.denoiser(plan.process)
    canonical = tuning.triangle(plan).plan(plan.info)
    assert canonical.nfe == canonical.rows == canonical.window == plan.nfe
    np.testing.assert_allclose(run_eager(canonical, D, x_T), run_eager(plan, D, x_T), rtol=1e-11, atol=1e-11)
    assert canonical.clock[-1, 1] == plan.clock[-1, 1]


def test_past_outputs_reach_as_far_as_they_may():
    """2M over three steps, written out: the state moves by sigma_e/sigma_s and only two outputs are used."""
    plan = gd.plan("dpmpp_2m", EDM, nfe=3, grid_options={"final_zero": False})
    canonical = tuning.triangle(plan).plan(plan.info)
    np.testing.assert_allclose(canonical.sx, plan.sx, rtol=1e-12)
    np.testing.assert_allclose(canonical.sm[:, :2], plan.sm, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(canonical.sm[:, 2], 0, atol=1e-14)


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "dpmpp_3m", "dpmpp_3s", "unipc_3", "deis_tab3", "ipndm"])
@pytest.mark.parametrize("process", [EDM, FLOW], ids=lambda process: type(process).__name__)
def test_zero_is_the_base_plan_on_the_host_and_traced(name, process, x64):
    start = moving(name, process, final_zero=False)
    students = family(start, *EVERYTHING)
    x_T, zero = starts(process), np.zeros(students.size)
    exact = run_eager(start.plan(), MIXTURE.denoiser(process), x_T)
    np.testing.assert_allclose(run_eager(students.plan(zero), MIXTURE.denoiser(process), x_T), exact, rtol=1e-10)
    traced = jax.jit(students.plan)(jnp.asarray(zero))
    for leaf in LEAVES:
        np.testing.assert_allclose(getattr(traced, leaf), getattr(students.plan(zero), leaf), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("final_zero", [True, False])
@pytest.mark.parametrize("builder", [grids.uniform_t, grids.karras])
@pytest.mark.parametrize("process", [EDM, FLOW], ids=lambda process: type(process).__name__)
def test_nodes_move_between_ends_that_stay(process, builder, final_zero):
    grid = builder(process, 6, final_zero=final_zero)
    part, base = tuning.Nodes(), Base(start=MovingGrid(solver=samplers.ddim, grid=grid), example=(2,))
    for seed, size in enumerate((0.1, 0.5, 2.0, 100.0)):
        moved = part.moved(size * np.random.default_rng(seed).standard_normal(part.shape(base)), grid)
        assert (moved.t[0], moved.alpha[-1], moved.sigma[-1]) == (grid.t[0], grid.alpha[-1], grid.sigma[-1])
        level = np.arctan2(moved.sigma, moved.alpha)
        assert (np.diff(level) <= 0).all()
        assert np.abs(level - np.arctan2(grid.sigma, grid.alpha))[1:-2].min() > 0


def test_labels_stay_on_the_clock_and_away_from_each_other():
    start = gd.plan("ddim", EDM, nfe=6, grid_options={"final_zero": False})
    students = family(start, tuning.Labels(reach=0.4))
    for size in (-100.0, 100.0):
        told = students.plan(size * np.ones(5)).t
        assert (np.diff(told) < 0).all()
        assert told[0] == 80.0  # where the plan starts
        assert told.min() >= 0.002
        lam = -np.log(start.t)
        assert (np.abs(-np.log(told) - lam) <= 0.4 * np.diff(lam).max() + 1e-12).all()
        assert (told[1:] != start.t[1:]).all()


@pytest.mark.parametrize("name", ["ddim", "dpmpp_3m", "ipndm", "unipc_3"])
@pytest.mark.parametrize("process", [EDM, processes.VPLinear()], ids=lambda process: type(process).__name__)
def test_kept_sums_keep_exactness_for_data_at_one_point(name, process):
    """D = c makes x = alpha c + sigma noise all along, whatever the grid, the labels and the corrections are."""
    start, point = moving(name, process, final_zero=False), np.array([0.7, -2.0])
    grid, x_T = start.grid, starts(process)
    noise = (x_T - grid.alpha[0] * point) / grid.sigma[0]
    exact = grid.alpha[-1] * point + grid.sigma[-1] * noise

    def error(consistent):
        students = family(start, tuning.Nodes(), tuning.Labels(), tuning.Rows(consistent=consistent))
        values = 0.3 * np.random.default_rng(1).standard_normal(students.size)
        return np.abs(run_eager(students.plan(values), lambda x, t: point + 0 * x, x_T) - exact).max()

    assert error(consistent=True) < 1e-11
    assert error(consistent=False) > 1e-2


def test_derivatives_agree_with_differences(x64):
    """Both optimisers' gradients, forward and reverse, against central differences of the penalty itself."""
    students = family(moving("dpmpp_2m", n=3, final_zero=False), *EVERYTHING)
    values = 0.1 * np.random.default_rng(2).standard_normal(students.size)
    made = tuning.pairs(students.base.plan, D, KEY, shape=(2,), num=6, calls=40)
    problem = Problem(family=students, D=D, pairs=made, distance=tuning.PseudoHuber(), batch=3, seed=0)
    scale = 0.05

    def loss(values):
        return problem.distance.penalty(problem.measures(students.plan(values), made), scale).mean()

    step = 1e-6
    exact = [(loss(values + step * v) - loss(values - step * v)) / (2 * step) for v in np.eye(students.size)]
    plan = students.plan(values)
    weights = problem.distance.weight(problem.measures(plan, made), scale)
    _, forward = problem.normal_equations(plan, problem.tangents(values), weights, most=2)
    reverse = problem.gradient(values, made, scale)
    np.testing.assert_allclose(forward * 2 / made.x_T.size, exact, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(reverse, exact, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("distance", [tuning.MeanSquare(), tuning.PseudoHuber(), tuning.LogSquare()])
def test_weights_are_the_slopes_of_penalties(distance):
    q, step = np.array([1e-4, 0.01, 1.0, 30.0]), 1e-6
    slope = (distance.penalty(q * (1 + step), 0.3) - distance.penalty(q * (1 - step), 0.3)) / (2 * step * q)
    np.testing.assert_allclose(distance.weight(q, 0.3), slope, rtol=1e-6)


def gaussian_gain(process, lam_start, lam_end, std):
    """x_e/x_T of the exact flow for data of N(0, std^2)."""
    rho = np.exp(-np.array([lam_start, lam_end]))
    return np.sqrt((std**2 + rho[1] ** 2) / (std**2 + rho[0] ** 2))


@pytest.mark.parametrize(("process", "clean"), [(EDM, False), (EDM, True), (FLOW, True)])
def test_the_teacher_is_the_exact_flow_between_the_same_ends(process, clean):
    plan = gd.plan("ddim", process, nfe=4, grid="uniform_t", grid_options={"final_zero": clean})
    fine = tuning.teacher(plan, calls=200)
    assert fine.nfe == 200
    assert (fine.t[0], fine.clock[-1, 1]) == (plan.t[0], pytest.approx(plan.clock[-1, 1]))
    D = oracles.GaussianMixture([1.0], [[0.0]], [[0.25]]).denoiser(process)
    got = run_eager(fine, D, np.ones((1, 1)))[0, 0]
    gain = gaussian_gain(process, *(np.log(80) * -1, np.log(500)), 0.5) if process == EDM else 0.5
    gain *= 0.25 / (0.25 + 0.002**2) if clean and process == EDM else 1.0
    assert got == pytest.approx(gain, rel=1e-4)


def test_ddim_on_a_gaussian_finds_the_optimal_grid():
    """DDIM's gain over the exact one is prod cos(theta_i - theta_{i+1}), theta = arctan(sigma/std): best uniform."""
    D = oracles.GaussianMixture([1.0], [[0.0]], [[0.25]]).denoiser(EDM)
    start = MovingGrid(solver=samplers.ddim, grid=grids.karras(EDM, 3, final_zero=False))
    tuned = tune(
        start,
        D,
        EDM,
        KEY,
        shape=(1,),
        free=(tuning.Nodes(),),
        distance=tuning.MeanSquare(),
        optimizer=tuning.Adam(steps=150, learning_rate=0.1),
        num=16,
        held_out=16,
    )
    theta = np.arctan(np.append(tuned.t, 0.002) / 0.5)
    np.testing.assert_allclose(np.diff(theta), np.diff(theta).mean(), rtol=0.02)
    gain = run_eager(tuned, D, np.ones((1, 1)))[0, 0] / gaussian_gain(EDM, -np.log(80), np.log(500), 0.5)
    assert gain == pytest.approx(0.65335892592, abs=2e-4)


@pytest.mark.slow
def test_numbers_per_element_solve_a_gaussian_with_unequal_variances():
    """Two calls and one consistent number per coordinate: each coordinate is linear, so each can be exact."""
    D = oracles.GaussianMixture([1.0], [[0.0, 0.0]], [[1.0, 0.01]]).denoiser(EDM)
    plan = gd.plan("ddim", EDM, nfe=2, grid_options={"final_zero": False})
    solver = tuning.LevenbergMarquardt(iterations=12)
    common = {"shape": (2,), "distance": tuning.MeanSquare(), "num": 16, "held_out": 16, "optimizer": solver}
    shared = tune(plan, D, EDM, KEY, free=(tuning.Rows(),), **common)
    each = tune(plan, D, EDM, KEY, free=(tuning.Rows(per_element=True),), **common)
    assert each.data_shape == (2,)
    fresh = tuning.pairs(plan, D, jax.random.key(1), shape=(2,), num=64)
    before, one, many = (np.median(tuning.errors(p, D, fresh)) for p in (plan, shared, each))
    assert one < before
    assert many < 0.01 * one


@pytest.fixture(scope="module")
def start():
    return moving("ipndm", n=5, final_zero=False)


@pytest.fixture(scope="module")
def tuned(start):
    return tune(
        start, D, EDM, KEY, shape=(2,), num=256, held_out=256, optimizer=tuning.LevenbergMarquardt(iterations=25)
    )


def test_tuning_clearly_reduces_the_error_on_fresh_starts(start, tuned):
    fresh = tuning.pairs(tuned, D, jax.random.key(1), shape=(2,), num=1024)
    before, after = (tuning.errors(plan, D, fresh) for plan in (start.plan(), tuned))
    assert np.median(after) < 0.2 * np.median(before)
    assert np.sqrt((after**2).mean()) < 0.7 * np.sqrt((before**2).mean())


def test_a_tuned_plan_is_an_ordinary_plan(start, tuned, tmp_path):
    assert (tuned.nfe, tuned.draws, tuned.order, tuned.process) == (5, 0, 0, EDM)
    assert tuned.t.dtype == np.float64
    samplers.save(tmp_path / "plan.npz", tuned)
    loaded = samplers.load(tmp_path / "plan.npz")
    assert samplers.difference(loaded, tuned) == ""
    assert loaded.info == tuned.info
    x_T = jnp.asarray(starts(EDM), jnp.float32)
    x = samplers.run(tuned, D, x_T)
    np.testing.assert_allclose(samplers.run(tuned.pad(rows=8, window=6), D, x_T), x, rtol=1e-5, atol=1e-6)
    both = jax.vmap(lambda plan: samplers.run(plan, D, x_T))(samplers.stack([tuned, start.plan()]))
    np.testing.assert_allclose(both[0], x, rtol=1e-4, atol=1e-5)


def test_provenance_is_in_the_notes(tuned):
    notes = json.loads(tuned.info.notes)
    assert notes["tuned_from"] == "ipndm_4"
    assert [stage["numbers"] for stage in notes["stages"]] == [5 + 4 + 10, 4 + 5 + 15]  # nodes stay in the second
    assert notes["held_out"]["tuned"]["median"] < notes["held_out"]["start"]["median"]
    assert notes["held_out"]["tuned"]["rmse"] <= notes["held_out"]["start"]["rmse"]


def small(start, D=D, key=KEY, **options):
    few = {"shape": (2,), "num": 32, "held_out": 32, "optimizer": QUICK, "free": (tuning.Labels(), tuning.Rows())}
    return tune(start, D, EDM, key, **(few | options))


@pytest.fixture(scope="module")
def light():
    return gd.plan("ddim", EDM, nfe=3, grid_options={"final_zero": False})


def test_same_key_same_plan(light):
    first = small(light)
    assert samplers.difference(first, small(light)) == ""
    assert samplers.difference(first, small(light, key=jax.random.key(1)))


def test_no_iterations_return_the_start_itself(light, start):
    assert small(light, optimizer=tuning.LevenbergMarquardt(iterations=0)) is light
    assert samplers.difference(small(start, optimizer=tuning.Adam(steps=0)), start.plan()) == ""


@dataclasses.dataclass(frozen=True)
class Astray:
    """An optimizer that gets lost, then stumbles on one good point, and gets lost again."""

    good: tuple[float, ...] = ()

    def iterates(self, problem):
        for values in (np.full(problem.family.size, 3.0), np.array(self.good), np.full(problem.family.size, np.nan)):
            if len(values):
                yield values


def test_never_worse_than_the_start_on_held_out_pairs(light):
    assert small(light, optimizer=Astray()) is light
    good = list(QUICK.iterates(problem(light)))[-1]
    found = small(light, optimizer=Astray(good=tuple(good)))
    assert samplers.difference(found, family(light, tuning.Labels(), tuning.Rows()).plan(good)) == ""


def problem(plan):
    students = family(plan, tuning.Labels(), tuning.Rows())
    made = tuning.pairs(plan, D, KEY, shape=(2,), num=64)
    return Problem(family=students, D=D, pairs=made.take(slice(32)), distance=tuning.PseudoHuber(), batch=32, seed=0)


def absolute(student, target):
    return jnp.abs(student - target).mean(axis=1)


def stretched(x):
    return x * jnp.array([1.0, 10.0])


@pytest.mark.parametrize(
    ("distance", "optimizer"),
    [
        (tuning.LogSquare(), QUICK),
        (tuning.PseudoHuber(features=stretched), QUICK),
        (absolute, tuning.Adam(steps=30, batch=16, every=10)),
    ],
    ids=["log", "features", "any function"],
)
@pytest.mark.slow
def test_distances(distance, optimizer, light):
    seen = []
    found = small(light, distance=distance, optimizer=optimizer, report=lambda *each: seen.append(each))
    notes = json.loads(found.info.notes)["held_out"]
    assert notes["tuned"]["median"] < 0.9 * notes["start"]["median"]
    assert found.order == 1
    assert [count for count, *_ in seen] == list(range(1, len(seen) + 1))


def test_conditions_are_used_in_turn_and_guidance_is_tuned_through(light):
    def shifted(x, t, cond):
        return D(x - jnp.asarray(cond, x.dtype)[:, None], t) + jnp.asarray(cond, x.dtype)[:, None]

    made = tuning.pairs(light, shifted, KEY, shape=(2,), num=7, cond=jnp.arange(3), calls=10)
    assert made.cond.tolist() == [0, 1, 2, 0, 1, 2, 0]
    guided, classes = control.cfg(jax.tree_util.Partial(shifted), 1.5, null=0), jnp.arange(3)
    found = small(light, D=guided, cond=classes)
    fresh = tuning.pairs(light, guided, jax.random.key(1), shape=(2,), num=64, cond=classes)
    assert np.median(tuning.errors(found, guided, fresh)) < 0.7 * np.median(tuning.errors(light, guided, fresh))


def test_plans_of_equal_size_share_the_compiled_programs():
    """Tracing D marks a compilation: after one solver has been tuned, another with as many calls adds none."""
    traced = []

    def counting(x, t, cond=None):
        traced.append(1)
        return D(x, t)

    counted = jax.tree_util.Partial(counting)
    sizes = []
    for name in ("ddim", "dpmpp_2m"):
        tune(moving(name, n=3, final_zero=False), counted, EDM, KEY, shape=(2,), num=8, held_out=8, optimizer=QUICK)
        sizes.append(len(traced))
    assert 0 < sizes[1] - sizes[0] < sizes[0]  # only the start itself, whose window is its own, is new


def refuses(*parts, **options):
    with pytest.raises(ValueError) as error:
        small(**options)
    for part in parts:
        assert part in str(error.value)


def test_refusals_say_what_to_do():
    plan = gd.plan("ddim", EDM, nfe=3)
    refuses("draws noise", "deterministic", start=gd.plan("ancestral", EDM, nfe=3))
    refuses("MovingGrid(solver=", start=plan, free=(tuning.Nodes(),))
    refuses("optimizer=Adam()", start=plan, distance=absolute)
    refuses("nothing can move", start=plan, free=())
    refuses("nothing can move", start=gd.plan("ddim", EDM, nfe=1))
    refuses("at least 1", start=plan, num=0)
    refuses("first row", start=samplers.analytical_first_step(gd.plan("ipndm", EDM, nfe=5)))
    with pytest.raises(ValueError, match="one process"):
        tune(plan, D, FLOW, KEY, shape=(2,))


def test_the_short_form_makes_the_calls_it_is_asked_for():
    for name, nfe in (("dpmpp_2m", 6), ("heun", 7), ("dpm2", 6), ("dpmpp_3s", 5)):
        assert tuning.moving(name, EDM, nfe).plan().nfe == nfe
    with pytest.raises(ValueError, match="heun makes 6 network calls on no grid"):
        tuning.moving("heun", EDM, 6)
    with pytest.raises(ValueError, match="as an ordinary plan"):
        tuning.moving("dpm_solver_v3", EDM, 6)
    assert tuning.moving("ddim", EDM, 4, partial(grids.karras, rho=5.0)).grid.name == "karras5"
