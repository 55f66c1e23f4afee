"""Every coupling keeps both marginals: within a batch it only decides which row goes with which."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import gendyn as gd
from gendyn.processes import couplings

N = 24
NEAR = {name: kind for name, kind in couplings.COUPLINGS.items() if name not in ("independent", "stored", "shuffled")}
"""Couplings that look for near partners."""


@pytest.fixture(params=sorted(couplings.COUPLINGS))
def coupling(request):
    return couplings.COUPLINGS[request.param]()


@pytest.fixture(params=sorted(NEAR))
def near(request):
    return NEAR[request.param]()


@pytest.fixture(scope="module")
def batch():
    """Base, data [24, 3] and classes of different sizes."""
    base, data = jax.random.normal(jax.random.key(0), (2, N, 3))
    label = jnp.asarray([0] * 5 + [1] * 11 + [2] * 7 + [3])[jax.random.permutation(jax.random.key(1), N)]
    return base, data + label[:, None], label


def rows(a):
    return sorted(map(tuple, np.asarray(a)))


def cost(base, data):
    return float(((np.asarray(base) - np.asarray(data)) ** 2).sum())


def optimum(base, data):
    """The least cost of any permutation, by scipy."""
    distances = cdist(np.asarray(data), np.asarray(base), "sqeuclidean")
    return distances[linear_sum_assignment(distances)].sum()


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_the_base_points_are_rearranged_never_changed_or_repeated(coupling, n):
    base, data = jax.random.normal(jax.random.key(0), (2, n, 2, 3))
    paired = np.asarray(coupling(jax.random.key(1), base, data, None))
    assert rows(paired.reshape(n, -1)) == rows(np.asarray(base).reshape(n, -1))


def test_jit_changes_nothing_and_looking_for_near_partners_costs_no_more(coupling, batch):
    base, data, label = batch
    paired = coupling(jax.random.key(1), base, data, label)
    np.testing.assert_array_equal(jax.jit(coupling)(jax.random.key(1), base, data, label), paired)
    if type(coupling) in NEAR.values():
        assert cost(paired, data) <= cost(base, data)


@pytest.mark.parametrize("seed", range(5))
def test_minibatch_ot_attains_the_optimum(seed):
    base, data = jax.random.normal(jax.random.key(seed), (2, N, 3))
    paired = couplings.MinibatchOT()(jax.random.key(1), base, data)
    assert cost(paired, data) == pytest.approx(optimum(base, data), rel=1e-6)


def test_minibatch_ot_is_optimal_within_every_class(batch):
    """Each class keeps its own base points, at the least cost that scipy finds for the class alone."""
    base, data, label = batch
    paired = couplings.MinibatchOT()(jax.random.key(1), base, data, label)
    for c in range(4):
        inside = label == c
        assert rows(paired[inside]) == rows(base[inside])
        assert cost(paired[inside], data[inside]) == pytest.approx(optimum(base[inside], data[inside]), rel=1e-5)


def test_conditions_are_respected_whatever_their_form(near, batch):
    """A tree of labels and vectors is equal where every entry is; conditions that never repeat leave all as it was."""
    base, data, label = batch
    cond = {"class": label, "style": jnp.stack([label % 2, jnp.arange(N) < 12], axis=1)}
    paired = near(jax.random.key(1), base, data, cond)
    for c, half in itertools.product(range(4), (False, True)):
        inside = np.asarray((label == c) & ((jnp.arange(N) < 12) == half))
        assert rows(paired[inside]) == rows(base[inside])
    np.testing.assert_array_equal(near(jax.random.key(1), base, data, jnp.arange(N)), base)


def test_noise_stays_independent_of_the_class(near):
    """Classes at -3 and +3: without labels noise follows the class (the known bias of conditional models), with them
    it does not: the t statistic over 40 batches stays below 5 (false alarm 1e-5, fixed keys)."""
    label = jnp.tile(jnp.asarray([0, 1]), 16)
    data = 6.0 * label[:, None] - 3.0 + 0.3 * jax.random.normal(jax.random.key(0), (32, 1))
    key_base, key_near = jax.random.split(jax.random.key(2))
    base = jax.random.normal(key_base, (40, 32, 1))

    def gap(cond):
        paired = jax.vmap(lambda key, b: near(key, b, data, cond))(jax.random.split(key_near, 40), base)
        return np.asarray(paired[:, label == 1].mean((1, 2)) - paired[:, label == 0].mean((1, 2)))

    assert abs(stats.ttest_1samp(gap(label), 0).statistic) < 5
    assert gap(None).mean() > 1


def test_entropic_ot_draws_from_the_gibbs_law_of_permutations():
    """All 24 permutations of four rows, one of them forbidden to 20 by a class: exact probabilities by enumeration,
    chi-square over 6000 draws at p = 1e-6; and with classes only the allowed ones occur."""
    base, data = jax.random.normal(jax.random.key(3), (2, 4, 2))
    law = couplings.EntropicOT(reg=3.0, sweeps=60)
    keys = jax.random.split(jax.random.key(4), 6000)
    permutations = list(itertools.permutations(range(4)))
    energy = np.array([cost(base[np.array(pi)], data) for pi in permutations])
    for cond, allowed in (
        (None, np.ones(24, bool)),
        (jnp.asarray([0, 1, 1, 1]), np.array([p[0] == 0 for p in permutations])),
    ):
        paired = np.asarray(jax.vmap(lambda key, cond=cond: law(key, base, data, cond))(keys))
        found = (paired[:, :, None] == np.asarray(base)[None, None]).all(-1).argmax(-1)
        counts = np.array([(found == pi).all(1).sum() for pi in permutations])
        expected = np.where(allowed, np.exp(-(energy - energy.min()) / 3.0), 0.0)
        assert counts[~allowed].sum() == 0
        expected = 6000 * expected[allowed] / expected.sum()
        assert expected.min() > 5
        assert stats.chisquare(counts[allowed], expected).pvalue > 1e-6


def test_entropic_ot_tends_to_the_optimum_as_it_cools(batch):
    base, data, _ = batch
    costs = [
        cost(couplings.EntropicOT(reg=reg, sweeps=2000)(jax.random.key(0), base, data), data) for reg in (100, 1, 0.01)
    ]
    assert costs[0] > costs[1] > costs[2] >= optimum(base, data) * (1 - 1e-6)
    assert costs[2] < 1.1 * optimum(base, data)


def objective(coupling):
    return gd.objectives.Denoising(
        process=gd.processes.RectifiedFlow(),
        predicts="velocity",
        precondition=gd.predictions.Identity(),
        weight=gd.objectives.weights.Uniform(),
        coupling=coupling,
    )


def test_the_objective_compares_with_the_coupled_noise(near, batch):
    """A network that predicts 0 has the loss mean |data - noise|^2, which near partners make smaller."""
    _, data, label = batch
    nothing = lambda params, x, label, cond: 0 * x
    losses = [objective(c)(nothing, {}, jax.random.key(0), data, label)[0] for c in (near, couplings.Independent())]
    assert losses[0].mean() < losses[1].mean()


def test_training_pairs_the_global_batch_whatever_the_devices(batch):
    _, data, label = batch
    network = gd.networks.Network(
        init=lambda key: {"slope": jnp.ones(())}, apply=lambda params, x, label, cond: params["slope"] * x
    )
    experiment = gd.training.Experiment(
        network=network,
        objective=objective(couplings.MinibatchOT()),
        source=lambda: gd.data.arrays(np.asarray(data), np.asarray(label)),
        shape=(3,),
        num_classes=4,
        batch_size=N,
        steps=2,
        optimizer=gd.training.adamw(1e-3),
    )
    found = []
    for devices in (jax.devices()[:1], jax.devices()[:8]):
        state, step, batches = gd.training.build(experiment, mesh=gd.distributed.data_mesh(devices))
        found.append(float(step(state, next(batches))[1]["loss"]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("bad", [{"reg": 0.0}, {"sweeps": 0}])
def test_impossible_temperatures_are_refused(bad):
    with pytest.raises(ValueError, match="must be positive"):
        couplings.EntropicOT(**bad)


def test_data_that_is_not_finite_does_not_hang():
    base = jnp.ones((4, 2)).at[1, 0].set(jnp.nan)
    assert couplings.MinibatchOT()(jax.random.key(0), base, jnp.ones((4, 2))).shape == (4, 2)
