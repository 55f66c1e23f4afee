"""Solver families: the identities that tie them together, their orders, what they refuse, and plans made from plans."""

import dataclasses
import importlib.util
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn import samplers as S
from gendyn.samplers import grids
from gendyn.samplers.orders import groups, step_orders
from gendyn.samplers.plan import LEAVES

VP, EDM, RF, VE = (gd.processes.VPLinear(), gd.processes.EDM(), gd.processes.RectifiedFlow(), gd.processes.VE())
ALL = {name: make() for name, make in gd.processes.PROCESSES.items()}
MIXTURE = gd.oracles.GaussianMixture([0.4, 0.6], [[-1.0, 0.3], [0.8, -0.2]], [[0.15, 0.05], [0.4, 0.3]])


def uneven(process, n=9, final_zero=False):
    """Interior nodes with step ratios between 0.6 and 1.7."""
    u = np.linspace(0, 1, n + 1)
    return grids.explicit(process, lam=-3 + 6 * (u + 0.1 * np.sin(2 * np.pi * u)), final_zero=final_zero)


def sample(plan, seed=0):
    """The plan on the mixture, from a fixed state."""
    process = plan.process
    t = float(plan.t[0])
    x_T = process.alpha(t) * 0.3 + process.sigma(t) * np.random.default_rng(seed).standard_normal((16, 2))
    return S.run_eager(plan, MIXTURE.denoiser(process), x_T)


def assert_same(one, other, rtol=1e-9):
    """Two plans are the same sampler: same network calls, same samples."""
    assert one.nfe == other.nfe
    a, b = sample(one), sample(other)
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


def different(one, other):
    return np.abs(sample(one) - sample(other)).max() > 1e-4


# --- Identities ---------------------------------------------------------------------------------------------------

FIRST_ORDER = {
    "dpmpp": lambda p, g: S.dpmpp(p, g, order=1),
    "dpmpp singlestep": lambda p, g: S.dpmpp(p, g, order=1, kind="singlestep"),
    "dpm_solver": lambda p, g: S.dpm_solver(p, g, order=1),
    "unip": lambda p, g: S.unipc(p, g, order=1, corrector=False),
    "unip noise": lambda p, g: S.unipc(p, g, order=1, corrector=False, form="noise"),
    "deis tAB": lambda p, g: S.deis(p, g, order=0, kind="tAB"),
    "deis rhoAB": lambda p, g: S.deis(p, g, order=0, kind="rhoAB"),
    "deis logrhoAB": lambda p, g: S.deis(p, g, order=0, kind="logrhoAB"),
    "ipndm": lambda p, g: S.ipndm(p, g, order=1),
    "lms": lambda p, g: S.lms(p, g, order=1),
    "orders=1": lambda p, g: S.dpmpp(p, g, order=3, orders=[1] * g.steps),
}


@pytest.mark.parametrize("process", [VP, EDM, RF, VE], ids=str)
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_first_order_of_every_family_is_ddim(name, process):
    assert_same(FIRST_ORDER[name](process, uneven(process)), S.ddim(process, uneven(process)))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_polynomial_in_time_is_polynomial_in_rho_on_edm(order):
    """EDM's clock is rho; on VP the two differ."""
    tab, rhoab = (lambda p, k=k: S.deis(p, uneven(p), order=order, kind=k) for k in ("tAB", "rhoAB"))
    assert_same(tab(EDM), rhoab(EDM))
    assert different(tab(VP), rhoab(VP))


@pytest.mark.parametrize("process", ALL.values(), ids=ALL)
def test_polynomial_in_log_rho_is_taylor_multistep_in_noise_form(process):
    """Two roads to one rule: quadrature over d rho, and phi-functions of h (2M), or of e^{z(1-s)} ds (any order)."""
    grid = uneven(process)
    assert_same(
        S.deis(process, grid, order=1, kind="logrhoAB"),
        S.dpm_solver(process, grid, order=2, rule="taylor", lower_order_final=False),
    )
    three = S.dpm_solver(process, grid, order=3, rule="taylor", curvature=2, lower_order_final=False)
    assert_same(S.deis(process, grid, order=2, kind="logrhoAB"), three)


