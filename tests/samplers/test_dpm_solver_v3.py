"""DPM-Solver-v3: its special cases are other solvers, it is exact for what it integrates, and it has its order."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import gendyn as gd
from gendyn.processes import PROCESSES
from gendyn.samplers import PRESETS, dpm_solver, dpm_solver_v3, dpmpp, grids, preset, run, run_eager
from gendyn.samplers.statistics import GAUSS, TRAPEZOID, Statistics

EDM = gd.processes.EDM()
MIXTURE = gd.oracles.GaussianMixture([0.4, 0.6], [[-1.0, 0.3], [0.8, -0.2]], [[0.15, 0.05], [0.4, 0.3]])


def constant(l, s, b, nodes=2, dim=2):
    """Tables that do not depend on lam."""
    lam = np.linspace(-16.0, 16.0, nodes)
    return Statistics(lam=lam, **{k: np.full((nodes, dim), float(v)) for k, v in (("l", l), ("s", s), ("b", b))})


def wavy(nodes=41):
    """Smooth tables that are nobody's statistics."""
    lam = np.linspace(-8.0, 8.0, nodes)
    at = lam[:, None] + np.array([0.0, 0.7])
    return Statistics(lam=lam, l=0.5 + 0.3 * np.cos(at), s=-0.5 + np.sin(0.8 * at), b=0.4 * np.cos(1.3 * at))


def straight():
    """Tables that are straight lines. (At a node of finer ones f has a kink, of the size of l'' times the spacing.)"""
    ends = np.array([0.0, 1.0])[:, None]
    return Statistics(
        lam=np.array([-8.0, 8.0]), l=0.2 + ends * [0.5, 0.7], s=0.8 - ends * [2.0, 1.6], b=0.3 - ends * [1.0, 0.6]
    )


def samples(plan, process):
    x_T = float(process.sigma(plan.t[0])) * np.random.default_rng(0).standard_normal((16, 2))
    return run_eager(plan, MIXTURE.denoiser(process), x_T)


