"""Gaussian paths, exact mixture models and EDM's wrappers against `processes_open.npz` (described beside it).

The reference was computed independently in float64 and higher precision. Closed forms must agree to 1e-10, relative to
the larger of the value itself and the scale of its array; ends of probability-flow trajectories to 1e-8.
"""

import json

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from gendyn import predictions, processes
from gendyn.objectives import weights
from gendyn.oracles import GaussianMixture, PointMasses, TwoSided
from gendyn.samplers import grids

PATHS = {
    "vp_linear": processes.VPLinear,
    "vp_cosine": processes.VPCosine,
    "subvp_linear": processes.SubVP,
    "ve": processes.VE,
    "edm": processes.EDM,
    "rf": processes.RectifiedFlow,
    "gvp": processes.GVP,
}


@pytest.fixture(scope="module")
def reference(shared):
    return np.load(shared / "parity" / "processes_open.npz")


@pytest.fixture(scope="module")
def mixture(reference):
    return GaussianMixture(*(reference["gmm/" + name] for name in ("weights", "means", "covs")))


@pytest.fixture(params=sorted(PATHS))
def name(request):
    return request.param


@pytest.fixture
def process(name, reference):
    return PATHS[name](**json.loads(str(reference[name + "/config_json"])))


def agree(ours, theirs, tolerance=1e-10):
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("coefficient", ["alpha", "sigma", "dalpha", "dsigma"])
def test_path_coefficients(coefficient, name, process, reference):
    """Relative to each entry, not to the scale of the array; only a zero of the path itself may differ absolutely."""
    theirs = reference[f"{name}/{coefficient}"]
    np.testing.assert_allclose(getattr(process, coefficient)(reference[name + "/t"]), theirs, rtol=1e-10, atol=1e-15)


def test_exact_models(name, process, reference, mixture):
    for i, t in enumerate(reference[name + "/t"]):
        theirs = {key: reference[f"{name}/{key}"][i] for key in ("x", "logp", "score", "denoised", "eps", "velocity")}
        x = theirs["x"]
        D = mixture.denoiser(process)
        agree(mixture.log_prob(process, x, t), theirs["logp"])
        agree(mixture.score(process)(x, t), theirs["score"])
        agree(D(x, t), theirs["denoised"])
        agree(-process.sigma(t) * mixture.score(process)(x, t), theirs["eps"])
        agree(mixture.velocity(process)(x, t), theirs["velocity"])


def test_exact_divergence(name, process, reference, mixture):
    """1e-10 of the array's scale, and 2e-9 of each entry: where alpha < 0.02 the reference itself keeps nine digits
    (both were compared in extended precision there; ours agreed to 3e-13)."""
    theirs = reference[name + "/div_velocity"]
    times, points = reference[name + "/t"], reference[name + "/x"]
    ours = np.stack([mixture.divergence(process)(x, t) for x, t in zip(points, times)])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10 * np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=2e-9, atol=1e-14)


def test_exact_models_take_one_time_per_example(name, process, reference, mixture):
    x = reference[name + "/x"]
    n = x.shape[1]
    t = np.repeat(reference[name + "/t"], n)
    agree(mixture.score(process)(x.reshape(-1, 3), t).reshape(x.shape), reference[name + "/score"])
    agree(mixture.divergence(process)(x.reshape(-1, 3), t).reshape(-1, n), reference[name + "/div_velocity"])


def test_predictions_from_the_denoised(name, process, reference):
    """The table of rows turns the published denoised into the published eps, score and velocity.

    x - alpha denoised cancels, which costs a few units in the last place of x, magnified by b/sigma.
    """
    for i, t in enumerate(reference[name + "/t"]):
        x, denoised = reference[name + "/x"][i], reference[name + "/denoised"][i]
        for kind in ("eps", "score", "velocity"):
            b = predictions.ROWS[kind](process, np.float64(t))[1]
            cancelled = 8 * np.finfo(float).eps * np.abs(x).max() * abs(b) / process.sigma(t)
            theirs = reference[f"{name}/{kind}"][i]
            ours = predictions.from_denoised(kind, denoised, x, process, t)
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10 * np.abs(theirs).max() + cancelled)


def test_data_density(reference, mixture):
    agree(mixture.log_prob(processes.EDM(), reference["data/x"], 0.0), reference["data/logp"])