@pytest.mark.parametrize("form", ["data", "noise"])
def test_unip_of_order_three_is_the_third_order_taylor_multistep(form):
    """Without corrector only the two-output step at the start differs, so start both at the same orders."""
    orders = [1, 1, 3, 3, 3, 3, 3, 3, 2]
    dpm = {"data": S.dpmpp, "noise": S.dpm_solver}[form]
    unip = S.unipc(VP, uneven(VP), order=3, form=form, corrector=False, orders=orders)
    assert_same(unip, dpm(VP, uneven(VP), order=3, curvature=2, orders=orders))


def test_bh2_predictor_of_order_two_is_the_midpoint_rule():
    grid = uneven(VP)
    unip = S.unipc(VP, grid, order=2, corrector=False, lower_order_final=False)
    assert_same(unip, S.dpmpp(VP, grid, orders=[1] + [2] * 8))


def test_bh_variants_differ_only_below_order_three():
    """B cancels where the polynomial is used: rows built from three outputs or more agree."""
    grid = uneven(VP, 12)
    one, two = (S.unipc(VP, grid, order=4, variant=v, lower_order_final=False) for v in ("bh1", "bh2"))
    np.testing.assert_allclose(one.sm[4:], two.sm[4:], rtol=1e-10, atol=1e-14)
    assert not np.allclose(one.sm[:3], two.sm[:3], rtol=1e-3)


def test_constant_step_weights_are_right_exactly_when_steps_are_constant():
    equal = grids.explicit(EDM, sigmas=np.linspace(3.0, 0.3, 10))
    assert_same(S.ipndm(EDM, equal), S.lms(EDM, equal))
    assert different(S.ipndm(EDM, uneven(EDM)), S.lms(EDM, uneven(EDM)))


def test_variable_step_ipndm_is_rhoab():
    """Correct weights are DEIS's; the published formulas agree for two outputs, and for three on equal steps."""
    grid, equal = uneven(VP), grids.explicit(EDM, sigmas=np.linspace(3.0, 0.3, 10))

    def published(order, g):
        return S.ipndm(g.process, g, order=order, steps_are="published_variable")

    assert_same(S.ipndm(VP, grid, steps_are="variable"), S.deis(VP, grid, order=3, kind="rhoAB"))
    assert_same(published(2, grid), S.deis(VP, grid, order=1, kind="rhoAB"))
    assert_same(published(3, equal), S.lms(EDM, equal, order=3))
    assert different(published(3, grid), S.deis(VP, grid, order=2, kind="rhoAB"))
    assert different(published(4, equal), S.lms(EDM, equal, order=4))


@pytest.mark.parametrize("process", [VP, EDM, RF], ids=str)
def test_rk_heun_is_edm_heun_and_dpm2_is_two_stage_dpm_solver(process):
    outer = uneven(process, 5)
    assert_same(S.deis_rk(process, outer, method="heun2"), S.heun(process, outer))
    cut = grids.subdivide(outer, [2] * 5)
    assert_same(S.dpm2(process, outer), S.dpm_solver(process, cut, order=2, kind="singlestep"))


def test_rk_tableaux_satisfy_the_order_conditions():
    """Butcher's conditions up to order 4, from the coefficients alone."""
    for name, tableau in S.TABLEAUX.items():
        stages = len(tableau.b)
        a = np.zeros((stages, stages))
        for i, line in enumerate(tableau.a, start=1):
            a[i, : len(line)] = line
        b, c = np.array(tableau.b), a.sum(1)
        sums = {
            1: [(b.sum(), 1)],
            2: [(b @ c, 1 / 2)],
            3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
            4: [(b @ c**3, 1 / 4), (b * c @ a @ c, 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)],
        }
        for order in range(1, tableau.order + 1):
            for got, wanted in sums[order]:
                np.testing.assert_allclose(got, wanted, err_msg=f"{name}, order {order}", rtol=1e-14)


