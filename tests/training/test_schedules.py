"""Learning rates at the points that define them, and what the optimiser does to known gradients."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gendyn.training import SCHEDULES, adamw, schedule


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_is_a_line_from_zero(name):
    rate = schedule(name, 0.5, steps=100, warmup=10)
    np.testing.assert_allclose([rate(k) for k in range(11)], 0.05 * np.arange(11), rtol=1e-6)


def test_constant_stays():
    rate = schedule("constant", 0.5, steps=100)
    assert float(rate(0)) == float(rate(10_000)) == 0.5


def test_cosine_is_symmetric_and_ends_at_final():
    rate = schedule("cosine", 1.0, steps=110, warmup=10, final=0.2)
    assert float(rate(110)) == pytest.approx(0.2)
    assert float(rate(60)) == pytest.approx(0.6)
    assert float(rate(30) + rate(90)) == pytest.approx(1.2)


def test_inverse_sqrt_halves_when_time_quadruples():
    rate = schedule("inverse_sqrt", 1.0, steps=1000, reference=50)
    assert float(rate(50)) == 1.0
    assert float(rate(200)) == pytest.approx(0.5)
    assert float(rate(800)) == pytest.approx(0.25)


def test_wsd_stays_and_then_falls_down_a_line():
    rate = schedule("wsd", 2.0, steps=100, warmup=10, cooldown=20, final=0.1)
    assert float(rate(10)) == float(rate(79)) == float(rate(80)) == 2.0
    assert float(rate(90)) == pytest.approx(1.1)
    assert float(rate(100)) == float(rate(500)) == pytest.approx(0.2)


def test_power_is_its_limit_and_then_a_straight_line_in_logarithms():
    rate = schedule("power", 1.0, steps=2000, reference=50)
    assert float(rate(20)) == float(rate(50)) == 1.0
    slopes = [float(jnp.log2(rate(2 * k) / rate(k))) for k in (50, 100, 400)]
    np.testing.assert_allclose(slopes, -0.51, rtol=1e-4)
    assert float(rate(2000)) == 0.0
    with pytest.raises(ValueError, match="cooldown is part of"):
        schedule("power", 1.0, steps=10, cooldown=11)


def test_unknown_name_and_negative_warm_up_are_refused():
    with pytest.raises(ValueError, match=r"choose one of constant, cosine, inverse_sqrt, wsd, power"):
        schedule("cosin", 1.0, steps=10)
    with pytest.raises(ValueError, match=r"warmup must be zero or positive; got -1"):
        schedule("cosine", 1.0, steps=10, warmup=-1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_run_shorter_than_its_warm_up_ends_on_the_line(name):
    assert float(schedule(name, 1.0, steps=5, warmup=10)(5)) == pytest.approx(0.5)


def moved(optimizer, gradient, params):
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    return optax.apply_updates(params, updates)


def test_weight_decay_is_decoupled():
    """Without a gradient Adam does nothing and the weights shrink by rate * decay."""
    params = jnp.array([1.0, -2.0])
    after = moved(adamw(0.1, weight_decay=0.5), jnp.zeros(2), params)
    np.testing.assert_allclose(after, params * (1 - 0.05), rtol=1e-6)


def test_clip_bounds_the_norm_of_the_gradient():
    """Large eps makes Adam feel the gradient's size: clipped, a gradient of norm 100 acts as one of norm 1."""
    unit, params = jnp.array([0.6, 0.8]), jnp.zeros(2)
    clipped, free = adamw(0.1, eps=1.0, clip=1.0), adamw(0.1, eps=1.0, clip=None)
    np.testing.assert_allclose(moved(clipped, 100 * unit, params), moved(clipped, unit, params), rtol=1e-5)
    assert not np.allclose(moved(free, 100 * unit, params), moved(free, unit, params), rtol=0.1)
