"""Five rows and one solve: conversions, loss weights, preconditioners, and wrapping networks of any kind."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn import oracles, predictions, processes
from gendyn.predictions import (
    ROWS,
    EDMPreconditioner,
    IDDPMPreconditioner,
    Identity,
    VEPreconditioner,
    VPPreconditioner,
    denoiser,
)
from gendyn.processes import PROCESSES

KINDS = [*ROWS, "F"]
PRECONDITIONERS = [Identity(), EDMPreconditioner(), VPPreconditioner(), VEPreconditioner(), IDDPMPreconditioner()]


@pytest.fixture(params=sorted(PROCESSES))
def process(request):
    return PROCESSES[request.param]()


def kinds_of(process, kinds=KINDS):
    """What a network can predict of the process; the score belongs to Gaussian noise."""
    return [kind for kind in kinds if kind != "score" or process.gaussian_noise]


def times_of(process):
    """Noise levels sigma/alpha from e^2.5 to e^-3, which every process reaches; off the nodes of discrete tables."""
    return process.t_of_lam(np.linspace(-2.5, 3.0, 12))


def row(kind, process, t):
    return predictions.row(kind, EDMPreconditioner(sigma_data=0.7), process, t)


def state(process, t):
    return process.alpha(t), process.sigma(t)


def test_conversions_between_all_pairs_of_kinds(process, rng):
    """Each kind from each other, against its definition a data + b noise."""
    t = times_of(process)
    data, noise = rng.standard_normal((2, len(t)))
    x = state(process, t)[0] * data + state(process, t)[1] * noise
    value = {kind: row(kind, process, t)[0] * data + row(kind, process, t)[1] * noise for kind in kinds_of(process)}
    for source, target in itertools.product(kinds_of(process), kinds_of(process)):
        rows = (row(source, process, t), state(process, t))
        there = predictions.convert(value[source], x, rows, row(target, process, t))
        scale = sum(np.abs(c) for c in row(target, process, t))
        np.testing.assert_array_less(np.abs(there - value[target]), 1e-12 * scale, err_msg=f"{source} to {target}")
        back = predictions.convert(there, x, (row(target, process, t), state(process, t)), row(source, process, t))
        scale = sum(np.abs(c) for c in row(source, process, t))
        np.testing.assert_array_less(np.abs(back - value[source]), 1e-12 * scale, err_msg=f"{target} to {source}")


def test_to_denoised_is_the_conversion_to_denoised(process, rng):
    t = times_of(process)
    value, x = rng.standard_normal((2, len(t)))
    for kind in kinds_of(process):
        rows = (row(kind, process, t), state(process, t))
        expected = predictions.convert(value, x, rows, ROWS["denoised"](process, t))
        np.testing.assert_allclose(predictions.to_denoised(value, x, *rows), expected, rtol=1e-12)


def test_squared_errors_are_related_by_the_determinants(process, rng):
    """The error of a kind, measured by converting two different denoised, is (det/sigma)^2 that of the denoised."""
    t = times_of(process)
    x, denoised, other = rng.standard_normal((3, len(t)))
    for kind in kinds_of(process, ROWS):
        error = np.square(
            predictions.from_denoised(kind, denoised, x, process, t)
            - predictions.from_denoised(kind, other, x, process, t)
        )
        factor = (predictions.determinant(ROWS[kind](process, t), *state(process, t)) / process.sigma(t)) ** 2
        np.testing.assert_allclose(error, factor * (denoised - other) ** 2, rtol=1e-9)


@pytest.mark.parametrize(
    ("kind", "published"),
    [
        ("denoised", lambda snr, sigma, alpha: 1.0),
        ("eps", lambda snr, sigma, alpha: snr),
        ("score", lambda snr, sigma, alpha: (alpha / sigma**2) ** 2),
        ("F", lambda snr, sigma, alpha: snr + 1 / 0.7**2),
    ],
)
def test_published_weights_on_every_path(kind, published, process):
    """Loss in a kind = weight x loss of the denoised: Salimans and Ho 2022 (snr for eps), Karras et al. 2022 (F)."""
    if kind not in kinds_of(process):
        pytest.skip("refused, and tested to be refused below")
    t = times_of(process)
    alpha, sigma = state(process, t)
    factor = (predictions.determinant(row(kind, process, t), alpha, sigma) / sigma) ** 2
    np.testing.assert_allclose(factor, published((alpha / sigma) ** 2, sigma, alpha) * np.ones_like(t), rtol=1e-12)


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine", "vp_discrete", "gvp"])
def test_v_weight_is_snr_plus_one_where_variance_is_preserved(name):
    process = PROCESSES[name]()
    t = times_of(process)
    factor = (predictions.determinant(ROWS["v"](process, t), *state(process, t)) / process.sigma(t)) ** 2
    np.testing.assert_allclose(factor, np.exp(2 * process.lam(t)) + 1, rtol=1e-12)


def test_velocity_weight_of_rectified_flow():
    process = processes.RectifiedFlow()
    t = np.linspace(0, 0.99, 12)
    factor = (predictions.determinant(ROWS["velocity"](process, t), *state(process, t)) / process.sigma(t)) ** 2
    np.testing.assert_allclose(factor, 1 / (1 - t) ** 2, rtol=1e-12)


# --- Preconditioning -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_edm_preconditioner_has_unit_variance_in_and_out_for_gaussian_data(sigma_data, process):
    """Measured on 40,000 draws: 6 standard errors of a variance, false alarm below 1e-6 in all (fixed key)."""
    n, precondition = 40_000, EDMPreconditioner(sigma_data=sigma_data)
    data = sigma_data * jax.random.normal(jax.random.key(0), (n,))
    for t in times_of(process)[::4]:
        x, noise = process.perturb(jax.random.key(1), data, t)
        a, b = precondition.row(process, t)
        for value in (precondition.scale(process, t) * x, a * data + b * noise):
            assert abs(float(value.var()) - 1) < 6 * np.sqrt(2 / n)


def test_edm_preconditioner_is_finite_and_regular_at_both_ends():
    """At alpha = 0: F = data/sigma_data; at sigma = 0: F = -noise; the denoised is determined at both."""
    process, precondition = processes.RectifiedFlow(), EDMPreconditioner(sigma_data=0.5)
    t = np.array([0.0, 1.0])
    np.testing.assert_allclose(precondition.row(process, t), [[2.0, 0.0], [0.0, -1.0]], atol=1e-15)
    np.testing.assert_allclose(precondition.scale(process, t), [1.0, 2.0])
    assert predictions.determinant(precondition.row(process, t), *state(process, t)).tolist() == [2.0, 1.0]


@pytest.mark.parametrize("precondition", PRECONDITIONERS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("name", ["vp_linear", "edm", "rectified_flow"])
def test_preconditioned_output_is_the_row_of_its_wrapper(precondition, name, rng):
    """A network that answers F = a data + b noise gives back the data, and sees scale x and the label."""
    process = PROCESSES[name]()
    t = jnp.asarray(times_of(process), jnp.float32)
    data, noise = rng.standard_normal((2, len(t), 2)).astype(np.float32)
    x = process.alpha(t)[:, None] * data + process.sigma(t)[:, None] * noise
    a, b = precondition.row(process, t)
    seen = {}

    def apply(F, x, label, cond):
        seen.update(x=x, label=label)
        return F

    D = denoiser(apply, a[:, None] * data + b[:, None] * noise, process, precondition=precondition)
    np.testing.assert_allclose(D(x, t), data, atol=5e-5)
    np.testing.assert_allclose(seen["x"], precondition.scale(process, t)[:, None] * x, rtol=1e-6)
    np.testing.assert_allclose(seen["label"], precondition.label(process, t), rtol=1e-6)


# --- Refusals --------------------------------------------------------------------------------------------------


def test_singular_times_are_exactly_those_where_the_kind_says_nothing_new():
    times = np.array([0.0, 0.5, 1.0])

    def singular(kind):
        return predictions.singular(kind, Identity(), processes.RectifiedFlow(), times).tolist()

    assert singular("eps") == [True, False, False]  # alpha = 0: x itself is the noise
    assert singular("denoised") == [False, False, True]  # sigma = 0: x itself is the data
    assert singular("velocity") == [False, False, False]
    assert singular("v") == [False, False, False]
    assert singular("score") == [True, False, True]


def test_an_infinite_noise_label_is_singular():
    """At pure noise the EDM row is regular but its label log(sigma/alpha)/4 is infinite; another label cures it."""
    D = denoiser(lambda *_: 0.0, None, processes.RectifiedFlow(), precondition=EDMPreconditioner())
    assert D.singular(np.array([0.0, 0.5])).tolist() == [True, False]
    D = denoiser(lambda *_: 0.0, None, processes.RectifiedFlow(), precondition=EDMPreconditioner(), label="time")
    assert D.singular(np.array([0.0, 0.5])).tolist() == [False, False]


def test_unknown_kinds_and_labels_are_refused_by_name():
    apply, process = (lambda params, x, label, cond: x), processes.EDM()
    with pytest.raises(ValueError, match=r"predicts must be one of .*got 'epsilon'"):
        denoiser(apply, None, process, "epsilon")
    with pytest.raises(ValueError, match=r"label must be one of .*got 'steps'"):
        denoiser(apply, None, process, "eps", label="steps")
    with pytest.raises(ValueError, match="discrete"):
        denoiser(apply, None, process, "eps", label="discrete")


@pytest.mark.parametrize("kind", KINDS)
def test_wrapping_is_silent_on_every_process(kind, process):
    """No division warnings from ends of the clock that nobody asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if kind in kinds_of(process):
            denoiser(lambda params, x, label, cond: x, None, process, kind)