def test_data_form_does_not_depend_on_the_schedule():
    """Every path is EDM's in x/alpha: the same lam nodes give alpha times the same samples."""
    for name in ("dpmpp_2m", "dpmpp_3s", "unipc", "deis_rhoab2", "ipndm", "dpm2"):
        plans = {p: S.SAMPLERS[name].build(p, uneven(p)) for p in (VP, EDM, RF)}
        y_T = np.random.default_rng(1).standard_normal((8, 2)) * np.exp(3)
        ends = []
        for process, plan in plans.items():
            alpha = uneven(process).alpha
            x = S.run_eager(plan, MIXTURE.denoiser(process), alpha[0] * y_T)
            ends.append(x / alpha[-1])
        np.testing.assert_allclose(ends[1:], [ends[0]] * 2, rtol=1e-8)


# --- Order --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured_order():
    """The shared measurement of test_order.py: history seeded from the exact trajectory."""
    path = pathlib.Path(__file__).with_name("test_order.py")
    spec = importlib.util.spec_from_file_location("order_measurement", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.measured_order


ORDERS = {
    "2M Taylor": (lambda p, g: S.dpmpp(p, g, rule="taylor"), 2),
    "2S Taylor": (lambda p, g: S.dpmpp(p, g, kind="singlestep", rule="taylor"), 2),
    "3S Taylor": (lambda p, g: S.dpmpp(p, g, order=3, kind="singlestep", rule="taylor"), 3),
    "3M parabola": (lambda p, g: S.dpmpp(p, g, order=3, curvature=2), 3),
    "3M parabola, noise": (lambda p, g: S.dpm_solver(p, g, order=3, curvature=2), 3),
    "UniP-3": (lambda p, g: S.unipc(p, g, corrector=False, lower_order_final=False), 3),
    "UniPC-1": (lambda p, g: S.unipc(p, g, order=1, lower_order_final=False), 2),
    "UniPC-2 bh1": (lambda p, g: S.unipc(p, g, order=2, variant="bh1", lower_order_final=False), 3),
    "UniPC-3": (lambda p, g: S.unipc(p, g, lower_order_final=False), 4),
    "UniPC-3 noise": (lambda p, g: S.unipc(p, g, form="noise", lower_order_final=False), 4),
    "UniPC-3 lowered": (lambda p, g: S.unipc(p, g), 2),
    "iPNDM_v 3 published": (lambda p, g: S.ipndm(p, g, order=3, steps_are="published_variable"), 3),
    "iPNDM_v 4 published": (lambda p, g: S.ipndm(p, g, order=4, steps_are="published_variable"), 1),
    "iPNDM variable": (lambda p, g: S.ipndm(p, g, order=3, steps_are="variable"), 3),
    "Ralston": (lambda p, g: S.deis_rk(p, g, method="ralston3"), 3),
    "dpm2, r = 0.7": (lambda p, g: S.dpm2(p, g, r=0.7), 2),
}


@pytest.mark.parametrize("process", [VP, RF], ids=["vp", "rf"])
@pytest.mark.parametrize("name", ORDERS)
def test_declared_order_is_the_measured_one(name, process, measured_order):
    build, order = ORDERS[name]
    assert build(process, uneven(process, 40)).order == order
    measured = measured_order(build, process)
    print(f"{name:>20} {measured:.2f}")
    assert measured >= order - (0.15 if order < 4 else 0.3)


def test_compatible_third_order_multistep_is_of_second_order_only(measured_order):
    """The reason why `curvature=1` declares 2, and the parabola 3."""
    assert 1.85 < measured_order(lambda p, g: S.dpmpp(p, g, order=3), VP) < 2.5


# --- Rows, ends and orders ----------------------------------------------------------------------------------------


GAUSSIAN = {name: process for name, process in ALL.items() if process.gaussian_noise}


@pytest.mark.parametrize("process", GAUSSIAN.values(), ids=GAUSSIAN)
@pytest.mark.parametrize("name", S.SAMPLERS)
def test_recipes_make_the_calls_that_were_asked_for(name, process):
    """12 calls suit every number of stages; EDM's Heun, which ends on an Euler step, makes an odd number."""
    nfe = 11 if name == "heun" else 12
    plan = gd.plan(name, process, nfe=nfe)
    calls = []
    draws = [np.zeros((1, 1))] * plan.rows
    S.run_eager(plan, lambda x, t: calls.append(t) or 0 * x, np.ones((1, 1)), noise=draws)
    assert plan.nfe == len(calls) == nfe


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "dpmpp_2s", "dpmpp_3s", "unipc", "deis_rk3", "dpm2"])
def test_clean_end_and_pure_noise_start_are_crossed_exactly_on_a_point_mass(name):
    """Rectified flow end to end: alpha = 0 at the start, sigma = 0 at the end; one data point is hit exactly."""
    plan = S.SAMPLERS[name].build(RF, grids.uniform_t(RF, 8))
    x = S.run_eager(plan, lambda x, t: 0 * x + 1.7, np.random.default_rng(0).standard_normal((5, 1)))
    np.testing.assert_allclose(x, 1.7, rtol=1e-13)


