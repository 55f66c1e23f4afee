"""Values taken out of a computation by name, through the parts that jax wraps around them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from gendyn.jaxprs import named_values


def tanh(x):
    return checkpoint_name(jnp.tanh(x), "h")


@jax.custom_jvp
def custom(x):
    return tanh(x)


custom.defjvp(lambda primals, tangents: (custom(*primals), tangents[0]))

WRAPPED = {
    "plain": tanh,
    "jit": jax.jit(tanh),
    "remat": jax.checkpoint(tanh),
    "nested": jax.jit(jax.checkpoint(jax.jit(tanh))),
    "vmap": jax.vmap(tanh),
    "custom": custom,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_named_value_is_found(name):
    x = jnp.asarray([0.3, -1.2])
    output, found = named_values(lambda x: 3 * WRAPPED[name](x + 1), x)
    np.testing.assert_allclose(found["h"], np.tanh(np.asarray(x) + 1), rtol=1e-6)
    np.testing.assert_allclose(output, 3 * np.tanh(np.asarray(x) + 1), rtol=1e-6)
    slope = jax.grad(lambda x: named_values(lambda x: 3 * WRAPPED[name](x + 1), x)[1]["h"].sum())(x)
    np.testing.assert_allclose(slope, 1 - np.tanh(np.asarray(x) + 1) ** 2, rtol=1e-5)


def test_names_that_recur_are_counted():
    _, found = named_values(lambda x: tanh(tanh(x)), jnp.ones(()))
    np.testing.assert_allclose([found["h"], found["h#2"]], [np.tanh(1), np.tanh(np.tanh(1))], rtol=1e-6)


def test_only_what_is_wanted_comes_out_and_other_parts_are_untouched():
    def function(x):
        return jax.checkpoint(lambda x: checkpoint_name(x * x, "square"))(tanh(x))

    _, found = named_values(function, jnp.ones(()), wanted={"h"}.__contains__)
    assert set(found) == {"h"}


@pytest.mark.parametrize("reverse", [False, True])
def test_values_of_a_scan_are_stacked_as_its_rows(reverse):
    def step(carry, row):
        carry = tanh(carry + row)
        return carry, 2 * carry

    rows = jnp.asarray([0.1, 0.2, 0.3])
    (end, out), found = named_values(lambda r: jax.lax.scan(step, 0.0, r, reverse=reverse), rows)
    np.testing.assert_allclose(2 * found["h"], out, rtol=1e-6)
    np.testing.assert_allclose(end, found["h"][0 if reverse else -1], rtol=1e-6)


def test_inside_conditionals_nothing_is_found():
    _, found = named_values(lambda x: jax.lax.cond(x > 0, tanh, lambda x: x, x), jnp.ones(()))
    assert found == {}
