"""Sweeps equal separate runs; optima, shifts and regrets are those of surfaces whose minima are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gendyn as gd
from gendyn.parametrization import sweeps, transfers

P = gd.parametrization
RATES = [2.0**i for i in range(-6, -1)]


def make(width, learning_rate=0.1, momentum=0.9, warmup=1):
    """A linear regression whose warm-up decides in Python and whose rates are numbers."""

    def loss(network, params, key, batch):
        noise = 0.1 * jax.random.normal(key, batch["y"].shape)
        return jnp.mean((batch["x"] @ params - batch["y"] - noise) ** 2)

    return P.Trial(
        network=gd.networks.Network(init=lambda key: jax.random.normal(key, (width,)), apply=lambda params: params),
        loss=loss,
        optimizer=optax.chain(
            optax.trace(momentum),
            optax.scale_by_schedule(lambda step: jnp.minimum((step + 1) / float(warmup), 1.0)),
            optax.scale_by_learning_rate(learning_rate),
        ),
        score=lambda network, params: {"score": jnp.mean((params - 1.0) ** 2), "largest": jnp.abs(params).max()},
    )


def batches(seed, width, num=60):
    rng = np.random.default_rng(seed)
    for _ in range(num):
        x = rng.standard_normal((8, width)).astype(np.float32)
        yield {"x": x, "y": x.sum(axis=1)}


def alone(seed, width, **point):
    """The same run as a plain loop."""
    trial = make(width, **point)
    key_params, key_run = jax.random.split(jax.random.key(seed))
    params = trial.network.init(key_params)
    state = trial.optimizer.init(params)
    for step, batch in enumerate(batches(seed, width)):
        gradient = jax.grad(lambda p: trial.loss(trial.network, p, jax.random.fold_in(key_run, step), batch))(params)  # noqa: B023
        updates, state = trial.optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return {name: float(value) for name, value in trial.score(trial.network, params).items()}


@pytest.mark.parametrize(("together", "devices"), [(0, 8), (1, 8), (3, 1)])
def test_a_swept_run_is_the_run_alone(together, devices):
    """Also with more devices than divide the points, several programs, and steps that do not fill a chunk."""
    points = P.grid(learning_rate=[0.01, 0.02, 0.03], momentum=[0.5], warmup=[1, 20])
    ran = P.sweep(
        lambda **point: make(3, **point),
        points,
        batches=lambda seed: batches(seed, 3),
        seeds=[4, 5],
        devices=jax.devices()[:devices],
        together=together,
    )
    for seed, runs in ran:
        for point, run in zip(points, runs):
            assert run.end == pytest.approx(alone(seed, 3, **point), rel=1e-4)
            assert run.losses.shape == (60,)


def test_convolutions_are_stepped_from_python_on_a_cpu():
    """And nothing else is: XLA's convolutions are slow inside a loop there."""

    def convolving(**fields):
        made = make(3, **fields)
        kernel = jnp.ones((3, 1, 1))
        conv = lambda x: jax.lax.conv_general_dilated(
            x[..., None], kernel, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
        )
        loss = lambda network, params, key, batch: jnp.mean((conv(batch["x"])[..., 0] @ params - batch["y"]) ** 2)
        return P.Trial(made.network, loss, made.optimizer, made.score)

    batch = next(batches(0, 3))
    assert sweeps._convolves(convolving(), batch)
    assert not sweeps._convolves(make(3), batch)


def test_what_decides_in_python_gets_a_program_of_its_own():
    points = P.grid(learning_rate=[0.1, 0.2], warmup=[1, 20])
    found = sweeps._groups(lambda **point: make(3, **point), points)
    assert [fixed for fixed, _ in found] == [{"warmup": 1}, {"warmup": 20}]
    assert [[own for _, own in members] for _, members in found] == [[{"learning_rate": v} for v in (0.1, 0.2)]] * 2


def swept(**options):
    points = P.grid(learning_rate=RATES)
    return P.transfer(make, [{"width": 2}, {"width": 4}], points, batches=batches, **{"seeds": (0, 1)} | options)


def test_an_interrupted_sweep_goes_on_where_it_stopped():
    """Rows of the first seed at the first size are kept; the rest is run, and nothing twice."""
    kept = []

    class Enough(Exception):
        pass

    def stop(rows):
        kept[:] = rows
        raise Enough

    with pytest.raises(Enough):
        swept(record=stop)
    assert len(kept) == len(RATES)
    counts = []
    found = swept(done=kept, report=counts.append)
    assert counts[0] == len(RATES)
    assert counts[-1] == len(found.rows) == 4 * len(RATES)
    again = {(r["width"], r["seed"], r["learning_rate"]): r["score"] for r in swept().rows}
    assert {(r["width"], r["seed"], r["learning_rate"]): r["score"] for r in found.rows} == again


