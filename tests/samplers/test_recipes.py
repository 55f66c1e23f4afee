"""Named recipes, and what every named sampler must do on every process."""

import functools
import re

import jax
import numpy as np
import pytest

from gendyn import oracles
from gendyn.processes import EDM, PROCESSES, VPLinear
from gendyn.processes.gaussian import GaussianPath
from gendyn.samplers import GRIDS, SAMPLERS, ancestral, ddim, euler, grids, heun, plan, run_eager
from gendyn.tree import constant

NAMES = sorted(SAMPLERS)
MIXTURE = oracles.GaussianMixture([0.3, 0.7], [[-1.0], [1.0]], [[0.1], [0.3]])
POINT = oracles.GaussianMixture([1.0], [[0.7]], [[0.0]])
IN_TIME = {"euler"}
"""Rules that move the state by dt: on curved clocks they are not exact for a point mass."""


GAUSSIAN = [name for name in sorted(PROCESSES) if PROCESSES[name]().gaussian_noise]
OTHER = sorted(set(PROCESSES) - set(GAUSSIAN))
DRAWING = [name for name in NAMES if SAMPLERS[name].build(EDM(), grids.uniform_lam(EDM(), 6)).draws]
ADMITTED = [(name, path) for name in NAMES for path in sorted(PROCESSES) if path in GAUSSIAN or name not in DRAWING]
"""Every sampler with every process that admits it: those that draw Gaussian noise need Gaussian paths."""


@pytest.fixture(params=sorted(PROCESSES))
def process(request):
    return PROCESSES[request.param]()


@pytest.fixture(params=GAUSSIAN)
def gaussian(request):
    return PROCESSES[request.param]()


@pytest.fixture(params=ADMITTED, ids="-".join)
def pair(request):
    """(name of a sampler, process that admits it)."""
    name, path = request.param
    return name, PROCESSES[path]()


def some_plan(name, process, least=8):
    """The named recipe on its usual grid with `least` calls or the next number that it can make."""
    failures = []
    for nfe in range(least, least + 6):
        try:
            return plan(name, process, nfe)
        except ValueError as error:
            failures.append(str(error))
    raise AssertionError(failures)


def sample(plan, mixture, process, n=6):
    random = np.random.default_rng(0)
    start = plan.t[0]
    x_T = process.alpha(start) * 0.3 + process.sigma(start) * random.standard_normal((n, 1))
    noise = random.standard_normal((plan.rows, n, 1))
    return x_T, run_eager(plan, mixture.denoiser(process), x_T, noise=noise)


# --- The short form --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nfe", [5, 9, 10, 17])
def test_a_recipe_makes_exactly_the_calls_asked_for_or_says_which_it_can(name, nfe):
    try:
        made = {nfe: plan(name, EDM(), nfe)}
    except ValueError as error:
        said = re.search(
            rf"{name} cannot make exactly {nfe} network calls on this grid; near it, it makes (.*)\.", str(error)
        )
        made = {int(other): plan(name, EDM(), int(other)) for other in said[1].split(", ")}
    assert all(ours.nfe == calls for calls, ours in made.items())


@pytest.mark.parametrize(
    ("name", "counts"), [("ddim", range(1, 30)), ("heun", range(1, 30, 2)), ("ancestral", [1, 50])]
)
def test_numbers_of_calls_that_must_be_possible(name, counts):
    for nfe in counts:
        assert plan(name, EDM(), nfe).nfe == nfe


