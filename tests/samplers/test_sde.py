"""Stochastic families: what they reduce to, exact paths and moments, weak and strong order, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn import samplers
from gendyn.oracles import GaussianMixture
from gendyn.processes import EDM, PROCESSES
from gendyn.samplers import SAMPLERS, grids
from gendyn.tree import constant

START, END = -2.0, 1.0
MIXTURE = GaussianMixture([0.4, 0.6], [[-1.0, 0.3], [0.8, -0.2]], [[0.15, 0.05], [0.4, 0.3]])
SINGLE = functools.partial(samplers.sde_dpmpp, kind="singlestep")
COEFFICIENTS = ("t", "call", "ex", "em", "ec", "oy", "om", "sx", "sm", "sc")


def nonuniform(process, n):
    u = np.linspace(0, 1, n + 1)
    return grids.explicit(process, lam=START + (END - START) * (u + 0.12 * np.sin(2 * np.pi * u)))


def stochastic_recipes():
    grid = nonuniform(EDM(), 20)
    return [name for name in SAMPLERS if SAMPLERS[name].build(EDM(), grid).draws]


def assert_same_rows(a, b, names=(*COEFFICIENTS, "en", "sn")):
    for name in names:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-11, err_msg=name)


# --- Identities --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["edm", "vp_linear", "rectified_flow"])
def process(request):
    return PROCESSES[request.param]()


def from_end_to_end(process):
    """Karras with a clean end; on flows the whole clock, out of pure noise."""
    return grids.uniform_t(process, 7) if process.alpha(process.t_noise) == 0 else grids.karras(process, 7)


IDENTITIES = {
    **{
        f"sde_dpmpp {order} {rule} eta=0 is dpmpp": (
            functools.partial(samplers.sde_dpmpp, order=order, rule=rule, eta=0.0),
            functools.partial(samplers.dpmpp, order=order, rule=rule),
        )
        for order, rule in ((1, "midpoint"), (2, "midpoint"), (2, "taylor"), (3, "taylor"))
    },
    "sde_dpmpp 1 eta=1 is ancestral": (functools.partial(samplers.sde_dpmpp, order=1), samplers.ancestral),
    "seeds 1 data is sde_dpmpp 1": (
        functools.partial(samplers.seeds, order=1, form="data", eta=0.3),
        functools.partial(samplers.sde_dpmpp, order=1, eta=0.3),
    ),
    "seeds 2 data is sde_dpmpp single": (functools.partial(samplers.seeds, form="data"), SINGLE),
    "split of ddim is ddim(eta)": (
        functools.partial(samplers.ancestral_split, eta=0.6),
        functools.partial(samplers.ddim, eta=0.6),
    ),
    "split of heun at eta=0 is heun": (
        functools.partial(samplers.ancestral_split, solver=samplers.heun, eta=0.0),
        samplers.heun,
    ),
    "split of dpm2 at eta=0 is dpm2": (functools.partial(samplers.dpm2_ancestral, eta=0.0), samplers.dpm2),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity(name, process):
    left, right = IDENTITIES[name]
    grid = from_end_to_end(process)
    assert_same_rows(left(process, grid), right(process, grid))


def test_first_order_noise_form_without_noise_is_ddim(process):
    grid = from_end_to_end(process)
    ours, ddim = (samplers.seeds(process, grid, order=1, eta=0.0), samplers.ddim(process, grid))
    D, x_T = MIXTURE.denoiser(process), np.random.default_rng(0).standard_normal((5, 2))
    np.testing.assert_allclose(samplers.run_eager(ours, D, x_T), samplers.run_eager(ddim, D, x_T), rtol=1e-9)
    assert ours.draws == 0


def test_euler_maruyama_without_noise_is_euler(process):
    grid = nonuniform(process, 9)
    assert_same_rows(samplers.euler_maruyama(process, grid, kappa=0.0), samplers.euler(process, grid))


def test_singlestep_without_noise_is_the_midpoint_rule(process):
    grid = nonuniform(process, 4)
    cut = grids.subdivide(grid, (2,) * 4)
    assert_same_rows(SINGLE(process, grid, eta=0.0), samplers.dpmpp(process, cut, order=2, kind="singlestep"))


# --- Constant D: the same exact path on every grid ---------------------------------------------------------------

POINT = jnp.array([0.7, -0.4])


def on_path(plan, key, x_T):
    """A run of a plan on one Brownian path, in float64."""
    noise = np.asarray(samplers.brownian(plan, key, x_T.shape))
    return samplers.run_eager(plan, lambda x, t: 0 * x + np.asarray(POINT), x_T, noise=noise)


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("build", [samplers.sde_dpmpp, SINGLE], ids=["multistep", "singlestep"])
def test_a_constant_denoiser_is_crossed_on_one_exact_path(build, eta, process, x64):
    x_T, key = np.random.default_rng(0).standard_normal((50, 2)), jax.random.key(1)
    ends = [on_path(build(process, nonuniform(process, n), eta=eta), key, x_T) for n in (3, 16)]
    # Nodes are snapped to 2.4e-6 in lam, so the path differs by the square root of that.
    np.testing.assert_allclose(ends[0], ends[1], atol=0.02 * np.sqrt(eta))
    assert np.std(ends[0] - on_path(build(process, nonuniform(process, 3), eta=eta), jax.random.key(2), x_T)) > 0.1


# --- Exact moments ------------------------------------------------------------------------------------------------

MEAN, VARIANCE = 0.7, 0.3


def moments(plan, grid):
    """Mean and variance of the last state for data N(MEAN, VARIANCE), exactly.

    The state is affine in the first state's normal and the draws. Running the plan on the coefficients, with unit
    vectors for draws, is therefore the recursion itself: entry 0 is the constant, entry 1 the first state's normal.
    """
    process, basis = grid.process, np.eye(2 + plan.rows)
    mean, variance = marginal(grid.alpha[0], grid.sigma[0])

    def D(x, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        return gain * x + (1 - gain * alpha) * MEAN * basis[0]

    x = samplers.run_eager(plan, D, mean * basis[0] + np.sqrt(variance) * basis[1], noise=basis[2:])
    return np.array([x[0], x[1:] @ x[1:]])


def marginal(alpha, sigma):
    return np.array([alpha * MEAN, alpha**2 * VARIANCE + sigma**2])


def weak_order(build, process, ns=(320, 640)):
    errors = []
    for n in ns:
        grid = nonuniform(process, n)
        errors.append(np.abs(moments(build(process, grid), grid) - marginal(grid.alpha[-1], grid.sigma[-1])).max())
    return np.log2(errors[0] / errors[-1]) / np.log2(ns[-1] / ns[0])


NOISE_LEVELS = {
    "sde_dpmpp_1": (functools.partial(samplers.sde_dpmpp, order=1), 1),
    "sde_dpmpp_2m taylor": (functools.partial(samplers.sde_dpmpp, rule="taylor"), 2),
    "sde_dpmpp_3m": (functools.partial(samplers.sde_dpmpp, order=3), 2),
    "sde_dpmpp": (SINGLE, 2),
    "seeds_1": (functools.partial(samplers.seeds, order=1), 1),
    "seeds_2": (samplers.seeds, 2),
}


@pytest.mark.parametrize("eta", [0.5, 2.0])
@pytest.mark.parametrize("name", NOISE_LEVELS)
def test_weak_order_at_other_noise_levels(name, eta, process):
    build, order = NOISE_LEVELS[name]
    assert weak_order(functools.partial(build, eta=eta), process) > order - 0.15


@pytest.mark.parametrize(
    ("build", "order"),
    [
        (functools.partial(samplers.euler_maruyama, kappa=0.5), 1),
        (functools.partial(samplers.ancestral_split, solver=samplers.heun, eta=0.5), 2),
        (functools.partial(samplers.ancestral_split, solver=samplers.deis_rk), 3),
        (functools.partial(samplers.langevin, rate=2.0), 1),
        (functools.partial(samplers.langevin, solver=samplers.heun), 1),
    ],
    ids=["euler_maruyama", "heun split", "kutta3 split", "langevin", "heun langevin"],
)
def test_weak_order_of_split_samplers(build, order, process):
    grid = nonuniform(process, 6)
    assert build(process, grid).order == order
    assert weak_order(build, process) > order - 0.15


def test_the_step_must_share_the_noise_of_its_stage():
    """Independent noises for stage and step, of the right variances, lower the weak order of two stages to one."""

    def independent(process, grid):
        plan = SINGLE(process, grid)
        last = np.arange(plan.rows) % 2 == 1
        plan.sn[last] = np.stack([np.hypot(*plan.sn[last].T), np.zeros(last.sum())], 1)
        return plan

    assert weak_order(independent, EDM()) < 1.2
    assert weak_order(SINGLE, EDM()) > 1.85


# --- Strong order -------------------------------------------------------------------------------------------------


@functools.cache
def shared_path(eta):
    """(start, exact end) of 200 paths of the SDE on the mixture, from a fine two-stage run in float64."""
    x_T = np.exp(-START) * np.random.default_rng(0).standard_normal((200, 2))
    return x_T, follow(functools.partial(SINGLE, eta=eta), 1024, x_T)


def follow(build, n, x_T):
    with jax.enable_x64(True):
        plan = build(EDM(), nonuniform(EDM(), n))
        noise = np.asarray(samplers.brownian(plan, jax.random.key(3), x_T.shape))
        return samplers.run_eager(plan, MIXTURE.denoiser(EDM()), x_T, noise=noise)


def noisy_euler_maruyama(process, grid, kappa):
    """Euler-Maruyama one step further, and that step, the noiseless one, taken away again."""
    longer = grids.explicit(process, lam=[*grid.lam, grid.lam[-1] + 0.1])
    return jax.tree.map(lambda leaf: leaf[:-1], samplers.euler_maruyama(process, longer, kappa=kappa))


def on_the_sde(eta):
    """Every family at one noise level."""
    kappa = np.sqrt(eta)
    return {
        **{name: functools.partial(build, eta=eta) for name, (build, _) in NOISE_LEVELS.items()},
        "euler_maruyama": functools.partial(noisy_euler_maruyama, kappa=kappa),
        "dpm2_ancestral": functools.partial(samplers.dpm2_ancestral, eta=kappa),
        "langevin": functools.partial(samplers.langevin, rate=eta),
    }


@pytest.mark.parametrize("eta", [pytest.param(0.5, marks=pytest.mark.slow), 1.0])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("euler_maruyama", "langevin") else [pytest.mark.slow])
        for name in on_the_sde(1.0)
    ],
)
def test_strong_order_one_along_the_paths_of_a_seed(name, eta):
    """All families converge to the same paths; rms over 200 of them at 24 and 192 steps."""
    x_T, exact = shared_path(eta)
    build = on_the_sde(eta)[name]
    errors = [np.sqrt(np.mean((follow(build, n, x_T) - exact) ** 2)) for n in (24, 192)]
    slope = np.log2(errors[0] / errors[1]) / 3
    print(f"{name:>22} eta={eta} {slope:.2f} {errors[1]:.1e}")
    assert slope > 0.8


# --- The published corrector ---------------------------------------------------------------------------------------


def test_the_corrector_with_no_step_is_the_predictor():
    plan = samplers.ddim(EDM(), grids.karras(EDM(), 6))
    D, x_T = MIXTURE.denoiser(EDM()), EDM().sample_prior(jax.random.key(0), (4, 2))
    ours = samplers.run_with_langevin(plan, D, x_T, jax.random.key(1), snr=0.0)
    np.testing.assert_allclose(ours, samplers.run(plan, D, x_T), rtol=1e-5)


def test_the_corrector_restores_the_variance_that_a_coarse_predictor_loses():
    """Data N(0, 1) in 64 dimensions, 4000 draws in all: standard error of a variance 0.004."""
    D, key = GaussianMixture([1.0], np.zeros((1, 64)), np.ones((1, 64))).denoiser(EDM()), jax.random.key(0)
    plan = samplers.ancestral(EDM(), grids.karras(EDM(), 12, final_zero=False))
    x_T = EDM().sample_prior(key, (64, 64))
    error = lambda **options: abs(float(samplers.run_with_langevin(plan, D, x_T, key, **options).var()) - 1)
    assert error(snr=0.4, repeats=3) < 0.5 * error(snr=0.0)


# --- Refusals ------------------------------------------------------------------------------------------------------


@constant
class StudentNoise(EDM):
    """A path whose noise is not Gaussian, as PFGM++'s."""

    gaussian_noise = False


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_process_without_gaussian_noise_is_refused_by_stochastic_samplers_only(name):
    grid = grids.explicit(StudentNoise(), lam=np.linspace(-2, 1, 9))
    if name in stochastic_recipes():
        with pytest.raises(ValueError, match=r"its denoiser gives no score.* use a deterministic sampler"):
            SAMPLERS[name].build(StudentNoise(), grid)
    else:
        assert SAMPLERS[name].build(StudentNoise(), grid).draws == 0


