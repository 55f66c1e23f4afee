"""Statistics of a denoiser: exact values where known, independence of how they are computed, files, refusals."""

import dataclasses

import jax
import numpy as np
import pytest

import gendyn as gd
from gendyn.oracles import GaussianMixture
from gendyn.samplers import grids, run_eager
from gendyn.samplers.statistics import (
    Origin,
    Statistics,
    counted,
    estimate,
    moments,
    relative_difference,
    statistics_of,
)

EDM, VP, FLOW = gd.processes.EDM(), gd.processes.VPLinear(), gd.processes.RectifiedFlow()
KEY = jax.random.key(0)
MIXTURE = GaussianMixture([0.4, 0.6], [[-1.0, 0.3, 0.0], [0.8, -0.2, 0.5]], [[0.15, 0.05, 0.1], [0.4, 0.3, 0.2]])
FULL = GaussianMixture([0.5, 0.5], [[-1.0, 0.3], [0.8, -0.2]], [[[0.3, 0.2], [0.2, 0.4]], [[0.2, -0.1], [-0.1, 0.1]]])
GAUSSIAN = GaussianMixture([1.0], [[0.5, -1.0]], [[0.3, 0.05]])


def measured(process=EDM, model=MIXTURE, samples=64, **choices):
    choices = {"num_times": 12, "probes": "exact"} | choices
    return estimate(process, model.denoiser(process), model.sample(KEY, samples), KEY, **choices)


def same(a, b, **tolerance):
    for name in ("lam", "l", "s", "b"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), **tolerance)


# --- Values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [EDM, VP, FLOW], ids=["edm", "vp", "flow"])
def test_single_gaussian(x64, process):
    """l = sigma^2/(alpha^2 v + sigma^2), and f = -l m does not vary: s = 0, b = -l' m (the degenerate guard)."""
    found = measured(process, GAUSSIAN, num_times=200)
    rho = np.exp(-found.lam)[:, None]
    v, m = GAUSSIAN.eigenvalues[0], GAUSSIAN.means[0]
    np.testing.assert_allclose(found.l, rho**2 / (v + rho**2), rtol=1e-9)
    np.testing.assert_array_equal(found.s, 0.0)
    slope = -2 * rho**2 * v / (v + rho**2) ** 2
    np.testing.assert_allclose(found.b, -slope * m, atol=2e-3)  # dl/dlam by differences


def test_single_gaussian_in_float32():
    assert (measured(EDM, GAUSSIAN, samples=256).s == 0).all()


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_order_one_is_exact_for_a_gaussian(x64, steps):
    """With its own statistics, from any start, up to the interpolation of the tables, whose error is quadratic."""

    def error(num_times):
        statistics = measured(EDM, GAUSSIAN, samples=4, num_times=num_times)
        plan = gd.plan("dpm_solver_v3", EDM, nfe=steps, statistics=statistics, order=1)
        return np.abs(run_eager(plan, GAUSSIAN.denoiser(EDM), x_T) - exact).max()

    x_T = 80.0 * np.random.default_rng(0).standard_normal((16, 2))
    v, m = GAUSSIAN.eigenvalues[0], GAUSSIAN.means[0]
    exact = m + (x_T - m) * np.sqrt((v + 0.002**2) / (v + 80.0**2))
    coarse, fine = error(150), error(600)
    assert fine < 3e-4
    assert fine < coarse / 10


def test_limits(x64):
    """Noise: l = 1, s = 1. Data: l = 0, s = -2, b = 0 (beyond the smallest structure of the data)."""
    low = measured(lam=np.linspace(-7.0, -6.8, 5), samples=256)
    np.testing.assert_allclose(low.l, 1.0, atol=1e-5)
    np.testing.assert_allclose(low.s, 1.0, atol=0.02)
    high = measured(lam=np.linspace(6.8, 7.0, 5), samples=256)
    np.testing.assert_allclose(high.l, 0.0, atol=1e-4)
    np.testing.assert_allclose(high.s, -2.0, atol=0.02)
    np.testing.assert_allclose(high.b, 0.0, atol=1e-2)