# --- Special cases ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_data_form_is_dpmpp(name, order):
    process = PROCESSES[name]()
    grid = grids.uniform_lam(process, 8)
    ours = dpm_solver_v3(process, grid, statistics=constant(1, 0, 0), order=order, corrector=False)
    theirs = dpmpp(process, grid, order=order, rule="taylor", curvature=2, lower_order_final=True)
    np.testing.assert_allclose(samples(ours, process), samples(theirs, process), rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_noise_form_is_dpm_solver(order):
    grid = grids.uniform_lam(EDM, 12, t_start=10.0)
    ours = dpm_solver_v3(EDM, grid, statistics=constant(0, -1, 0), order=order, corrector=False)
    theirs = dpm_solver(EDM, grid, order=order, rule="taylor", curvature=2, lower_order_final=True)
    np.testing.assert_allclose(samples(ours, EDM), samples(theirs, EDM), rtol=0, atol=1e-9)


def test_no_model_at_all_is_euler_in_lam():
    """l = s = b = 0: x/alpha moves by -h rho eps, and that is not DDIM."""
    grid = grids.uniform_lam(EDM, 6, t_start=5.0)
    plan = dpm_solver_v3(EDM, grid, statistics=constant(0, 0, 0), order=1)
    D, x = MIXTURE.denoiser(EDM), 5.0 * np.random.default_rng(0).standard_normal((16, 2))
    start = x
    for t, h in zip(grid.t[:-1], np.diff(grid.lam), strict=True):
        x = x - h * (x - D(x, t))
    np.testing.assert_allclose(run_eager(plan, D, start), x, atol=1e-12)


def test_all_processes_give_the_same_samples():
    """One network seen on another path has the same statistics, and the same x/alpha at the same lam."""
    ends = []
    for process in (make() for _, make in sorted(PROCESSES.items())):
        if not process.gaussian_noise:
            continue  # another noise is another model
        grid = grids.explicit(process, lam=np.linspace(-3.0, 3.0, 9))
        plan = dpm_solver_v3(process, grid, statistics=wavy())
        y = np.exp(3.0) * np.random.default_rng(0).standard_normal((16, 2))
        ends.append(run_eager(plan, MIXTURE.denoiser(process), grid.alpha[0] * y) / grid.alpha[-1])
    np.testing.assert_allclose(ends, np.broadcast_to(ends[0], np.shape(ends)), atol=1e-8)


# --- What is integrated exactly --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class AffineModel:
    """A network whose f solves f' = s f + b along any path: the solver's linear model, exactly."""

    statistics: Statistics
    start: float
    end: float

    def __post_init__(self):
        def rate(lam, state):
            (l, s, b), (y, f) = self.statistics.at(lam), np.split(state, 2)
            return np.concatenate([-l * y - f, s * f + b])

        first = np.array([1.3, -0.7, 0.4, 0.9])
        kinks = self.statistics.lam[(self.statistics.lam > self.start) & (self.statistics.lam < self.end)]
        pieces = np.concatenate([[self.start], kinks, [self.end]])
        states = [first]
        for a, b in itertools.pairwise(pieces):
            states.append(solve_ivp(rate, (a, b), states[-1], method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1])
        object.__setattr__(self, "pieces", pieces)
        object.__setattr__(self, "states", np.array(states))
        object.__setattr__(self, "rate", rate)

    def state(self, lam):
        i = max(int(np.searchsorted(self.pieces, lam, side="right")) - 1, 0)
        if np.isclose(lam, self.pieces[i], atol=1e-12):
            return np.split(self.states[i], 2)
        end = solve_ivp(self.rate, (self.pieces[i], lam), self.states[i], method="DOP853", rtol=1e-13, atol=1e-13)
        return np.split(end.y[:, -1], 2)

    def __call__(self, x, t):
        lam = -np.log(t)
        l, _, _ = self.statistics.at(lam)
        return (1 - l) * x - self.state(lam)[1]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", [1, 3])
def test_exact_for_its_own_model(order, steps):
    """f' = s f + b with tables that vary: any step size, any nodes between those of the tables."""
    statistics = wavy(nodes=17)
    grid = grids.explicit(EDM, lam=np.linspace(-2.1, 1.93, steps + 1))
    model = AffineModel(statistics, grid.lam[0], grid.lam[-1])
    plan = dpm_solver_v3(EDM, grid, statistics=statistics, order=min(order, steps))
    x = run_eager(plan, model, model.state(grid.lam[0])[0][None])
    np.testing.assert_allclose(x[0], model.state(grid.lam[-1])[0], rtol=1e-10)


def test_trapezoid_converges_to_the_exact_rule():
    """Tables cut finer describe the same function: only the trapezoid notices, by a quarter each time."""

    def cut(parts):
        base = wavy(nodes=41)
        lam = np.linspace(-8.0, 8.0, 40 * parts + 1)
        l, s, b = base.at(lam)
        return Statistics(lam=lam, l=l, s=s, b=b)

    grid = grids.explicit(EDM, lam=np.linspace(-3.0, 3.0, 7))
    end = lambda parts, rule: samples(dpm_solver_v3(EDM, grid, statistics=cut(parts), quadrature=rule), EDM)
    exact = end(1, GAUSS)
    np.testing.assert_allclose(end(4, GAUSS), exact, atol=1e-9)
    errors = [np.abs(end(parts, TRAPEZOID) - exact).max() for parts in (4, 8, 16)]
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 4.0, rtol=0.1)


# --- Order -----------------------------------------------------------------------------------------------------


def exact_flow(start, end):
    """x/alpha of 20 points as a function of lam."""
    D = MIXTURE.denoiser(EDM)
    y = np.exp(-start) * np.random.default_rng(1).standard_normal((20, 2))
    rate = lambda lam, y: (D(y.reshape(20, 2), np.exp(-lam)) - y.reshape(20, 2)).ravel()
    found = solve_ivp(rate, (start, end), y.ravel(), method="DOP853", rtol=1e-13, atol=1e-13, dense_output=True)
    return lambda lam: found.sol(lam).reshape(20, 2)