def test_noise_as_an_option_is_refused_there_too():
    grid = grids.karras(StudentNoise(), 5)
    for build in (functools.partial(samplers.ddim, eta=0.5), functools.partial(samplers.heun, churn=2.0)):
        with pytest.raises(ValueError, match="adds Gaussian noise"):
            build(StudentNoise(), grid)
    assert samplers.sde_dpmpp(StudentNoise(), grid, eta=0.0).draws == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, g: samplers.sde_dpmpp(p, g, eta=-1.0), "eta must be zero or positive; got -1"),
        (lambda p, g: samplers.sde_dpmpp(p, g, order=4), "orders 1, 2 and 3; got 4"),
        (lambda p, g: samplers.sde_dpmpp(p, g, kind="both"), "choose one of multistep, singlestep"),
        (lambda p, g: SINGLE(p, g, order=3), 'use kind="multistep" for order 3'),
        (lambda p, g: samplers.seeds(p, g, order=3), "order 1 or 2; got 3"),
        (lambda p, g: samplers.seeds(p, g, form="v"), "choose one of data, noise"),
        (lambda p, g: samplers.seeds(p, g, eta=-0.1), "eta must be zero or positive"),
        (lambda p, g: samplers.euler_maruyama(p, g, kappa=-1.0), "kappa must be zero or positive"),
        (lambda p, g: samplers.ancestral_split(p, g, eta=1.5), r"eta must lie in \[0, 1\]"),
        (
            lambda p, g: samplers.ancestral_split(p, g, solver=samplers.ancestral),
            "must be deterministic, but ancestral",
        ),
        (lambda p, g: samplers.langevin(p, g, rate=0.0), "rate must be positive"),
        (lambda p, g: samplers.run_with_langevin(samplers.dpmpp(p, g), None, None, None), "without memory"),
    ],
)
def test_bad_arguments_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call(EDM(), grids.karras(EDM(), 5))