def test_trajectories_and_likelihood_budget(name, process, reference, mixture):
    """Integrate the exact velocity and its divergence from the noise side; ends and log densities agree."""
    t_data, t_noise = reference[name + "/ode_t"]
    ends = [reference[f"{name}/ode_x_{side}_end"] for side in ("noise", "data")]
    shape = ends[0].shape
    velocity, divergence = mixture.velocity(process), mixture.divergence(process)

    def field(t, state):
        x = state[: ends[0].size].reshape(shape)
        return np.concatenate([velocity(x, t).ravel(), divergence(x, t)])

    start = np.concatenate([ends[0].ravel(), np.zeros(len(ends[0]))])
    end = solve_ivp(field, (t_noise, t_data), start, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    agree(end[: ends[0].size].reshape(shape), ends[1], 1e-8)
    agree(-end[ends[0].size :], reference[name + "/ode_div_integral"], 1e-8)
    for x, t, side in zip(ends, (t_noise, t_data), ("noise", "data")):
        agree(mixture.log_prob(process, x, t), reference[f"{name}/ode_logp_{side}_end"])
    budget = reference[name + "/ode_logp_noise_end"] - end[ends[0].size :]
    agree(budget, reference[name + "/ode_logp_data_end"], 1e-8)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_wrapper(sigma_data, reference):
    """c_skip, c_out read off the row: F = a data + b noise, x = data + sigma noise give data = c_skip x + c_out F."""
    published = {
        key: reference[f"edm_precond/sd{sigma_data}/{key}"]
        for key in ("sigma", "c_skip", "c_out", "c_in", "c_noise", "weight")
    }
    process, t = processes.EDM(), published["sigma"]
    precondition = predictions.EDMPreconditioner(sigma_data=sigma_data)
    a, b = precondition.row(process, t)
    det = a * t - b
    agree(-b / det, published["c_skip"])
    agree(t / det, published["c_out"])
    agree(precondition.scale(process, t), published["c_in"])
    agree(precondition.label(process, t), published["c_noise"])
    weight = weights.EDM(sigma_data=sigma_data)
    agree(
        weight(process, t, predictions.determinant(predictions.ROWS["denoised"](process, t), 1.0, t)),
        published["weight"],
    )
    agree(weight(process, t, det), np.ones_like(t))


def test_vp_and_ve_wrappers(reference):
    process, t = processes.EDM(), reference["vp_precond/sigma"]
    vp, ve = predictions.VPPreconditioner(), predictions.VEPreconditioner()
    agree(vp.label(process, t), reference["vp_precond/c_noise"])
    agree(vp.label(process, t) / 999, reference["vp_precond/t"])
    agree(vp.scale(process, t), reference["vp_precond/c_in"])
    agree(ve.label(process, t), reference["ve_precond/c_noise"])
    np.testing.assert_array_equal(ve.scale(process, t), 1.0)


@pytest.mark.parametrize(("n", "rho"), [(18, 7.0), (40, 7.0), (10, 3.0)])
def test_edm_steps(n, rho, reference):
    grid = grids.karras(processes.EDM(), n, rho)
    np.testing.assert_allclose(grid.t, reference[f"edm_steps/n{n}_rho{rho:g}"], rtol=1e-12, atol=0)
    assert grid.clean


# --- PFGM++ -----------------------------------------------------------------------------------------------------


def test_pfgmpp_radii(reference):
    for i, N in enumerate(reference["pfgmpp_radius/N"]):
        for j, D in enumerate(reference["pfgmpp_radius/D"]):
            ours = processes.PFGMPP(D=float(D)).radius_quantile(reference["pfgmpp_radius/q"], int(N))
            np.testing.assert_allclose(ours, reference["pfgmpp_radius/R_over_sigma"][i, j], rtol=1e-9)


@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
def test_pfgmpp_field_of_point_masses(reference, single):
    """In float32 to 1e-5 of each array's scale up to D = 1e6, where naive weights are wrong in the first digit."""
    field = {key.split("/")[1]: reference[key] for key in reference.files if key.startswith("pfgmpp_field/")}
    dtype, tolerance = (np.float32, 1e-5) if single else (np.float64, 1e-10)
    points = PointMasses(field["points"].astype(dtype), field["weights"])
    for i, D in enumerate(field["D"]):
        process = processes.PFGMPP(D=float(D))
        for j, sigma in enumerate(field["sigma"]):
            x, t = field["x"][i, j].astype(dtype), dtype(sigma)
            agree(points.posterior(process, x, t), field["posterior_weights"][i, j], tolerance)
            agree(points.denoiser(process)(x, t), field["mean"][i, j], tolerance)
            if not single:
                agree(points.velocity(process)(x, t), field["dxdsigma"][i, j])
                agree(points.log_prob(process, x, t), field["logp"][i, j])


# --- Stochastic interpolants ------------------------------------------------------------------------------------

SI = processes.interpolants
INTERPOLANTS = {
    "si_linear": processes.Interpolant(latent=SI.Bridge(scale=1.0)),
    "si_trig": processes.Interpolant(path=SI.TrigonometricPath(), latent=SI.Bridge(scale=2.0)),
    "si_encdec": processes.Interpolant(path=SI.EncodingDecoding(), latent=SI.SineSquared()),
}


@pytest.mark.parametrize("si", sorted(INTERPOLANTS))
def test_interpolants_and_their_exact_fields(si, reference, mixture):
    process, theirs = INTERPOLANTS[si], {k.split("/")[1]: reference[k] for k in reference.files if k.startswith(si)}
    t = theirs["t"]
    for ours, published in (("a", "alpha"), ("b", "beta"), ("gamma", "gamma"), ("da", "dalpha"), ("db", "dbeta")):
        np.testing.assert_allclose(getattr(process, ours)(t), theirs[published], rtol=1e-10, atol=1e-14)
    for name in ("dgamma", "gamma_dgamma"):
        np.testing.assert_allclose(getattr(process, name)(t), theirs[name], rtol=1e-10, atol=1e-14)
    base = GaussianMixture(*(reference["gmm0/" + name] for name in ("weights", "means", "covs")))
    exact = TwoSided(base=base, data=mixture)
    fields = exact.fields(process)
    x = theirs["x"].reshape(-1, 3)
    times = np.repeat(t, theirs["x"].shape[1])
    ours = {"logp": exact.log_prob(process, x, times), "score": exact.score(process, x, times)}
    ours |= dict(zip(("E_x0", "E_x1"), exact.means(process, x, times)))
    ours |= {"eta": fields.eta(x, times), "b": fields(x, times)}
    for name, values in ours.items():
        agree(values.reshape(theirs[name].shape), theirs[name])
