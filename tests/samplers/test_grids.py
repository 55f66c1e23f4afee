"""Time grids: ends, spacing, direction, the clean node, the shift, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn import processes
from gendyn.processes import PROCESSES
from gendyn.samplers import GRIDS, Churn, ddim, grids, heun

EDM = processes.EDM()
RF = processes.RectifiedFlow()


@pytest.fixture(params=sorted(PROCESSES))
def process(request):
    return PROCESSES[request.param]()


@pytest.fixture(params=sorted(GRIDS))
def build(request):
    return GRIDS[request.param]


def inside(process):
    """A stretch strictly inside every clock."""
    return tuple(float(process.t_of_lam(lam)) for lam in (-2.0, 2.5))


def test_nodes_run_from_noise_to_data_between_exact_ends(build, process):
    start, end = inside(process)
    grid = build(process, 9, t_start=start, t_end=end, final_zero=False)
    assert (grid.t[0], grid.t[-1]) == (start, end)
    assert grid.steps == 9
    assert grid.t.dtype == np.float64
    assert (np.diff(grid.lam) > 0).all()
    np.testing.assert_array_equal(grid.alpha, process.alpha(grid.t))
    np.testing.assert_array_equal(grid.sigma, process.sigma(grid.t))


def test_default_ends_are_the_interval_of_the_process(build, process):
    grid = build(process, 5)
    assert grid.steps == 5
    assert np.isfinite(grid.alpha).all()
    assert np.isfinite(grid.sigma).all()
    if process.alpha(process.interval[0]) > 0:
        assert grid.t[0] == process.interval[0]


def test_final_zero_appends_the_clean_node(build, process):
    """True: n nodes above zero and the clean one. False: n + 1 nodes above zero. n steps either way."""
    start, end = inside(process)
    clean = build(process, 6, t_start=start, t_end=end, final_zero=True)
    assert clean.clean
    assert (clean.alpha[-1], clean.sigma[-1], clean.steps) == (1.0, 0.0, 6)
    assert clean.t[-2] == end
    above = build(process, 5, t_start=start, t_end=end, final_zero=False)
    np.testing.assert_allclose(clean.t[:-1], above.t, rtol=1e-15)
    assert not above.clean
    reached = float(process.sigma(process.t_data)) == 0.0
    assert clean.t[-1] == process.t_data if reached else np.isnan(clean.t[-1])


def test_a_clock_that_ends_clean_needs_no_extra_node():
    ours = grids.uniform_t(RF, 4)
    np.testing.assert_allclose(ours.t, [0, 0.25, 0.5, 0.75, 1])
    assert ours.clean
    np.testing.assert_array_equal(grids.uniform_t(RF, 4, final_zero=True).t, ours.t)
    assert not grids.uniform_t(RF, 4, final_zero=False).clean


def test_one_step_is_a_grid(build, process):
    grid = build(process, 1, final_zero=True)
    assert grid.clean
    assert grid.steps == 1


def test_spacings_are_what_their_names_say(process):
    start, end = inside(process)

    def even(values):
        return np.testing.assert_allclose(np.diff(values), (values[-1] - values[0]) / 8, rtol=1e-7)

    ends = {"t_start": start, "t_end": end, "final_zero": False}
    even(grids.uniform_t(process, 8, **ends).t)
    even(grids.uniform_lam(process, 8, **ends).lam)
    even(np.exp(-grids.karras(process, 8, rho=3.0, **ends).lam / 3.0))
    origin = process.t_data if process.t_data > process.t_noise else 0.0
    even(np.abs(grids.power(process, 8, exponent=2.0, **ends).t - origin) ** 0.5)
    np.testing.assert_allclose(
        grids.polyexponential(process, 8, **ends).lam, grids.uniform_lam(process, 8, **ends).lam, rtol=1e-9, atol=1e-10
    )


def test_karras_is_one_grid_in_sigma_over_alpha_for_all_processes(process):
    start, end = inside(process)
    ours = grids.karras(process, 8, t_start=start, t_end=end)
    edm = grids.karras(
        EDM, 8, t_start=process.sigma(start) / process.alpha(start), t_end=process.sigma(end) / process.alpha(end)
    )
    np.testing.assert_allclose(ours.lam[:-1], edm.lam[:-1], atol=1e-10)


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_shift_on_rectified_flow_is_the_published_formula(shift):
    """Esser et al. 2024, eq. 23, with their time s = 1 - t from the data: s' = c s/(1 + (c - 1) s)."""
    s = 1 - grids.uniform_t(RF, 10).t
    np.testing.assert_allclose(
        1 - grids.uniform_t(RF, 10, shift=shift).t, shift * s / (1 + (shift - 1) * s), atol=1e-14
    )