def test_the_score_is_refused_where_the_noise_is_not_gaussian():
    process = processes.PFGMPP(D=64)
    with pytest.raises(ValueError, match=r"PFGMPP.*not Gaussian.*predict \"denoised\""):
        denoiser(lambda params, x, label, cond: x, None, process, "score")
    with pytest.raises(ValueError, match=r"PFGMPP.*not Gaussian"):
        predictions.from_denoised("score", np.ones((1, 1)), np.ones((1, 1)), process, 1.0)


# --- Foreign networks ------------------------------------------------------------------------------------------


def test_discrete_labels_are_integers_at_the_nodes_and_fractional_between():
    process = processes.VPDiscrete.linear(steps=10)

    def label(t):
        return np.asarray(predictions.LABELS["discrete"](process, np.asarray(t)))

    np.testing.assert_allclose(label(np.arange(1, 11) / 10), np.arange(10), atol=1e-12)
    np.testing.assert_allclose(label([0.25, 0.975]), [1.5, 8.75])


def test_the_network_receives_one_label_per_example_and_the_condition():
    process = processes.VPDiscrete.linear(steps=10)

    def apply(params, x, label, cond):
        assert label.shape == (3,)
        return params * x + label[:, None] + cond[:, None]

    D = denoiser(apply, 0.0, process, "denoised", label="discrete")
    np.testing.assert_allclose(D(jnp.zeros((3, 1)), 0.25, jnp.arange(3.0))[:, 0], 1.5 + np.arange(3), rtol=1e-5)
    np.testing.assert_allclose(
        D(jnp.zeros((3, 1)), jnp.array([0.1, 0.2, 0.3]), jnp.zeros(3))[:, 0], [0, 1, 2], atol=1e-5
    )


