"""DPM-Solver-v3 against the published implementation, and its statistics against independently made tables.

The published code snaps times to the tables and integrates them by the trapezoidal rule: both are options here, and
with them its samples are reproduced to 1e-8 of their maximum. The default, exact quadrature between unsnapped nodes,
differs from it by the error of that rule only.
"""

import re

import jax
import numpy as np
import pytest

import gendyn as gd
from gendyn.samplers import dpm_solver_v3, grids, run_eager
from gendyn.samplers.statistics import GAUSS, TRAPEZOID, Statistics, estimate

PROCESS = {"vp": gd.processes.VPLinear(), "edm": gd.processes.EDM()}
GRIDS = {
    "logSNR": grids.uniform_lam,
    "tuniform": grids.uniform_t,
    "edm7": lambda process, n: grids.karras(process, n, final_zero=False),
}
INDEX_NAMES = {"logSNR": "logSNR", "tuniform": "time_uniform", "edm7": "edm"}

SETTINGS = {
    "o1_nocorr": {"order": 1, "corrector": False},
    "o2_corr_cpseudo": {"order": 2, "corrector_taylor": "pseudo"},
    "o3_nocorr": {"corrector": False},
    "o3_corr": {},
    "o3_corr_cpseudo": {"corrector_taylor": "pseudo"},
    "o3_ppseudo_corr_nolof": {"predictor_taylor": "pseudo", "lower_order_final": False},
    **{f"degen_o{p}_nocorr": {"order": p, "corrector": False} for p in (1, 2, 3)},
}
"""Names in the file without their spacing -> our arguments."""


@pytest.fixture(scope="module")
def data(shared):
    return np.load(shared / "parity" / "samplers_open.npz")


def parse(key):
    """(d, family, settings, spacing, nfe) of an output, None for other arrays."""
    found = re.fullmatch(r"d(\d+)__(vp|edm)__v3_(?!indexes)(.+?)(?:_(tuniform|edm7))?__nfe(\d+)", key)
    return found and (int(found[1]), found[2], found[3], found[4] or "logSNR", int(found[5]))


def outputs(data):
    return {key: parsed for key in data.files if (parsed := parse(key))}


def tables(data, d, family, settings="", process=None):
    lam, l, s, b = (data[f"d{d}__ems__{family}__{name}"] for name in ("lam", "l", "s", "b"))
    if settings.startswith("degen"):
        l, s, b = np.ones_like(l), np.zeros_like(s), np.zeros_like(b)
    return Statistics(lam=lam, l=l, s=s, b=b, process=process)


def mixture(data, d):
    weights, means, stds = (data[f"d{d}__gmm__{k}"] for k in ("weights", "means", "stds"))
    return gd.oracles.GaussianMixture(weights, means, stds**2)


def errors(data, key, quadrature):
    """Distance of each sample to the published one, relative to the largest; on snapped nodes."""
    d, family, settings, spacing, n = parse(key)
    process, statistics = PROCESS[family], tables(data, d, family, settings)
    grid = statistics.snap(GRIDS[spacing](process, n))
    plan = dpm_solver_v3(process, grid, statistics=statistics, quadrature=quadrature, **SETTINGS[settings])
    assert plan.nfe == n
    x_T = data[f"d{d}__z"] * (80.0 if family == "edm" else 1.0)
    x = run_eager(plan, mixture(data, d).denoiser(process), x_T)
    return np.abs(x - data[key]).max(1) / np.abs(data[key]).max()


def test_published_outputs(data):
    """Every array of DPM-Solver-v3 in the file."""
    found = {key: errors(data, key, TRAPEZOID).max() for key in outputs(data)}
    assert len(found) == 200
    off = {key: value for key, value in found.items() if not value < 1e-8}
    assert not off, "\n".join(f"{k}: {v:.1e}" for k, v in off.items())


@pytest.mark.slow
def test_exact_quadrature_differs_by_the_error_of_the_trapezoid(data):
    """1e-5 to 1e-4; beyond that only few starts, those near the border of two basins."""
    found = np.array([errors(data, key, GAUSS) for key in outputs(data)])
    assert 1e-7 < np.median(found) < 1e-5
    assert np.median(found, axis=1).max() < 1e-4
    assert np.mean(found > 1e-4) < 0.02


def test_snapped_nodes_are_the_published_ones(data):
    for key in data.files:
        found = re.fullmatch(r"d(\d+)__(vp|edm)__v3_indexes_(\w+)__nfe(\d+)", key)
        if not found:
            continue
        d, family, n = int(found[1]), found[2], int(found[4])
        spacing = next(ours for ours, theirs in INDEX_NAMES.items() if theirs == found[3])
        statistics = tables(data, d, family)
        snapped = statistics.snap(GRIDS[spacing](PROCESS[family], n))
        np.testing.assert_allclose(snapped.lam, statistics.lam[data[key]], atol=1e-10)


@pytest.mark.parametrize("family", ["vp", "edm"])
@pytest.mark.parametrize("d", [2, 8])
def test_estimated_tables(data, x64, d, family):
    """l, s, b from the stored (data, noise) pairs, at both ends and in the middle of the stored nodes.

    dl/dlam is by differences, so s and b agree where our nodes have the neighbours that the stored ones had.
    """
    stored = tables(data, d, family)
    D = mixture(data, d).denoiser(PROCESS[family])
    for nodes, known in ((slice(0, 4), slice(0, 3)), (slice(600, 604), slice(1, 3)), (slice(1197, 1201), slice(1, 4))):
        found = estimate(
            PROCESS[family],
            D,
            jax.numpy.asarray(data[f"d{d}__ems__x0"]),
            lam=stored.lam[nodes],
            noise=data[f"d{d}__ems__noise"],
            probes="exact",
        )
        np.testing.assert_allclose(found.l, stored.l[nodes], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.s[known], stored.s[nodes][known], rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(found.b[known], stored.b[nodes][known], rtol=1e-7, atol=1e-8)