def test_regression_by_hand(x64):
    """s and b from their definitions: f and its derivative by central differences along the exact flow."""
    lam = np.linspace(-1.0, 1.0, 41)
    data = np.asarray(FULL.sample(KEY, 50))
    noise = np.random.default_rng(1).standard_normal(data.shape)
    D = FULL.denoiser(VP)
    found = estimate(VP, D, data, lam=lam, noise=noise, probes="exact")
    i, eps = 20, 1e-5
    slope = np.gradient(found.l, lam, axis=0, edge_order=2)[i]

    def f(x, at):
        """(1 - l) x/alpha - D, with l moving along its own slope."""
        t = VP.t_of_lam(np.float64(at))
        return (1 - found.l[i] - slope * (at - lam[i])) * x / VP.alpha(t) - D(x, t)

    t = VP.t_of_lam(lam[i])
    alpha, sigma = VP.alpha(t), VP.sigma(t)
    x = alpha * data + sigma * noise
    dx = sigma**2 * x - (x - alpha * D(x, t))  # VP: d(log alpha)/dlam = sigma^2
    df = (f(x + eps * dx, lam[i] + eps) - f(x - eps * dx, lam[i] - eps)) / (2 * eps)
    fits = [np.polyfit(f(x, lam[i])[:, j], df[:, j], 1) for j in range(2)]
    np.testing.assert_allclose(np.stack([found.s[i], found.b[i]], 1), fits, rtol=1e-5, atol=1e-6)


def test_a_rescaled_model_has_the_same_statistics(x64):
    """One network on four paths: l, s, b are functions of lam alone."""
    lam = np.linspace(-3.0, 3.0, 8)
    first = measured(EDM, lam=lam)
    for process in (VP, FLOW, gd.processes.VPCosine()):
        same(measured(process, lam=lam), first, rtol=1e-6, atol=1e-7)


def test_guided_model(x64):
    """Jacobians of D_ref + w (D - D_ref) mix linearly, so l does."""
    data, lam = MIXTURE.sample(KEY, 64), np.linspace(-2.0, 2.0, 5)
    D, reference = MIXTURE.denoiser(EDM), GaussianMixture([1.0], [[0.0] * 3], [[0.5] * 3]).denoiser(EDM)
    of = lambda D: estimate(EDM, D, data, KEY, lam=lam, probes="exact").l
    guided = gd.control.autoguidance(D, reference, 3.0)
    np.testing.assert_allclose(of(guided), 3 * of(D) - 2 * of(reference), atol=1e-10)


def test_conditions_reach_the_model(x64):
    data = MIXTURE.sample(KEY, 30)
    labels = np.arange(30) % 3
    D = jax.tree_util.Partial(lambda x, t, cond: x * cond[:, None] / 10)
    found = estimate(EDM, D, data, KEY, lam=np.linspace(0.0, 1.0, 4), cond=labels, batch=7)
    np.testing.assert_allclose(found.l, 1 - 0.1, atol=1e-12)


def test_probes_are_unbiased(x64):
    """Random signs against the exact diagonal. The off-diagonal terms have standard error |J_12|/sqrt(samples); four of
    them are allowed at 2 x 5 values: one false alarm in 2000 keys.
    """
    samples, lam = 4096, np.linspace(-1.0, 2.0, 5)
    exact = measured(EDM, FULL, samples=samples, lam=lam)
    signs = measured(EDM, FULL, samples=samples, lam=lam, probes=1)
    assert 0 < np.abs(signs.l - exact.l).max() < 4 / np.sqrt(samples)
    many = measured(EDM, FULL, samples=samples, lam=lam, probes=16)
    assert np.abs(many.l - exact.l).max() < 2 / np.sqrt(samples)


@pytest.mark.slow
def test_statistics_make_a_better_sampler():
    """On a mixture, eight calls: nearer to the exact flow than the same rule with data-form tables."""
    model = GaussianMixture([0.3, 0.7], [[-1.0, 0.5], [0.6, -0.4]], [[0.02, 0.05], [0.08, 0.03]])
    D, grid = model.denoiser(EDM), grids.uniform_lam(EDM, 8)
    own = estimate(EDM, D, model.sample(KEY, 1024), KEY, num_times=60, probes="exact")
    plain = dataclasses.replace(own, l=np.ones_like(own.l), s=0 * own.s, b=0 * own.b)
    x_T = 80.0 * np.random.default_rng(0).standard_normal((128, 2))
    fine = run_eager(gd.plan("dpmpp_3m", EDM, nfe=400, grid="uniform_lam"), D, x_T)
    error = lambda statistics: np.median(
        np.abs(run_eager(gd.samplers.dpm_solver_v3(EDM, grid, statistics=statistics), D, x_T) - fine)
    )
    assert error(own) < 0.7 * error(plain)


# --- How they are computed -------------------------------------------------------------------------------------


def test_batches_do_not_matter():
    whole = measured(batch=64, probes=1)
    same(measured(batch=7, probes=1), whole, rtol=1e-3, atol=1e-4)


def test_parts_merge_to_the_whole(x64):
    D, data, lam = MIXTURE.denoiser(EDM), MIXTURE.sample(KEY, 50), np.linspace(-2.0, 2.0, 6)
    part = lambda rows, first: moments(EDM, D, data[rows], KEY, lam=lam, first=first)
    merged = [a.merge(b) for a, b in zip(part(slice(0, 20), 0), part(slice(20, 50), 20), strict=True)]
    same(statistics_of(merged, lam), estimate(EDM, D, data, KEY, lam=lam), rtol=1e-9, atol=1e-10)
    assert counted(Origin(), merged, 1).num_samples == 50