def test_output_at_pure_noise_is_not_extrapolated_from():
    """lam = -inf has no place on a polynomial in lam: step 1 is again of first order."""
    grid = grids.uniform_t(RF, 8, t_end=0.9)
    multistep, unipc = S.dpmpp(RF, grid, order=3), S.unipc(RF, grid, order=3)
    assert multistep.sm[1, 0] != 0
    assert not multistep.sm[1, 1:].any()
    assert not unipc.em[2, 1:].any()
    assert unipc.sm[1, 0] == 0  # the step out of pure noise is not corrected


def test_lms_and_rhoab_integrate_to_a_clean_end_at_full_order():
    plan = S.lms(EDM, grids.karras(EDM, 6), order=3)
    assert np.count_nonzero(plan.sm[-1]) == 3


def test_order_lists():
    grid = grids.uniform_lam(VP, 8)
    assert step_orders(grid, 3) == (1, 2, 3, 3, 3, 3, 3, 3)
    assert step_orders(grid, 3, lower_order_final=True) == (1, 2, 3, 3, 3, 3, 2, 1)
    assert step_orders(grid, 3, lower_order_final="short") == (1, 2, 3, 3, 3, 3, 2, 1)
    assert step_orders(grids.uniform_lam(VP, 10), 2, lower_order_final="short")[-1] == 2
    assert step_orders(grids.karras(VP, 4), 2) == (1, 2, 2, 1)
    assert step_orders(grids.uniform_t(RF, 5), 3) == (1, 1, 2, 3, 1)
    assert groups(grid, 3) == (3, 3, 2)
    assert groups(grids.uniform_lam(VP, 10), 3) == (3, 3, 2, 2)
    assert groups(grids.karras(VP, 10), 3) == (3, 3, 3, 1)
    assert groups(grids.uniform_t(RF, 6), 2) == (1, 2, 2, 1)
    assert [sum(S.fast_orders(n, order)) for n in range(1, 20) for order in (1, 2, 3)] == [
        n for n in range(1, 20) for _ in "123"
    ]


def test_singlestep_recipe_cuts_log_snr_steps_as_published():
    plan = gd.plan("dpmpp_3s", VP, nfe=10, grid="uniform_lam")
    lam = VP.lam(plan.t)
    assert S.fast_orders(10, 3) == (3, 3, 3, 1)
    np.testing.assert_allclose(np.diff(lam[[0, 3, 6, 9]]), np.diff(lam)[:9].reshape(3, 3).sum(1), rtol=1e-9)
    np.testing.assert_allclose(np.diff(lam)[:9], np.diff(lam)[0], rtol=1e-8)
    assert lam[9] < VP.lam(1e-3) - 2.9 * np.diff(lam)[0]  # the last outer step is as long as the others