def test_a_label_may_be_any_function_of_process_and_time():
    def apply(params, x, label, cond):
        return jnp.broadcast_to(label[:, None], x.shape)

    D = denoiser(apply, None, processes.VE(), "denoised", label=lambda process, t: jnp.log(process.sigma(t)))
    np.testing.assert_allclose(D(jnp.zeros((2, 1)), 0.3), np.log(processes.VE().sigma(0.3)), rtol=1e-5)


def test_learned_variance_is_dropped(rng):
    noise = jnp.asarray(rng.standard_normal((2, 4, 4, 3)), jnp.float32)

    def two_heads(params, x, label, cond):
        return jnp.concatenate([noise, 1e9 * jnp.ones_like(x)], axis=-1)

    def one_head(params, x, label, cond):
        return noise

    process, x = processes.VPDiscrete.linear(), jnp.ones((2, 4, 4, 3))
    D = denoiser(two_heads, None, process, "eps", label="discrete", learned_variance=True)
    np.testing.assert_array_equal(D(x, 0.4), denoiser(one_head, None, process, "eps")(x, 0.4))


def test_denoised_is_formed_in_float32_when_the_network_computes_in_bfloat16():
    """A difference in bfloat16 would keep two digits; the float32 one is exact up to rounding of eps."""
    process, t = processes.VPLinear(), 1e-3
    D = denoiser(lambda params, x, label, cond: jnp.ones_like(x, jnp.bfloat16), None, process, "eps")
    denoised = D(jnp.full((1, 1), 0.25), t)
    assert denoised.dtype == jnp.float32
    np.testing.assert_allclose(denoised, (0.25 - process.sigma(t)) / process.alpha(t), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_other_weights_do_not_compile_again(kind):
    traces = []

    def apply(params, x, label, cond):
        traces.append(kind)
        return params["w"] * x

    call = jax.jit(lambda D, x, t: D(x, t))
    outputs = []
    for w in (0.1, 0.2, 0.3):
        D = denoiser(apply, {"w": jnp.float32(w)}, processes.VPLinear(), kind)
        outputs.append(float(call(D, jnp.ones((2, 2)), 0.5)[0, 0]))
    assert len(traces) == 1
    assert len(set(outputs)) == 3


def test_velocity_of_the_exact_denoiser_is_the_exact_velocity(process):
    mixture = oracles.GaussianMixture([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [[0.1, 0.2], [0.3, 0.05]])
    x, t = np.array([[0.3, -0.4], [1.0, 2.0]]), float(times_of(process)[5])
    field = predictions.velocity(mixture.denoiser(process), process)
    np.testing.assert_allclose(field(x, t), mixture.velocity(process)(x, t), rtol=1e-10)


def test_iddpm_levels_are_those_of_a_cosine_table():
    """Where no step is clipped the recursion telescopes: 1 + u_j^2 = abar_M/abar_j; the first step is clipped by C1."""
    precondition = IDDPMPreconditioner()
    u = precondition.levels
    abar = np.sin(np.pi / 2 * np.arange(1001) / (1000 * 1.008)) ** 2
    assert u[-1] == 0
    assert (np.diff(u) < 0).all()
    np.testing.assert_allclose(1 + u[1:] ** 2, abar[-1] / abar[1:], rtol=1e-10)
    np.testing.assert_allclose((1 + u[0] ** 2) / (1 + u[1] ** 2), 1000, rtol=1e-10)


def test_iddpm_labels_are_the_steps_of_the_nearest_levels():
    """On every path: label 0 is the least noise that was trained (u_{M-1}), M - 1 the most (u_0)."""
    precondition = IDDPMPreconditioner(steps=50)
    u = precondition.levels[:-1]
    edm = processes.EDM(sigma_max=1e5)
    assert (precondition.label(edm, u) == np.arange(50)[::-1]).all()
    assert (precondition.label(edm, jnp.asarray(u, jnp.float32)) == np.arange(50)[::-1]).all()
    closer = u[1:] + 0.49 * (u[:-1] - u[1:])
    assert (precondition.label(edm, closer) == np.arange(49)[::-1]).all()
    flow = processes.RectifiedFlow()
    assert (precondition.label(flow, flow.t_of_lam(-np.log(u))) == np.arange(50)[::-1]).all()