def surface(shift, *, noise=0.0, diverged=()):
    """log2(score) = (log2(rate) + 6 - shift * log2(width / 32))^2 / 10 + 1 / width, with seed-dependent offsets."""
    rng = np.random.default_rng(0)
    rows = []
    for width in (32, 64, 128, 256):
        for seed in range(6):
            best, level = -6 + shift * math.log2(width / 32) + noise * rng.standard_normal(), 32 / width
            for i in range(-13, 0):
                score = 2.0 ** ((i - best) ** 2 / 10 + level)
                score = math.inf if (width, i) in diverged else score
                rows.append({"width": width, "learning_rate": 2.0**i, "seed": seed, "score": score, "start": 10.0})
    return transfers.Transfer(tuple(rows), "width", ("learning_rate",), 32)


@pytest.mark.parametrize("shift", [0.0, -0.5, 0.3])
def test_the_vertex_of_a_parabola_is_found_exactly(shift):
    """A quadratic in log2(rate) has its minimum off the grid; the shift is the slope that made it."""
    found = surface(shift)
    assert found.optimum("learning_rate", 256).fit == pytest.approx(2.0 ** (-6 + 3 * shift), rel=1e-6)
    assert found.shift("learning_rate").value == pytest.approx(shift, abs=1e-6)
    assert found.shift("learning_rate").error == pytest.approx(0, abs=1e-6)


def test_the_error_of_a_shift_covers_it():
    """Seeds whose optima scatter by half an octave: the jackknife's error is that of a mean of six."""
    found = surface(-0.5, noise=0.5)
    shift = found.shift("learning_rate")
    x = np.array([0, 1, 2, 3]) - 1.5
    expected = 0.5 / math.sqrt(6) / math.sqrt((x**2).sum())
    assert 0.5 * expected < shift.error < 2 * expected
    assert abs(shift.value + 0.5) < 4 * expected


def test_regret_and_wider_is_better():
    """A shift of -1 per doubling: three octaves off at the widest, where the score is 2^(9/10) times the best."""
    found = surface(-1.0)
    assert found.winner == {"learning_rate": 2.0**-6}
    assert found.regret(256).value == pytest.approx(2**0.9 - 1)
    assert found.regret(32).value == 0
    assert not found.wider_is_better
    assert surface(0.0).wider_is_better
    assert "regret" in str(found)


def test_optima_beside_divergence_or_at_an_end_are_called_so():
    found = surface(0.0, diverged={(64, i) for i in range(-5, 0)})
    assert found.optimum("learning_rate", 64).edge
    assert found.optimum("learning_rate", 64).fit == 2.0**-6
    assert surface(-3.0).optimum("learning_rate", 256).edge
    assert not surface(0.0).optimum("learning_rate", 256).edge
    assert math.isfinite(found.sensitivity(64))


def test_joint_search_has_a_winner_but_no_curves():
    points = P.random_search(5, seed=1, learning_rate=(0.01, 0.3), momentum=(0.5, 0.9))
    found = P.transfer(make, [{"width": 2}], points, batches=batches, seeds=(0,))
    assert not found.is_grid
    assert found.winner in points
    assert "shift" not in found.summary()
    best = min(found.rows, key=lambda row: row["score"])
    assert found.winner == {name: best[name] for name in ("learning_rate", "momentum")}


def test_two_hyperparameters_on_a_grid_have_a_curve_each():
    points = P.grid(learning_rate=RATES, momentum=[0.1, 0.5, 0.9])
    found = P.transfer(make, [{"width": 2}], points, batches=batches, seeds=(0,))
    values, least = found.curve("momentum", 2)
    assert values.tolist() == [0.1, 0.5, 0.9]
    for value, score in zip(values, least):
        assert 2.0**score == pytest.approx(min(r["score"] for r in found.rows if r["momentum"] == value))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": ()}, "one seed"),
        ({"base": 3}, "the base is one of the sizes"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        swept(**options)
    with pytest.raises(ValueError, match="differ in one name"):
        P.transfer(make, [{"width": 2}, {"width": 2}], [{"learning_rate": 0.1}], batches=batches)
    with pytest.raises(ValueError, match="two positive ends"):
        P.random_search(2, learning_rate=(0.0, 1.0))


def test_trials_without_a_score_are_refused():
    def unscored(**fields):
        return P.Trial(**{**vars(make(**fields)), "score": None})

    with pytest.raises(ValueError, match="with a score"):
        P.transfer(unscored, [{"width": 2}], [{"learning_rate": 0.1}], batches=batches)