# --- Refusals -----------------------------------------------------------------------------------------------------

CLEAN, NOISE = grids.karras(VP, 6), grids.uniform_t(RF, 6, t_end=0.99)
NOISE_FORM = {
    "dpm_solver": S.dpm_solver,
    "unipc noise": lambda p, g: S.unipc(p, g, form="noise"),
    "tAB": lambda p, g: S.deis(p, g, order=2, kind="tAB"),
    "logrhoAB": lambda p, g: S.deis(p, g, order=2, kind="logrhoAB"),
}


@pytest.mark.parametrize("name", NOISE_FORM)
def test_noise_forms_refuse_the_ends_and_name_the_remedy(name):
    ve = grids.karras(VE, 6)  # the clock of VE does not reach the clean node
    with pytest.raises(ValueError, match=r"needs a grid that ends above zero.*final_zero=False"):
        NOISE_FORM[name](VE, ve)
    with pytest.raises(ValueError, match=r"starts at pure noise.*t_start="):
        NOISE_FORM[name](RF, NOISE)


@pytest.mark.parametrize("build", [S.ipndm, S.lms, lambda p, g: S.deis(p, g, kind="rhoAB")])
def test_adams_rules_refuse_pure_noise(build):
    with pytest.raises(ValueError, match="pure noise"):
        build(RF, NOISE)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: S.dpmpp(VP, grids.uniform_lam(VP, 2), order=3), "uses 3 outputs needs 3 steps"),
        (lambda: S.unipc(VP, grids.uniform_lam(VP, 2), order=4), "needs 4 steps"),
        (lambda: S.deis(VP, grids.uniform_lam(VP, 3), order=3), "uses 4 outputs"),
        (lambda: S.dpmpp(VP, CLEAN, order=4), "unipc takes any order"),
        (lambda: S.dpmpp(VP, CLEAN, order=0), "orders 1, 2 and 3"),
        (lambda: S.dpmpp(VP, CLEAN, kind="twostep"), "unknown kind"),
        (lambda: S.dpmpp(VP, CLEAN, rule="secant"), "unknown rule"),
        (lambda: S.dpmpp(VP, CLEAN, order=2, kind="singlestep", orders=[4, 1, 1]), r"lie in 1\.\.2"),
        (lambda: S.unipc(VP, CLEAN, variant="bh3"), "unknown variant"),
        (lambda: S.unipc(VP, CLEAN, order=0), "at least 1"),
        (lambda: S.deis(VP, CLEAN, kind="xAB"), "unknown kind"),
        (lambda: S.ipndm(VP, CLEAN, order=5), "takes any order"),
        (lambda: S.ipndm(VP, CLEAN, steps_are="odd"), "unknown steps_are"),
        (lambda: S.deis_rk(VP, CLEAN, method="rk5"), "unknown method"),
        (lambda: S.dpm2(VP, CLEAN, r=0.0), "inside the step"),
        (lambda: S.dpmpp(VP, CLEAN, orders=[1, 2]), "one order for each"),
        (lambda: S.dpmpp(VP, CLEAN, orders=[2, 2, 2, 2, 2, 1]), "orders 1 to 1"),
        (lambda: S.dpmpp(VP, CLEAN, orders=[1, 2, 2, 2, 2, 2]), "orders 1 to 1"),
        (lambda: S.dpmpp(VP, CLEAN, kind="singlestep", orders=[2, 2]), "add up to the grid's 6 steps"),
        (lambda: S.dpmpp(VP, CLEAN, kind="singlestep", orders=[2, 2, 2]), "has order 1"),
        (lambda: grids.subdivide(CLEAN, [2] * 6), "cannot be cut in lam"),
        (lambda: grids.subdivide(CLEAN, [2] * 5), "one positive number per step"),
        (lambda: S.final_denoise(S.dpmpp(VP, CLEAN), CLEAN), "ends clean already"),
        (lambda: S.analytical_first_step(S.ddim(VP, CLEAN, eta=1.0)), "deterministic plan"),
    ],
)
def test_refusals_teach(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# --- Plans from plans ---------------------------------------------------------------------------------------------


def analytical(process, t):
    """D with the first call, at time t, answered by the formula in eps: x/sqrt(alpha^2 + sigma^2)."""
    alpha, sigma, D = process.alpha(t), process.sigma(t), MIXTURE.denoiser(process)

    def answer(x, at):
        return (x - sigma * x / np.hypot(alpha, sigma)) / alpha if at == t else D(x, at)

    return answer


@pytest.mark.parametrize("name", [n for n, r in S.SAMPLERS.items() if r.build(VP, uneven(VP)).draws == 0])
def test_analytical_first_step_is_the_plan_with_its_first_answer_given(name):
    """One call fewer, and the same state as if the network had answered with the formula; also to a clean end."""
    for final_zero in (False, S.SAMPLERS[name].final_zero is None and S.SAMPLERS[name].grid == "karras"):
        plan = S.SAMPLERS[name].build(VP, uneven(VP, final_zero=final_zero))
        short = S.analytical_first_step(plan)
        x_T = np.random.default_rng(2).standard_normal((6, 2))
        wanted = S.run_eager(plan, analytical(VP, float(plan.t[0])), x_T)
        np.testing.assert_allclose(S.run_eager(short, MIXTURE.denoiser(VP), x_T), wanted, rtol=1e-8)
        assert short.nfe == plan.nfe - 1


def test_final_denoise_returns_the_denoised_state():
    plan = S.dpm_solver(VP, uneven(VP))
    longer = S.final_denoise(plan, uneven(VP))
    assert longer.nfe == plan.nfe + 1
    t_end = uneven(VP).t[-1]
    np.testing.assert_allclose(sample(longer), MIXTURE.denoiser(VP)(sample(plan), t_end), rtol=1e-9)


def test_final_denoise_of_per_element_coefficients():
    plan = S.dpm_solver(VP, uneven(VP))
    wide = {k: np.stack([getattr(plan, k)] * 2, -1) for k in LEAVES if k not in ("t", "call", "clock")}
    per_element = dataclasses.replace(plan, **wide)
    grid = uneven(VP)
    wanted = sample(S.final_denoise(plan, grid))
    np.testing.assert_allclose(sample(S.final_denoise(per_element, grid)), wanted, rtol=1e-12)


# --- Traced grids -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpm_3m", "dpmpp_3s", "unipc", "deis_tab2", "ipndm", "dpm2", "deis_rk3"])
def test_plans_are_differentiable_in_the_nodes(name, x64):
    """A traced grid gives a traced plan, whose derivative equals the difference of two plans made on the host."""
    base, direction = uneven(VP, 4), np.eye(5)[2]
    build = partial(S.SAMPLERS[name].build, **({"order": 3} if name == "ipndm" else {}))

    def leaves(t):
        plan = build(VP, dataclasses.replace(base, t=t, alpha=VP.alpha(t), sigma=VP.sigma(t)))
        return [getattr(plan, leaf) for leaf in ("t", "ex", "em", "om", "sx", "sm")]

    host = [(a - b) / 2e-6 for a, b in zip(leaves(base.t + 1e-6 * direction), leaves(base.t - 1e-6 * direction))]
    derivative = jax.jit(lambda t: jax.jvp(leaves, (t,), (jnp.asarray(direction),))[1])(jnp.asarray(base.t))
    for ours, difference in zip(derivative, host, strict=True):
        np.testing.assert_allclose(ours, difference, rtol=1e-5, atol=1e-6 * np.abs(difference).max() + 1e-9)