def test_float32_agrees_with_float64():
    lam, data = np.linspace(-4.3, 4.0, 12), np.asarray(MIXTURE.sample(KEY, 64))
    noise = np.random.default_rng(0).standard_normal(data.shape).astype(np.float32)
    of = lambda data: estimate(EDM, MIXTURE.denoiser(EDM), data, lam=lam, noise=noise, probes="exact")
    low = of(data)
    with jax.enable_x64(True):
        same(low, of(data.astype(np.float64)), rtol=2e-3, atol=2e-3)


def test_fresh_noise_differs_from_node_to_node():
    """By default a sample keeps its noise and the tables are smooth; fresh noise roughens them."""
    roughness = lambda statistics: np.abs(np.diff(statistics.s, 2, axis=0)).mean()
    assert roughness(measured(fresh=True, num_times=60)) > 3 * roughness(measured(num_times=60))


@pytest.mark.slow
def test_noise_falls_with_samples():
    """Two halves of 16 times more samples differ by about a quarter."""

    def between_halves(samples):
        D, data, lam = FULL.denoiser(EDM), FULL.sample(KEY, 2 * samples), np.linspace(-2.0, 2.0, 9)
        a, b = (estimate(EDM, D, data[i::2], jax.random.key(i), lam=lam, probes="exact") for i in (0, 1))
        return relative_difference(a, b)["l"]

    assert between_halves(1024) < 0.5 * between_halves(64)


def test_cost_is_counted_and_reported():
    """One evaluation per (sample, node), and a report that ends at all of them."""
    calls, reports = [], []

    def D(x, t, cond):
        jax.debug.callback(lambda: calls.append(len(x)))
        return x / (1 + t**2)

    found = estimate(EDM, D, MIXTURE.sample(KEY, 32), KEY, num_times=9, probes=2, batch=8, report=reports.append)
    jax.effects_barrier()
    assert found.origin.network_calls == 320 == sum(calls) == reports[-1]
    assert found.origin.tangents == 3 * 320
    assert reports == sorted(reports)


def test_memory_limit_halves_the_batch():
    """Large one-hot probes: the limit is kept and the tables do not change."""
    free = measured(num_times=4, batch=64)
    same(measured(num_times=4, batch=64, memory=20_000), free, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="memory= allows"):
        measured(num_times=4, memory=10)


# --- Files and refusals ----------------------------------------------------------------------------------------


def test_statistics_survive_save_and_load(tmp_path):
    found = measured(VP, num_times=5)
    found = dataclasses.replace(found, origin=dataclasses.replace(found.origin, model="runs/a", step=7, guidance=1.5))
    found.save(tmp_path / "a.npz")
    again = Statistics.load(tmp_path / "a.npz")
    same(again, found, rtol=0)
    assert (again.process, again.origin) == (VP, found.origin)
    bare = Statistics(lam=found.lam, l=found.l, s=found.s, b=found.b)
    bare.save(tmp_path / "b.npz")
    assert Statistics.load(tmp_path / "b.npz").origin is None


def test_foreign_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Statistics.load(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    (tmp_path / "text.npz").write_text("no")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(ValueError, match="does not hold saved statistics"):
            Statistics.load(tmp_path / name)


def test_interpolation():
    table = np.array([[0.0], [1.0], [3.0]])
    found = Statistics(lam=np.array([0.0, 1.0, 2.0]), l=table, s=-table, b=0 * table)
    l, s, b = found.at(np.array([[0.5, 1.0], [1.75, 2.0]]))
    np.testing.assert_allclose(l[..., 0], [[0.5, 1.0], [2.5, 3.0]])
    np.testing.assert_array_equal(s, -l)
    assert b.shape == (2, 2, 1)


def test_bad_input_is_refused():
    D, data = MIXTURE.denoiser(EDM), MIXTURE.sample(KEY, 8)
    with pytest.raises(ValueError, match="two or more examples"):
        estimate(EDM, D, data[:1], KEY)
    with pytest.raises(ValueError, match="probes"):
        estimate(EDM, D, data, KEY, probes=0)
    with pytest.raises(ValueError, match="key="):
        estimate(EDM, D, data)
    with pytest.raises(ValueError, match="shape of the data"):
        estimate(EDM, D, data, KEY, noise=np.zeros((4, 3)))
    with pytest.raises(ValueError, match="3 nodes"):
        estimate(EDM, D, data, KEY, num_times=1)
