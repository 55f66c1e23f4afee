"""The coordinate check passes muP, fails the standard parametrisation, and says what is wrong with its input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gendyn as gd
from gendyn.parametrization import Trial, coordinate_check

P = gd.parametrization
SIZES = [{"width": width} for width in (32, 128, 512)]
RATES = {"adam": 0.01, "sgd": 0.1, "muon": 0.05}


def perceptron(width):
    """Three kernels, the last one zero."""
    shapes = {"a": (8, width), "b": (width, width), "c": (width, 1)}

    def init(key):
        keys = dict(zip(shapes, jax.random.split(key, 3)))
        drawn = {n: jax.random.normal(keys[n], s) / np.sqrt(s[0]) for n, s in shapes.items()}
        return drawn | {"c": jnp.zeros((width, 1))}

    def apply(params, x):
        return jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"]) @ params["c"]

    return gd.networks.Network(init=init, apply=apply)


def maker(rule, optimizer="adam"):
    def make(width):
        found = P.table(perceptron, base=SIZES[0], target={"width": width}, rule=rule, optimizer=optimizer)
        return Trial(
            network=P.network(found, perceptron),
            loss=lambda network, params, key, batch: jnp.mean((network.apply(params, batch["x"]) - batch["y"]) ** 2),
            optimizer=P.optimizer(found, learning_rate=RATES[optimizer]),
        )

    return make


def batch(seed):
    x = jax.random.normal(jax.random.key(seed), (32, 8))
    return {"x": x, "y": jnp.sin(x.sum(1, keepdims=True))}


def checked(rule, optimizer="adam", **options):
    return coordinate_check(
        maker(rule, optimizer),
        SIZES,
        **{"batches": [batch(i) for i in range(4)], "probe": (batch(9)["x"],), "seeds": (0, 1)} | options,
    )


@pytest.mark.parametrize("optimizer", ["adam", "muon", pytest.param("sgd", marks=pytest.mark.slow)])
def test_mup_passes_and_its_control_fails(optimizer):
    found = checked("mup", optimizer)
    assert found.ok, str(found)
    assert {slope.name for slope in found.slopes} == {"a", "b", "c", "output"}
    control = checked("sp", optimizer)
    assert not control.ok
    assert control.steepest.value >= 0.5
    assert "beyond their limits" in str(control)
    assert str(found).startswith("slopes of log2(change) in log2(width): all within")


def test_rows_hold_every_run_and_equal_a_loop_by_hand():
    done = []
    found = checked("mup", batches=[batch(0), batch(1)], seeds=(3,), report=done.append)
    assert done == [1, 2, 3]
    assert len(found.rows) == 3 * 2 * 4  # sizes, steps, activations
    trial = maker("mup")(width=32)
    key_params, key = jax.random.split(jax.random.key(3))
    params = start = trial.network.init(key_params)
    updates, _ = trial.optimizer.update(
        jax.grad(lambda p: trial.loss(trial.network, p, key, batch(0)))(params), trial.optimizer.init(params), params
    )
    params = optax.apply_updates(params, updates)
    moved = trial.network.apply(params, batch(9)["x"]) - trial.network.apply(start, batch(9)["x"])
    (row,) = [r for r in found.rows if (r["width"], r["step"], r["name"]) == (32, 1, "output")]
    assert row["change"] == pytest.approx(float(jnp.sqrt(jnp.mean(moved**2))), rel=1e-4)


def test_what_cannot_be_checked_is_said():
    with pytest.raises(ValueError, match="compares at least two sizes"):
        coordinate_check(maker("mup"), SIZES[:1], batches=[batch(0)], probe=(batch(9)["x"],))
    with pytest.raises(ValueError, match="one batch or more and one seed"):
        checked("mup", batches=[])
    with pytest.raises(ValueError, match=r"not finite after step .* with a smaller"):
        checked("sp", "sgd", batches=[{**batch(0), "y": jnp.full((32, 1), 1e30)}] * 3)