def test_grids_and_options_are_passed_on():
    process = VPLinear()
    by_name = plan("ddim", process, 6, grid="uniform_t", grid_options={"t_end": 0.01, "shift": 0.9}, eta=0.5)
    by_hand = ddim(process, grids.uniform_t(process, 6, t_end=0.01, shift=0.9), eta=0.5)
    for ours, theirs in zip(jax.tree.leaves(by_name), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert by_name.name == "ddim(eta=0.5)"
    builder = functools.partial(grids.karras, rho=3.0)
    np.testing.assert_array_equal(plan("ddim", process, 6, grid=builder).t, grids.karras(process, 6, rho=3.0).t[:-1])


@pytest.mark.parametrize("grid", sorted(GRIDS))
def test_every_named_grid_serves_a_recipe(grid, process):
    assert plan("ddim", process, 5, grid=grid).nfe == 5


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown sampler 'ddimm'; choose one of ddim, euler"):
        plan("ddimm", EDM(), 5)
    with pytest.raises(ValueError, match=r"unknown grid 'cosine'; choose one of uniform_t"):
        plan("ddim", EDM(), 5, grid="cosine")
    with pytest.raises(ValueError, match="nfe must be at least 1; got 0"):
        plan("ddim", EDM(), 0)
    with pytest.raises(ValueError, match=r"cannot make exactly 6 network calls on this grid; near it, it makes 5, 7"):
        plan("heun", EDM(), 6)


# --- Every sampler on every process ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", OTHER)
@pytest.mark.parametrize("name", DRAWING)
def test_samplers_that_draw_gaussian_noise_refuse_other_noise_by_name(name, path):
    process = PROCESSES[path]()
    with pytest.raises(ValueError, match=rf"{type(process).__name__}.* is not Gaussian .*use a deterministic sampler"):
        plan(name, process, 8)


def test_samples_are_finite_and_near_the_data(pair):
    """The usual grid of the recipe, clean last node included where it has one (also on VE and discrete tables).

    64 calls: some rules need them from the cosine table's sigma/alpha of 40,000, where large steps are unstable.
    """
    name, process = pair
    ours = some_plan(name, process, least=64)
    _, samples = sample(ours, MIXTURE, process, n=64)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() < 6
    assert 0.5 < samples.std() < 2


def test_point_masses_are_reached_exactly(pair):
    """D is constant on one point: the exact trajectory keeps its unit noise, and a clean end is the point itself."""
    name, process = pair
    ours = some_plan(name, process)
    if name in IN_TIME and process.dsigma(0.5) * 1.0 != process.dsigma(0.25) * 1.0:
        pytest.skip("an Euler step in a curved clock")
    grid = grid_of(name, process, ours)
    x_T, samples = sample(ours, POINT, process)
    if grid.clean:
        np.testing.assert_allclose(samples, 0.7, rtol=1e-9)
    elif not ours.draws:
        noise = (x_T - grid.alpha[0] * 0.7) / grid.sigma[0]
        np.testing.assert_allclose(samples, grid.alpha[-1] * 0.7 + grid.sigma[-1] * noise, rtol=1e-8)


def grid_of(name, process, plan):
    """A grid with the ends of the recipe's own."""
    recipe = SAMPLERS[name]
    options = {} if recipe.final_zero is None else {"final_zero": recipe.final_zero}
    return GRIDS[recipe.grid](process, 8, **options)


@constant
class Reversed(GaussianPath):
    """A process with its clock turned round: t -> 1 - t."""

    base: VPLinear = VPLinear()
    t_noise = 0.0
    t_data = 1.0
    interval = (0.0, 1 - 1e-3)

    def alpha(self, t):
        return self.base.alpha(1 - t)

    def sigma(self, t):
        return self.base.sigma(1 - t)

    def lam(self, t):
        return self.base.lam(1 - t)

    def dalpha(self, t):
        return -self.base.dalpha(1 - t)

    def dsigma(self, t):
        return -self.base.dsigma(1 - t)

    def t_of_lam(self, lam):
        return 1 - self.base.t_of_lam(lam)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_depends_on_the_direction_of_the_clock(name):
    samples = []
    for process in (VPLinear(), Reversed()):
        grid = grids.explicit(process, times=np.abs(process.t_data - np.linspace(1.0, 0.01, 11) ** 2))
        samples.append(sample(SAMPLERS[name].build(process, grid), MIXTURE, process)[1])
    np.testing.assert_allclose(*samples, rtol=1e-9, atol=1e-10)


# --- Identities ------------------------------------------------------------------------------------------------


def same_table(ours, theirs, **tolerance):
    for leaf in ("t", "ex", "em", "sx", "sm", "sn", "oy", "om"):
        np.testing.assert_allclose(getattr(ours, leaf), getattr(theirs, leaf), err_msg=leaf, **tolerance)


@pytest.mark.parametrize("name", ["edm", "rectified_flow"])
def test_euler_is_ddim_where_the_path_is_straight(name):
    process = PROCESSES[name]()
    grid = grids.uniform_t(process, 9)
    same_table(euler(process, grid), ddim(process, grid), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["vp_linear", "gvp"])
def test_euler_is_not_ddim_where_it_is_curved(name):
    process = PROCESSES[name]()
    grid = grids.uniform_t(process, 9, t_start=0.6, t_end=0.4) if name == "vp_linear" else grids.uniform_t(process, 9)
    assert np.abs(euler(process, grid).sm - ddim(process, grid).sm).max() > 1e-4


def test_ancestral_is_ddim_with_full_noise(gaussian):
    process = gaussian
    grid = grids.karras(process, 9)
    same_table(ancestral(process, grid), ddim(process, grid, eta=1.0), rtol=1e-9, atol=1e-15)


def test_ancestral_is_the_posterior_of_the_path(gaussian):
    """Mean and variance of q(x_e | x_s, data), by Gaussian conditioning on x_s = (alpha_s/alpha_e) x_e + noise."""
    process = gaussian
    grid = grids.karras(process, 6, final_zero=False)
    ours = ancestral(process, grid)
    alpha, sigma = grid.alpha, grid.sigma
    ratio = alpha[:-1] / alpha[1:]
    forward = sigma[:-1] ** 2 - ratio**2 * sigma[1:] ** 2
    gain = sigma[1:] ** 2 * ratio / sigma[:-1] ** 2
    np.testing.assert_allclose(ours.sx, gain, rtol=1e-9)
    np.testing.assert_allclose(ours.sm[:, 0], alpha[1:] - gain * alpha[:-1], rtol=1e-9)
    np.testing.assert_allclose(ours.sn[:, 0] ** 2, forward * sigma[1:] ** 2 / sigma[:-1] ** 2, rtol=1e-9)


@pytest.mark.parametrize("build", [ddim, heun, ancestral, functools.partial(heun, churn=3.0)])
def test_every_process_is_edm_in_the_state_over_alpha(build, gaussian):
    """The same nodes in lam give the same samples, once x is divided by alpha."""
    process = gaussian
    lam = np.linspace(-2.2, 2.5, 8)
    results = []
    for path in (process, EDM()):
        grid = grids.explicit(path, lam=lam)
        random = np.random.default_rng(0)
        x_T, noise = grid.alpha[0] * 7 * random.standard_normal((5, 1)), random.standard_normal((20, 5, 1))
        ours = build(path, grid)
        x = run_eager(ours, MIXTURE.denoiser(path), x_T, noise=noise[: ours.rows])
        results.append(x / grid.alpha[-1])
    np.testing.assert_allclose(*results, rtol=1e-8, atol=1e-9)


def test_heun_without_churn_is_heun_with_none_of_it(gaussian):
    process = gaussian
    grid = grids.karras(process, 6)
    with_draws = heun(process, grid, churn=0.0)
    assert with_draws.draws == 1
    assert with_draws.noise_rows == 0
    padded = heun(process, grid).pad(draws=1)
    same_table(with_draws, padded, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["rectified_flow", "gvp"])
@pytest.mark.parametrize("build", [ddim, euler, heun, ancestral])
def test_from_pure_noise_to_clean_data(build, name):
    """alpha = 0 first and sigma = 0 last: the table is finite and many steps converge to exact samples.

    The exact map from noise to N(0.7, 0.2) data is monotone in one dimension, hence 0.7 + sqrt(0.2) noise.
    """
    process, gaussian = PROCESSES[name](), oracles.GaussianMixture([1.0], [[0.7]], [[0.2]])
    ours = build(process, grids.uniform_t(process, 400))
    assert process.alpha(ours.t[0]) == 0
    noise = np.linspace(-2, 2, 5)[:, None]
    draws = np.random.default_rng(0).standard_normal((ours.rows, 5, 1))
    x = run_eager(ours, gaussian.denoiser(process), noise, noise=draws)
    if not ours.draws:
        np.testing.assert_allclose(x, 0.7 + np.sqrt(0.2) * noise, atol=0.01)
    assert np.isfinite(x).all()


@pytest.mark.parametrize("name", ["ve", "vp_discrete"])
@pytest.mark.parametrize("build", [ddim, euler, heun, ancestral])
def test_a_clean_last_node_is_legal_where_the_clock_lacks_it(build, name):
    process = PROCESSES[name]()
    assert process.sigma(process.t_data) > 0
    grid = grids.karras(process, 5)
    assert np.isnan(grid.t[-1])
    _x_T, samples = sample(build(process, grid), POINT, process)
    np.testing.assert_allclose(samples, 0.7, rtol=1e-12)
