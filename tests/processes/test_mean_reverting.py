"""The schedules of a mean-reverting path, its SDE, its limit, its bias."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from gendyn.processes import MeanReverting, VPLinear, describe, from_description
from gendyn.processes.mean_reverting import Constant, Cosine, Linear, Table

SCHEDULES = {
    "constant": Constant(),
    "linear": Linear(),
    "falling": Linear(ratio=0.1),
    "cosine": Cosine(),
    "cosine_s0": Cosine(s=0.0),
    "table": Table.of(lambda t: 0.2 + np.sin(2 * t) ** 2, nodes=17),
    "from_zero": Table(theta=(0.0, 1.0, 0.5, 3.0)),
}


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


def test_share_is_the_integral_of_the_rate(schedule):
    """By adaptive quadrature over each cell of a grid that holds the nodes of the tables."""
    nodes = np.linspace(0, 1, 49)
    rate = lambda t: float(schedule.dshare(np.float64(t)))
    pieces = [quad(rate, a, b, epsabs=1e-15)[0] for a, b in itertools.pairwise(nodes)]
    np.testing.assert_allclose(schedule.share(nodes[1:]), np.cumsum(pieces), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(schedule.share(np.array([0.0, 1.0])), [0, 1], atol=1e-14)


def test_inverse_keeps_its_digits_down_to_the_data(schedule):
    t = np.geomspace(1e-5, 1, 300)
    np.testing.assert_allclose(schedule.t_of_share(schedule.share(t)), t, rtol=1e-11)
    assert schedule.t_of_share(np.array([0.0])) == 0.0


def test_float32_follows_float64(schedule):
    t = np.geomspace(1e-3, 1, 50)
    np.testing.assert_allclose(schedule.share(jnp.asarray(t, jnp.float32)), schedule.share(t), rtol=2e-5)
    share = jnp.asarray(schedule.share(t), jnp.float32)
    np.testing.assert_allclose(schedule.t_of_share(share), t, rtol=2e-5)


def test_cosine_rate_is_one_minus_the_squared_cosine_path():
    from gendyn.processes import VPCosine

    t = np.linspace(0.0, 1.0, 9)[1:]
    rate = Cosine().dshare(t)
    expected = 1 - VPCosine().alpha(t) ** 2
    np.testing.assert_allclose(rate / rate[-1], expected / expected[-1], rtol=1e-12)


def test_a_fine_table_is_its_function():
    """Piecewise linear: the error of the share falls as the square of the spacing."""
    t, errors = np.linspace(0.03, 0.97, 30), []
    for nodes in (65, 129):
        table = Table.of(lambda t: float(Cosine().dshare(np.float64(t))), nodes=nodes)
        errors.append(np.abs(table.share(t) - Cosine().share(t)).max())
    assert errors[1] < 0.3 * errors[0] < 1e-4


def test_moments_follow_the_stochastic_differential_equation(schedule, x64):
    """dz = -theta z dt + sigma_inf sqrt(2 theta) dw gives alpha' = -theta alpha and (sigma^2)' = 2 theta (sigma_inf^2 -
    sigma^2), and alpha^2 + (sigma/sigma_inf)^2 = 1."""
    process = MeanReverting(sigma_inf=0.3, schedule=schedule)
    t = jnp.linspace(0.011, 0.989, 21)
    theta, alpha, sigma = process.theta(t), process.alpha(t), process.sigma(t)
    slope = jax.vmap(jax.grad(lambda t: process.sigma(t) ** 2))(t)
    np.testing.assert_allclose(slope, 2 * theta * (0.3**2 - sigma**2), rtol=1e-8)
    np.testing.assert_allclose(process.dalpha(t), -theta * alpha, rtol=1e-14)
    np.testing.assert_allclose(alpha**2 + (sigma / 0.3) ** 2, 1, rtol=1e-12)
    assert float(process.alpha(1.0)) == pytest.approx(0.005)


def test_unit_noise_is_the_variance_preserving_path():
    vp = VPLinear()
    ours = MeanReverting(sigma_inf=1.0, schedule=Linear(ratio=200.0), terminal=float(vp.alpha(1.0)))
    t = np.linspace(1e-3, 1, 40)
    for name in ("alpha", "sigma", "dalpha", "dsigma", "lam"):
        np.testing.assert_allclose(getattr(ours, name)(t), getattr(vp, name)(t), rtol=1e-12, atol=1e-15)


def test_samplers_stop_at_a_hundredth_of_the_noise(schedule):
    process = MeanReverting(schedule=schedule)
    assert process.sigma(process.interval[1]) == pytest.approx(process.sigma_inf / 100, rel=1e-9)


def test_descriptions_keep_the_schedule(schedule):
    process = MeanReverting(sigma_inf=0.4, schedule=schedule, terminal=0.01)
    assert from_description(describe(process)) == process
    with pytest.raises(ValueError, match=r"unknown schedule of MeanReverting 'Sine'; known: .*Constant, Linear"):
        from_description(describe(process) | {"schedule": {"kind": "Sine"}})


def test_impossible_values_are_refused():
    with pytest.raises(ValueError, match=r"inside \(0, 1\); got sigma_inf = 0.3, terminal = 1.0"):
        MeanReverting(sigma_inf=0.3, terminal=1.0)
    with pytest.raises(ValueError, match="must be positive; got -1"):
        Linear(ratio=-1)
    with pytest.raises(ValueError, match="at least two values of theta, positive"):
        Table(theta=(1.0, 0.0))
