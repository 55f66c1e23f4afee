"""Curricula, levels, probabilities, weights, distance and boundary coefficients of the published consistency models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn.objectives import ConsistencyTraining, curricula
from gendyn.objectives.consistency import Levels, pseudo_huber
from gendyn.objectives.consistency_function import Boundary
from gendyn.processes import EDM


@pytest.fixture(scope="module")
def reference(shared):
    with np.load(shared / "parity" / "processes_open.npz") as file:
        return {name: file[name] for name in file.files}


def test_ict_curriculum(reference):
    s0, s1, steps = (int(v) for v in reference["ict/s0_s1_K"])
    ours = curricula.Doubling(s0=s0, s1=s1, steps=steps)
    assert ours.every == reference["ict/Kprime"]
    np.testing.assert_array_equal(ours.boundaries(reference["ict/k"]), reference["ict/N"])
    np.testing.assert_array_equal(jax.jit(ours.boundaries)(jnp.asarray(reference["ict/k"])), reference["ict/N"])


def test_curriculum_of_the_first_consistency_models(reference):
    s0, s1, _, steps = reference["cm/s0_s1_mu0_K"]
    ours = curricula.SquareRoot(s0=int(s0), s1=int(s1), steps=int(steps))
    np.testing.assert_array_equal(ours.boundaries(reference["cm/k"]), reference["cm/N"])
    np.testing.assert_array_equal(jax.jit(ours.boundaries)(jnp.asarray(reference["cm/k"])), reference["cm/N"])


@pytest.mark.parametrize("n", [11, 21, 41])
def test_levels_probabilities_and_weights(reference, n, x64):
    levels = Levels(sigma_min=0.002, sigma_max=80.0)
    sigmas = levels.sigma(np.arange(n), n)
    np.testing.assert_allclose(sigmas, reference[f"ict/sigmas_N{n}"], rtol=1e-12)
    np.testing.assert_allclose(levels.probabilities(n), reference[f"ict/p_N{n}"], rtol=1e-9)
    # Intervals are drawn without the table: 200,000 equally spaced u must fall into them in these proportions.
    u = (np.arange(200_000) + 0.5) / 200_000
    shares = np.bincount(np.asarray(levels.interval(jnp.asarray(u), n)), minlength=n - 1) / len(u)
    np.testing.assert_allclose(shares, reference[f"ict/p_N{n}"], rtol=0, atol=1.1e-5)
    # What the objective multiplies the distance with is one of the published weights, for every example.
    loss = ConsistencyTraining(process=EDM(), curriculum=curricula.Fixed(n=n))
    data = jnp.ones((64, 2)) * jnp.linspace(-1, 1, 64)[:, None]
    each, aux = loss(lambda p, x, label, cond: jnp.sin(x), None, jax.random.key(0), data, None, step=0)
    theirs = reference[f"ict/weight_N{n}"]
    # Training is in float32, whose rounding of two neighbouring levels the difference magnifies.
    ratio = np.asarray(each / aux["error"])
    nearest = theirs[np.abs(np.log(theirs[None] / ratio[:, None])).argmin(1)]
    np.testing.assert_allclose(ratio, nearest, rtol=5e-5)


def test_distance(reference, x64):
    x, y = reference["ict/huber_x"], reference["ict/huber_y"]
    ours = pseudo_huber(jnp.asarray(x), jnp.asarray(y), reference["ict/huber_c_per_sqrt_dim"] * np.sqrt(x.shape[1]))
    np.testing.assert_allclose(ours, reference["ict/huber_loss"], rtol=1e-12)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_boundary_coefficients(reference, sigma_data):
    group = f"edm_precond/sd{sigma_data}"
    c_skip, c_out, c_in = Boundary(sigma_data=sigma_data).coefficients(reference[f"{group}/sigma"])
    np.testing.assert_allclose(c_skip, reference[f"{group}/cm_c_skip"], rtol=1e-12)
    np.testing.assert_allclose(c_out, reference[f"{group}/cm_c_out"], rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(c_in, reference[f"{group}/c_in"], rtol=1e-12)