def test_shift_multiplies_the_noise_levels_after_the_first(build, process):
    start, end = inside(process)
    plain, shifted = (build(process, 6, t_start=start, t_end=end, final_zero=False, shift=c) for c in (1.0, 0.7))
    np.testing.assert_allclose(shifted.lam[1:], plain.lam[1:] - np.log(0.7), atol=1e-10)
    assert shifted.t[0] == plain.t[0]


def test_explicit_grids_by_time_noise_level_and_lam_agree(process):
    lam = np.array([-2.0, -0.5, 1.0, 2.5])
    by_lam = grids.explicit(process, lam=lam)
    by_sigma = grids.explicit(process, sigmas=np.exp(-lam))
    by_time = grids.explicit(process, times=process.t_of_lam(lam))
    for grid in (by_sigma, by_time):
        np.testing.assert_allclose(grid.t, by_lam.t, rtol=1e-14)
    np.testing.assert_allclose(by_lam.lam, lam, atol=1e-11)
    for clean in (
        grids.explicit(process, sigmas=[*np.exp(-lam), 0.0]),
        grids.explicit(process, lam=[*lam, np.inf]),
        grids.explicit(process, lam=lam, final_zero=True),
    ):
        assert clean.clean
        assert clean.steps == 4


# --- Refusals --------------------------------------------------------------------------------------------------


def test_impossible_grids_are_refused(build):
    for n in (0, -1, 2.5):
        with pytest.raises(ValueError, match="whole number of steps"):
            build(EDM, n)
    with pytest.raises(ValueError, match="shift must be positive"):
        build(EDM, 5, shift=0.0)
    with pytest.raises(ValueError, match="strictly from noise to data"):
        build(EDM, 5, t_start=0.1, t_end=1.0)


def test_nodes_out_of_order_are_named():
    with pytest.raises(ValueError, match=r"node 2 \(t = 2\) is not cleaner than node 1 \(t = 1\)"):
        grids.explicit(EDM, times=[3.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="remove duplicates"):
        grids.explicit(EDM, sigmas=[3.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="on the clock of"):
        grids.explicit(RF, times=[0.5, 1.5])
    with pytest.raises(ValueError, match="on the clock of"):
        grids.explicit(RF, times=[0.5, float("nan")])
    with pytest.raises(ValueError, match="at least two nodes"):
        grids.explicit(EDM, times=[1.0])
    with pytest.raises(ValueError, match="exactly one of"):
        grids.explicit(EDM, times=[1.0, 0.5], lam=[0.0, 1.0])


@pytest.mark.parametrize("name", ["uniform_lam", "karras", "polyexponential"])
def test_spacing_in_lam_refuses_infinite_ends(name):
    with pytest.raises(ValueError, match="reaches pure noise at t = 0"):
        GRIDS[name](RF, 5, t_start=0.0, t_end=0.9)
    with pytest.raises(ValueError, match=r"clean data at t = .* final_zero=True"):
        GRIDS[name](RF, 5, t_start=0.1, t_end=1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: grids.karras(EDM, 5, t_start=80 * s),
        lambda s: grids.uniform_t(EDM, 5, shift=s),
        lambda s: grids.karras(EDM, 5, rho=7 * s),
        lambda s: grids.power(EDM, 5, exponent=2 * s),
        lambda s: grids.polyexponential(EDM, 5, exponent=s),
        lambda s: grids.explicit(EDM, times=[80 * s, 1.0]),
        lambda s: ddim(EDM, grids.karras(EDM, 5), eta=s),
        lambda s: heun(EDM, grids.karras(EDM, 5), churn=Churn(amount=s)),
    ],
)
def test_traced_values_are_refused_in_words(make):
    with pytest.raises(TypeError, match="decided on the host before compiling"):
        jax.jit(lambda s: make(s).t)(jnp.float32(1.0))


def test_negative_noise_is_refused():
    grid = grids.karras(EDM, 5)
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="eta must"):
            ddim(EDM, grid, eta=eta)
    with pytest.raises(ValueError, match="churn must be zero or positive"):
        heun(EDM, grid, churn=-1.0)
