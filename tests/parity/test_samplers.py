"""Every array of samplers_open.npz but those in ELSEWHERE, at 1e-8 of its maximum.

The arrays are outputs of the published implementations in float64 on an exact Gaussian-mixture model;
`samplers_open.md` beside them describes each. A case here is a name, the grid it ran on, and the plan of ours that must
reproduce it.
"""

import pathlib
import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

import gendyn as gd
from gendyn.phi import lagrange
from gendyn.samplers import grids
from gendyn.samplers.forms import FORMS, row
from gendyn.samplers.levels import steps
from gendyn.samplers.orders import step_orders

TOLERANCE = 1e-8
VP, EDM = gd.processes.VPLinear(), gd.processes.EDM()
VPD = gd.processes.VPDiscrete.linear()
PROCESS = {"vp": VP, "vpd": VPD, "edm": EDM, "edm0": EDM}

ELSEWHERE = {
    r"v3_.*": "test_dpm_solver_v3.py",
    r"k_dpmpp_2s_ancestral|k_dpmpp_2m_sde_.*|k_dpmpp_3m_sde|k_dpmpp_sde": "test_stochastic_samplers.py",
}
"""Samplers of the file that other tests compare: pattern -> where."""

inner = partial(grids.karras, final_zero=False)
zero = partial(grids.karras, final_zero=True)
GRIDS: dict[str, Callable] = {
    "logSNR": grids.uniform_lam,
    "log": grids.uniform_lam,
    "tuniform": grids.uniform_t,
    "t1": grids.uniform_t,
    "tquad": partial(grids.power, exponent=2.0),
    "t2": partial(grids.power, exponent=2.0),
    "rho7": inner,
}


@pytest.fixture(scope="module")
def data(shared):
    return np.load(shared / "parity" / "samplers_open.npz")


def multi(build, **options):
    """One call per interval of the grid."""
    return lambda process, grid, n: build(process, grid(process, n), **options)


