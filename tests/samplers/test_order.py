"""Measured order of convergence: every sampler on every process, and exact moments of the stochastic ones.

All paths of one noise share one probability flow in (x/alpha, rho = sigma/alpha), so a single reference trajectory,
solved to 1e-13, serves every Gaussian process; PFGM++ has its own. Errors are measured over lam from -2 to 1 on a
smoothly non-uniform grid. Start-up must
not cap a multistep rule: the first rows are run on the exact trajectory (`seeded`).
"""

import functools
import itertools

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from gendyn import samplers
from gendyn.oracles import GaussianMixture
from gendyn.processes import EDM, PROCESSES
from gendyn.samplers import SAMPLERS, grids
from gendyn.samplers.plan import SamplerPlan

START, END = -2.0, 1.0
STEPS = (80, 160, 320)
MIXTURE = GaussianMixture([0.4, 0.6], [[-1.0, 0.3], [0.8, -0.2]], [[0.15, 0.05], [0.4, 0.3]])


def nonuniform(process, n):
    u = np.linspace(0, 1, n + 1)
    return grids.explicit(process, lam=START + (END - START) * (u + 0.12 * np.sin(2 * np.pi * u)))


@functools.cache
def trajectory(exploding):
    """x/alpha along the exact flow of the exploding path as a function of lam: points from about its first marginal.

    400 points; 24 where the exact model is a quadrature.
    """
    rho, count = np.exp(-START), 400 if exploding.gaussian_noise else 24
    random = np.random.default_rng(0)
    component = random.random(count) < MIXTURE.weights[0]
    mean, variance = (np.where(component[:, None], v[0], v[1]) for v in (MIXTURE.means, MIXTURE.eigenvalues))
    start = mean + np.sqrt(variance + rho**2) * random.standard_normal((count, 2))
    tight = (
        {"rtol": 1e-13, "atol": 1e-13, "max_step": 0.02} if exploding.gaussian_noise else {"rtol": 1e-12, "atol": 1e-12}
    )

    def field(lam, y):
        y = y.reshape(count, 2)
        return (MIXTURE.denoiser(exploding)(y, np.exp(-lam)) - y).ravel()

    solution = solve_ivp(field, (START, END), start.ravel(), method="DOP853", dense_output=True, **tight)
    return lambda lam: solution.sol(lam).reshape(count, 2)


def exploding(process):
    """The path of x/alpha with the process's own noise."""
    return EDM() if process.gaussian_noise else process


def node_of_state(plan, grid):
    """The grid node at which the state stands after each row, read off the plan itself.

    On data that is one point, D is constant and a consistent rule keeps x = alpha data + sigma noise: running with
    (data, noise) = (1, 0) and (0, 1) gives alpha and sigma of the state.
    """
    x_T = np.array([grid.alpha[0], grid.sigma[0]])
    _, states = samplers.run_eager(plan, lambda x, t: np.array([1.0, 0.0]), x_T, observe=lambda i, x, _: x)
    lam = np.log([s[0] / s[1] for s in states])
    return np.abs(lam[:, None] - grid.lam).argmin(1)


def seeded(plan: SamplerPlan, grid) -> np.ndarray:
    """Run a deterministic plan whose first steps are evaluated on, and return to, the exact trajectory.

    Start-up ends with a whole step: the stages of a Runge-Kutta step cancel each other's errors only together.
    """
    process, D, exact = grid.process, MIXTURE.denoiser(grid.process), trajectory(exploding(grid.process))

    def on_path(t):
        return process.alpha(t) * exact(process.lam(t))

    nodes = node_of_state(plan, grid)
    startup = 1 + next(i for i in range(plan.window + 1, plan.rows) if nodes[i] > nodes[i - 1])
    x = on_path(grid.t[0])
    history = [np.zeros_like(x)] * plan.window
    for i in range(plan.rows):
        if plan.call[i]:
            t = plan.t[i]
            y = on_path(t) if i < startup else plan.ex[i] * x + dot(plan.em[i], history) + plan.ec[i]
            history = [plan.oy[i] * y + plan.om[i] * D(y, t), *history[:-1]]
        x = on_path(grid.t[nodes[i]]) if i < startup else plan.sx[i] * x + dot(plan.sm[i], history) + plan.sc[i]
    return x