def local_error(h, corrector, **settings):
    """Error of the middle row over one step of size about h, its start and its history on the exact trajectory.

    A row of the corrector ends at the node of its own call, one of the predictor alone starts there.
    """
    flow, D = exact_flow(-2.0, 2.0), MIXTURE.denoiser(EDM)
    grid = grids.explicit(EDM, lam=h * np.array([-4.0, -2.9, -2.1, -1.2, 0.0, 0.9, 2.0]))
    settings = {"statistics": straight(), "corrector": corrector, "lower_order_final": False, **settings}
    plan = dpm_solver_v3(EDM, grid, **settings)
    call, start, end = (4, 3, 4) if corrector else (4, 4, 5)
    at = [flow(lam) for lam in grid.lam]
    history = [plan.oy[i] * at[i] + plan.om[i] * D(at[i], grid.t[i]) for i in range(call, -1, -1)]
    x = plan.sx[call] * at[start] + sum(w * f for w, f in zip(plan.sm[call], history, strict=False)) + plan.sc[call]
    return np.abs(x - at[end]).max()


def local_slope(corrector, **settings):
    errors = [local_error(h, corrector, **settings) for h in (0.1, 0.05)]
    return np.log2(errors[0] / errors[1])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_local_order(order):
    """A rule of order p is wrong by h^(p+1) per step, whatever the tables: predictor and corrector."""
    assert local_slope(False, order=order) == pytest.approx(order + 1, abs=0.25)
    if order > 1:
        assert local_slope(True, order=order) == pytest.approx(order + 1, abs=0.25)


def test_pseudo_derivatives_have_order_two():
    assert local_slope(False, order=3, predictor_taylor="pseudo") == pytest.approx(3, abs=0.25)
    assert local_slope(True, order=3, corrector_taylor="pseudo") == pytest.approx(3, abs=0.25)
    assert local_slope(True, order=1, corrector_taylor="pseudo") == pytest.approx(3, abs=0.25)


def test_declared_order():
    grid = grids.uniform_lam(EDM, 12)
    declared = lambda **settings: (
        dpm_solver_v3(EDM, grid, statistics=wavy(), **({"lower_order_final": False} | settings)).order
    )
    assert declared() == 3
    assert declared(order=4, corrector=False) == 4
    assert declared(predictor_taylor="pseudo", corrector=False) == 2
    assert declared(predictor_taylor="pseudo") == 3
    assert declared(corrector_taylor="pseudo") == 2
    assert declared(lower_order_final=True) == 2


# --- The corrector ---------------------------------------------------------------------------------------------


def test_half_correctors_act_on_their_half():
    grid = grids.uniform_lam(EDM, 10)
    build = lambda **settings: dpm_solver_v3(EDM, grid, statistics=wavy(), **settings)
    everywhere, noisy, clean = (build(corrected=where).sm for where in ("everywhere", "noisy_half", "clean_half"))
    for i in range(2, 9):  # row i corrects at node i; row 1 has order one, the last row goes on
        acting, idle = (noisy, clean) if grid.t[i] > 0.5 else (clean, noisy)
        np.testing.assert_array_equal(acting[i, :3], everywhere[i])
        assert (idle[i, 0] == 0).all()  # the output at the node itself is not used


def test_corrector_of_first_order_is_none():
    grid = grids.uniform_lam(EDM, 5)
    a, b = (dpm_solver_v3(EDM, grid, statistics=wavy(), order=1, corrector=c) for c in (True, False))
    assert gd.samplers.difference(a, b) == ""


# --- In use ----------------------------------------------------------------------------------------------------


def test_compiled_program_agrees_and_is_shared(x64):
    """Per-element coefficients and constants run under jit, padded, as in plain Python."""
    x_T = 80.0 * jax.random.normal(jax.random.key(0), (8, 2))
    D = MIXTURE.denoiser(EDM)
    for plan in (gd.plan("dpm_solver_v3", EDM, nfe=n, statistics=wavy()) for n in (6, 9)):
        expected = run_eager(plan, D, np.asarray(x_T))
        np.testing.assert_allclose(run(plan.pad(rows=12, window=4), D, x_T), expected, atol=1e-10)
        assert plan.nfe == sum(plan.call)