def calls(stages, build, **options):
    """`stages` calls per step, one in a last step to zero."""
    return lambda process, grid, n: build(process, grid(process, -(-n // stages)), **options)


def fast(build, order):
    """DPM-Solver-fast: outer steps on the spacing, each cut in lam."""

    def make(process, grid, n):
        orders = gd.samplers.fast_orders(n, order)
        outer = grid(process, len(orders))
        return build(process, grids.subdivide(outer, orders), order=order, kind="singlestep", orders=orders)

    return make


def dpm_multistep(build, order):
    return multi(build, order=order, kind="multistep")


def with_average(process, grid, terms, average):
    """A noise-form multistep plan whose weights, first order included, are given."""
    form, taken, orders = FORMS["noise"], list(steps(process, grid)), step_orders(grid, terms)
    weights = [average([taken[i - j] for j in range(order)]) for i, order in enumerate(orders)]
    rows = [row(form, step, form.update(step, w)) for step, w in zip(taken, weights, strict=True)]
    return gd.samplers.assemble(process, rows, name="riemann", order=terms)


def rho_rate(process, t):
    """d rho/dt, rho = sigma/alpha."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return (process.dsigma(t) * alpha - process.dalpha(t) * sigma) / alpha**2


def left_riemann(process, grid, n, degree, kind):
    """DEIS as its authors compute it: coefficients by a left Riemann sum of 10000 cells in t, or in rho."""

    def average(recent):
        ends = np.array([[s.sigma_s / s.alpha_s, s.t_s] for s in recent] + [[0.0, recent[0].t_e]])
        ends[-1, 0] = recent[0].sigma_e / recent[0].alpha_e
        *nodes, end = ends[:, 0 if kind == "rhoAB" else 1]
        at = np.linspace(nodes[0], end, 10000, endpoint=False)
        mass = (end - nodes[0]) / 10000 / (ends[-1, 0] - ends[0, 0])
        mass = mass if kind == "rhoAB" else mass * rho_rate(process, at)
        return [np.sum(mass * w) for w in lagrange(nodes, at)]

    return with_average(process, grid(process, n), degree + 1, average)


def fitted_tab(process, grid, n, terms):
    """DEIS-tAB as diff-sampler computes it on EDM's nodes: on the clock of a VP path fitted to 0.002..80, by a sum over
    10000 points with both ends but cells of 1/10000; the first step is Euler's.
    """
    slope = 2 * (np.log1p(0.002**2) / 1e-3 - np.log1p(80.0**2)) / (1e-3 - 1)
    beta_min = np.log1p(80.0**2) - slope / 2
    clock = gd.processes.VPLinear(beta_min=beta_min, beta_max=beta_min + slope)

    def average(recent):
        if len(recent) == 1:
            return (1.0,)
        nodes = [clock.t_of_lam(s.lam_s) for s in recent]
        end = clock.t_of_lam(recent[0].lam_s + recent[0].h)
        at = np.linspace(nodes[0], end, 10000)
        mass = rho_rate(clock, at) * (end - nodes[0]) / 10000 / (recent[0].sigma_e - recent[0].sigma_s)
        return [np.sum(mass * w) for w in lagrange(nodes, at)]

    return with_average(process, grid(process, n), terms, average)


def cases():
    """Name in the file without its spacing -> (process, grid builder, nfe) -> plan."""
    s = gd.samplers
    out = {"ddim": multi(s.ddim)}
    for order in (2, 3):
        for kind, build in (("dpmpp", s.dpmpp), ("dpm", s.dpm_solver)):
            out[f"{kind}_{order}m"] = dpm_multistep(build, order)
            out[f"{kind}_{order}s"] = fast(build, order)
        for variant in ("bh1", "bh2"):
            out[f"unipc{order}_{variant}"] = multi(s.unipc, order=order, variant=variant, lower_order_final=True)
    for degree in range(4):
        for kind in ("tAB", "rhoAB"):
            name = f"deis_{kind.lower()}{degree}"
            out[f"{name}_exact"] = multi(s.deis, order=degree, kind=kind)
            out[name] = partial(left_riemann, degree=degree, kind=kind)
    out["deis_ipndm"] = multi(s.ipndm)
    out["deis_rhork_1euler"] = multi(s.ddim)
    for name, method, stages in (("2heun", "heun2", 2), ("3kutta", "kutta3", 3), ("4rk", "rk4", 4)):
        out[f"deis_rhork_{name}"] = calls(stages, s.deis_rk, method=method)
    return out


CASES = cases()

S = gd.samplers
WHOLE = {
    "ds_euler": (inner, multi(S.euler)),
    "ds_heun": (inner, calls(2, S.heun)),
    "ds_dpm2": (inner, calls(2, S.dpm2)),
    "ds_dpmpp_2m": (inner, multi(S.dpmpp, order=2, lower_order_final=True)),
    "ds_dpmpp_3m": (inner, multi(S.dpmpp, order=3, lower_order_final=True)),
    "ds_ipndm4_logsnr": (grids.uniform_lam, multi(S.ipndm, order=4)),
    "k_euler": (zero, multi(S.euler)),
    "k_heun": (zero, calls(2, S.heun)),
    "edm_heun": (zero, calls(2, S.heun)),
    "edm_heun_churn10": (
        zero,
        calls(2, S.heun, churn=S.Churn(amount=10, low=0.05, high=50, noise=1.003)),
    ),
    "k_dpm_2": (zero, calls(2, S.dpm2)),
    "k_dpmpp_2m": (zero, multi(S.dpmpp, order=2, lower_order_final=False)),
    "k_lms4": (zero, multi(S.lms, order=4)),
    "k_euler_ancestral": (zero, multi(S.ddim, eta=1.0)),
    **{f"ds_ipndm{m}": (inner, multi(S.ipndm, order=m)) for m in (2, 3, 4)},
    **{f"ds_ipndm_v{m}": (inner, multi(S.ipndm, order=m, steps_are="published_variable")) for m in (2, 3, 4)},
    **{f"ds_deis_rhoab{m}": (inner, multi(S.deis, order=m - 1, kind="rhoAB")) for m in (2, 3, 4)},
    **{f"ds_deis_tab{m}": (inner, partial(fitted_tab, terms=m)) for m in (2, 3, 4)},
    **{f"ds_unipc3_{v}": (inner, multi(S.unipc, variant=v, lower_order_final=True)) for v in ("bh1", "bh2")},
}
"""Names that carry their grid with them."""


def plan_for(sampler, schedule, n):
    if sampler in WHOLE:
        grid, build = WHOLE[sampler]
        return build(PROCESS[schedule], grid, n)
    exact = sampler.endswith("_exactquad")
    name, spacing = sampler.removesuffix("_exactquad").rsplit("_", 1)
    return CASES[name + "_exact" * exact](PROCESS[schedule], GRIDS[spacing], n)


def parse(key):
    """(d, schedule, sampler, nfe) of an output, None for the other arrays."""
    found = re.match(r"d(\d+)__(vp|vpd|edm|edm0)__(.+)__nfe(\d+)$", key)
    return found and (int(found[1]), found[2], found[3], int(found[4]))


def outputs(data):
    return {key: parse(key) for key in data.files if parse(key)}


def elsewhere(sampler):
    return [pattern for pattern in ELSEWHERE if re.fullmatch(pattern, sampler)]


def bank(data, d, sampler):
    """Draws in order of use: one per step, and in Heun only the first of a step's two rows draws."""
    draws, stride = data[f"d{d}__noise_bank"], 2 if "heun" in sampler else 1
    return lambda row: draws[row // stride]


def error(data, key):
    """Distance to the published output, relative in the maximum norm."""
    d, schedule, sampler, n = parse(key)
    process, plan = PROCESS[schedule], plan_for(sampler, schedule, n)
    assert plan.nfe == n
    weights, means, stds = (data[f"d{d}__gmm__{k}"] for k in ("weights", "means", "stds"))
    D = gd.oracles.GaussianMixture(weights, means, stds**2).denoiser(process)
    x_T = data[f"d{d}__z"] * (80.0 if process is EDM else 1.0)
    x = S.run_eager(plan, D, x_T, noise=bank(data, d, sampler) if plan.draws else None)
    return np.abs(x - data[key]).max() / np.abs(data[key]).max()


def test_published_outputs(data):
    covered = [key for key, (_, _, sampler, _) in outputs(data).items() if not elsewhere(sampler)]
    off = {key: value for key in covered if not (value := error(data, key)) < TOLERANCE}
    assert not off, "\n".join(f"{k}: {v:.1e}" for k, v in off.items())
    assert len(covered) == 768


def test_list_of_other_tests_is_honest(data):
    """Nothing is excused that the file does not hold or that no other test looks at."""
    excused = {pattern for _, _, sampler, _ in outputs(data).values() for pattern in elsewhere(sampler)}
    assert excused == set(ELSEWHERE)
    assert all(pathlib.Path(__file__).with_name(name).is_file() for name in ELSEWHERE.values())


@pytest.mark.parametrize("n", [5, 10])
def test_deis_coefficient_tables(data, n):
    """Transition and weights of tAB, and of rhoAB in the state x/alpha, against exact quadrature."""
    grid = grids.power(VP, n)
    tab, rhoab = (S.deis(VP, grid, order=3, kind=kind) for kind in ("tAB", "rhoAB"))
    np.testing.assert_allclose(data[f"coef__deis_tab3_ts__nfe{n}"], grid.t, rtol=1e-12)
    np.testing.assert_allclose(data[f"coef__deis_rhoab3_rho__nfe{n}"], grid.sigma / grid.alpha, rtol=1e-10)
    np.testing.assert_allclose(tab.sx, data[f"coef__deis_tab3_psi__nfe{n}"], rtol=1e-12)
    np.testing.assert_allclose(tab.sm, data[f"coef__deis_tab3_eps_exactquad__nfe{n}"], rtol=1e-10)
    in_rho = rhoab.sm / grid.alpha[1:, None]
    np.testing.assert_allclose(in_rho, data[f"coef__deis_rhoab3_eps_exactquad__nfe{n}"], rtol=1e-10)