def dot(coefficients, window):
    return sum(c * w for c, w in zip(coefficients, window, strict=True))


def slope(errors):
    """Order from the doublings of the step count."""
    return float(np.log2(errors[0] / errors[-1]) / (len(errors) - 1))


def measured_order(build, process):
    errors = []
    for n in STEPS:
        grid = nonuniform(process, n)
        exact = grid.alpha[-1] * trajectory(exploding(process))(END)
        errors.append(np.sqrt(np.mean((seeded(build(process, grid), grid) - exact) ** 2)))
    return slope(errors)


def required(order):
    return order - (0.15 if order < 4 else 0.3)


def order_of(name):
    grid = nonuniform(EDM(), 40)
    plan = SAMPLERS[name].build(EDM(), grid)
    return plan.order, plan.draws


DETERMINISTIC = [name for name in sorted(SAMPLERS) if order_of(name)[1] == 0]
STOCHASTIC = [name for name in sorted(SAMPLERS) if order_of(name)[1]]
ON_THE_CLOCK = {"deis_tab3"}
"""Polynomials in t of high degree: on a piecewise linear table the kinks show before their own error does."""
GAUSSIAN = [name for name in sorted(PROCESSES) if PROCESSES[name]().gaussian_noise]
TABLES = {name for name in PROCESSES if name.startswith("vp_discrete")}


def check(name, process_name):
    if name in ON_THE_CLOCK and process_name in TABLES:
        pytest.skip("a high order rule in t on a table with kinks; see ON_THE_CLOCK")
    measured = measured_order(SAMPLERS[name].build, PROCESSES[process_name]())
    print(f"{name:>20} {process_name:>20} {measured:.2f}")
    assert measured >= required(order_of(name)[0])


COVERING = [
    *zip(DETERMINISTIC, itertools.cycle(sorted(PROCESSES))),
    *zip(DETERMINISTIC, itertools.cycle(["vp_linear", "edm", "rectified_flow"])),
]
"""Each sampler on two processes, each process under several samplers; the slow test below has every pair."""


@pytest.mark.parametrize(("name", "process_name"), sorted(set(COVERING)))
def test_order_of_convergence(name, process_name):
    check(name, process_name)


@pytest.mark.parametrize("process_name", sorted(PROCESSES))
@pytest.mark.parametrize(("name", "least"), [("ddim", 0.9), ("heun", 1.85)])
def test_ddim_and_heun_on_every_process(name, least, process_name):
    assert measured_order(SAMPLERS[name].build, PROCESSES[process_name]()) >= least


@pytest.mark.slow
@pytest.mark.parametrize("process_name", sorted(PROCESSES))
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence_on_the_full_matrix(name, process_name):
    check(name, process_name)


def test_the_measurement_can_fail():
    """A plan that claims too much is caught: DDIM is not of second order, and a broken coefficient has order zero."""
    assert measured_order(samplers.ddim, EDM()) < 1.2

    def wrong_signal_level(process, grid):
        plan = samplers.heun(process, grid)
        plan.sm[1::2, 0] *= 0.99
        return plan

    assert measured_order(wrong_signal_level, EDM()) < 1.5


# --- Stochastic plans: moments on Gaussian data, exactly ---------------------------------------------------------


MEAN, VARIANCE = 0.7, 0.3