def test_float32_is_close():
    plan = gd.plan("dpm_solver_v3", EDM, nfe=8, statistics=wavy())
    x_T = 80.0 * np.random.default_rng(0).standard_normal((64, 2))
    exact = run_eager(plan, MIXTURE.denoiser(EDM), x_T)
    found = run(plan, MIXTURE.denoiser(EDM), x_T.astype(np.float32))
    assert np.median(np.abs(found - exact)) < 1e-4


def test_presets_build():
    for name, rows in PRESETS.items():
        for nfe in (*rows, 25):
            settings = preset(name, nfe)
            assert gd.plan("dpm_solver_v3", gd.processes.VPLinear(), nfe, statistics=wavy(), **settings).nfe == nfe
    assert preset("edm_cifar10", 7) == preset("edm_cifar10", 6)
    with pytest.raises(ValueError, match="unknown preset"):
        preset("cifar", 5)


# --- Refusals --------------------------------------------------------------------------------------------------


def test_refusals():
    vp, flow = gd.processes.VPLinear(), gd.processes.RectifiedFlow()
    plan = lambda process=EDM, statistics=None, **kw: gd.plan("dpm_solver_v3", process, statistics=statistics, **kw)
    with pytest.raises(ValueError, match="gendyn statistics RUN"):
        plan(nfe=5)
    with pytest.raises(ValueError, match="final_zero=False"):
        dpm_solver_v3(EDM, grids.karras(EDM, 5), statistics=wavy())
    with pytest.raises(ValueError, match="t_start="):
        dpm_solver_v3(flow, grids.uniform_t(flow, 5, t_end=0.9), statistics=wavy())
    with pytest.raises(ValueError, match="estimate them for the model"):
        plan(vp, dataclasses.replace(wavy(), process=EDM), nfe=5)
    with pytest.raises(ValueError, match="interpolating, pseudo"):
        plan(statistics=wavy(), nfe=5, predictor_taylor="psuedo")
    with pytest.raises(ValueError, match="needs 3 steps or more"):
        plan(statistics=wavy(), nfe=2)
    short = dataclasses.replace(wavy(), lam=np.linspace(-4.0, 4.0, 41))
    with pytest.raises(ValueError, match="t_end=") as refused:
        plan(statistics=short, nfe=5)
    t_start, t_end = (float(part.split("=")[1].rstrip("),")) for part in str(refused.value).split() if "t_" in part)
    assert plan(statistics=short, nfe=5, grid_options={"t_start": t_start, "t_end": t_end}).nfe == 5
    with pytest.raises(ValueError, match=r"of data of shape \(2,\), but the plan is for \(3,\)"):
        plan(statistics=wavy(), nfe=5, shape=(3,))
    assert plan(statistics=wavy(), nfe=5, shape=(2,)).nfe == 5
    with pytest.raises(ValueError, match="data of shape"):
        run(plan(statistics=wavy(), nfe=5), MIXTURE.denoiser(EDM), np.ones((4, 3), np.float32))


def test_malformed_tables_are_refused():
    good, grid = wavy(), grids.uniform_lam(EDM, 5)
    bad = {
        "rise": {"lam": good.lam[::-1]},
        "one shape": {"l": good.l[:, :1]},
        "not finite": {"b": np.full_like(good.b, np.nan)},
    }
    for said, change in bad.items():
        with pytest.raises(ValueError, match=said):
            dpm_solver_v3(EDM, grid, statistics=dataclasses.replace(good, **change))


def test_snapping_refuses_double_nodes():
    tables = constant(1, 0, 0, nodes=17)
    assert np.isin(tables.snap(grids.uniform_lam(EDM, 5)).lam.round(9), tables.lam).all()
    with pytest.raises(ValueError, match="snap to the same node"):
        tables.snap(grids.uniform_lam(EDM, 40))


def test_traced_grids_are_refused():
    def traced(t):
        grid = dataclasses.replace(grids.uniform_lam(EDM, 4), t=t)
        return dpm_solver_v3(EDM, grid, statistics=wavy()).sx

    with pytest.raises(TypeError, match="quadrature"):
        jax.jit(traced)(jax.numpy.linspace(80.0, 0.002, 5))