def moments(plan, process, start_mean, start_variance):
    """Mean and variance of the last state for data N(MEAN, VARIANCE), by the affine recursion; no sampling.

    The state, the remembered outputs and the draws are affine in independent unit normals: their coefficients are
    carried along. Column 0 is the constant, column 1 the first state's own normal, column 2 + i draw i.
    """
    basis = np.eye(2 + plan.rows)
    x = start_mean * basis[0] + np.sqrt(start_variance) * basis[1]
    history, draws = [0 * x] * plan.window, [0 * x] * plan.draws
    for i in range(plan.rows):
        draws = [basis[2 + i], *draws][: plan.draws]
        if plan.call[i]:
            y = plan.ex[i] * x + dot(plan.em[i], history) + dot(plan.en[i], draws) + plan.ec[i] * basis[0]
            history = [plan.oy[i] * y + plan.om[i] * posterior_mean(process, plan.t[i], y), *history[:-1]]
        x = plan.sx[i] * x + dot(plan.sm[i], history) + dot(plan.sn[i], draws) + plan.sc[i] * basis[0]
    return np.array([x[0], x[1:] @ x[1:]])


def posterior_mean(process, t, y):
    """D of Gaussian data applied to the coefficients of an affine function: the offset enters in column 0."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    return gain * y + (1 - gain * alpha) * MEAN * np.eye(len(y))[0]


def marginal(alpha, sigma):
    return np.array([alpha * MEAN, alpha**2 * VARIANCE + sigma**2])


def weak_order(build, process):
    errors = []
    for n in STEPS:
        grid = nonuniform(process, n)
        ours = moments(build(process, grid), process, *marginal(grid.alpha[0], grid.sigma[0]))
        errors.append(np.abs(ours - marginal(grid.alpha[-1], grid.sigma[-1])).max())
    return slope(errors)


VARIANTS = {
    "ddim(eta=0.5)": (functools.partial(samplers.ddim, eta=0.5), 1),
    "ddim(eta=1)": (functools.partial(samplers.ddim, eta=1.0), 1),
    "heun(churn=5)": (functools.partial(samplers.heun, churn=5.0), 2),
    **{name: (SAMPLERS[name].build, order_of(name)[0]) for name in STOCHASTIC},
}


@pytest.mark.parametrize(
    ("name", "process_name"),
    sorted({*zip(VARIANTS, itertools.cycle(GAUSSIAN)), *((name, "vp_linear") for name in VARIANTS)}),
)
def test_weak_order_of_stochastic_plans(name, process_name):
    build, order = VARIANTS[name]
    measured = weak_order(build, PROCESSES[process_name]())
    print(f"{name:>20} {process_name:>20} {measured:.2f}")
    assert measured >= required(order)


@pytest.mark.parametrize("name", VARIANTS)
def test_terminal_variance_of_stochastic_plans(name):
    """A whole run, from 80 to a clean node in 200 steps, reproduces the data's mean and variance to 7 %."""
    build, _ = VARIANTS[name]
    process = EDM()
    final_zero = SAMPLERS[name].final_zero if name in SAMPLERS else True
    grid = grids.karras(process, 200, final_zero=final_zero is not False)
    ours = moments(build(process, grid), process, *marginal(1.0, process.sigma_max))
    np.testing.assert_allclose(ours, [MEAN, VARIANCE], rtol=0.07)


@pytest.mark.parametrize("variance_mix", [0.0, 0.3, 1.0])
def test_ancestral_variances_are_the_posterior_and_forward_ones_of_a_table(variance_mix):
    """On a discrete table: beta-tilde and beta of DDPM, computed from betas alone (Ho et al. 2020, section 2)."""
    process = PROCESSES["vp_discrete"]()
    betas = np.asarray(process.betas)
    bar = np.cumprod(1 - betas)
    grid = grids.explicit(process, times=np.arange(40, 19, -1) / 1000)
    plan = samplers.ancestral(process, grid, variance_mix=variance_mix)
    n = np.arange(40, 20, -1) - 1
    forward, posterior = betas[n], betas[n] * (1 - bar[n - 1]) / (1 - bar[n])
    np.testing.assert_allclose(plan.sn[:, 0] ** 2, posterior ** (1 - variance_mix) * forward**variance_mix, rtol=1e-9)
    np.testing.assert_allclose(plan.sm[:, 0], np.sqrt(bar[n - 1]) * betas[n] / (1 - bar[n]), rtol=1e-9)
    np.testing.assert_allclose(plan.sx, np.sqrt(1 - betas[n]) * (1 - bar[n - 1]) / (1 - bar[n]), rtol=1e-9)
