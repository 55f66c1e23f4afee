import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gendyn import plots


def sampler(**changes):
    columns = {
        "t": np.linspace(1.0, 0.1, 4),
        "call": np.array([True, True, False, True]),
        "sx": np.full(4, 0.9),
        "sm": np.ones((4, 2)) * [1.0, -0.5],
        "sn": np.zeros((4, 0)),
    }
    return SimpleNamespace(**(columns | changes))


def all_figures(rng):
    points = rng.standard_normal((50, 2))
    yield plots.scatter(points)
    yield plots.density(points, points + 1, bins=10)
    yield plots.trajectories(rng.standard_normal((5, 20, 2)), points)
    yield plots.loss([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])
    yield plots.error_vs_nfe([{"sampler": "ddim", "nfe": 5, "error": 0.1}])
    yield plots.plan(sampler())


def test_every_figure_can_be_written(tmp_path, rng):
    for i, figure in enumerate(all_figures(rng)):
        assert isinstance(figure, Figure)
        with Image.open(plots.save_figure(tmp_path / f"{i}.png", figure, dpi=40)) as picture:
            assert min(picture.size) > 80
    assert plots.save_figure(tmp_path / "last.svg", figure).read_bytes().lstrip().startswith(b"<?xml")


def test_panels_share_the_region_of_the_reference_and_count_what_left_it():
    reference = np.array([[0.0, 0.0], [1.0, 1.0]])
    samples = np.array([[0.5, 0.5], [1e6, 0.0], [np.nan, 0.0]])
    left, right = plots.scatter(samples, reference).axes
    assert left.get_xlim() == right.get_xlim() == pytest.approx((-0.075, 1.075))
    assert left.get_title() == "samples (n=3, 2 outside)"


def test_density_integrates_to_the_share_inside(rng):
    reference = rng.uniform(0, 1, (500, 2))
    samples = np.concatenate([reference, reference + 100.0])
    figure = plots.density(samples, reference, bins=20)
    cell = (1.15 * np.ptp(reference, axis=0).max() / 20) ** 2
    shares = [float(ax.images[0].get_array().sum()) * cell for ax in figure.axes[:2]]
    assert shares == pytest.approx([0.5, 1.0], rel=1e-9)
    assert len({ax.images[0].get_clim() for ax in figure.axes[:2]}) == 1


def test_trajectories_show_each_path(rng):
    states = rng.standard_normal((6, 30, 2))
    lines = plots.trajectories(states, shown=10).axes[0].lines
    assert len(lines) == 10
    np.testing.assert_array_equal(lines[3].get_xdata(), states[:, 3, 0])


def test_loss_skips_rows_of_other_kinds():
    rows = [{"step": s, "loss": 1.0 / (s + 1)} for s in range(100)] + [
        {"step": 100, "evaluation": 3.0},
        {"step": 101, "loss": None},
    ]
    ax = plots.loss(rows).axes[0]
    assert len(ax.lines[0].get_xdata()) == 100
    assert len(ax.lines[1].get_xdata()) == 50
    assert ax.get_yscale() == "log"
    assert plots.loss([{"step": 0, "loss": -1.0}]).axes[0].get_yscale() == "linear"


def test_error_lines_are_medians_with_the_range_of_seeds():
    """Errors c n^-2 for several c: a straight line of slope -2 on logarithmic axes, at the median c."""
    rows = [{"sampler": "heun", "nfe": n, "error": c / n**2} for n in (40, 10, 20) for c in (1.0, 2.0, 8.0)]
    ax = plots.error_vs_nfe(rows).axes[0]
    calls, errors = (np.asarray(v, float) for v in (ax.lines[0].get_xdata(), ax.lines[0].get_ydata()))
    assert calls.tolist() == [10, 20, 40]
    np.testing.assert_allclose(errors, 2.0 / calls**2)
    band = ax.collections[0].get_paths()[0].vertices
    assert {band[band[:, 0] == 10, 1].min(), band[band[:, 0] == 10, 1].max()} == {0.01, 0.08}
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_plan_marks_the_rows_that_call():
    figure = plots.plan(sampler())
    colours = figure.axes[0].collections[0].get_facecolors()
    assert (colours[:, 3] > 0).tolist() == [True, True, False, True]
    assert figure.get_suptitle() == "4 rows, 3 network calls"
    assert [len(ax.lines) for ax in figure.axes] == [1, 1, 2]


def test_plan_draws_means_of_coefficients_per_element(rng):
    sx, sm = rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2, 2, 3))
    axes = plots.plan(sampler(sx=sx, sm=sm, sn=np.ones((4, 1)))).axes
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), sx.mean((1, 2)))
    np.testing.assert_allclose(axes[2].lines[1].get_ydata(), sm[:, 1].mean((1, 2)))
    assert axes[2].lines[2].get_label() == "noise 0 back"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.scatter(np.zeros((5, 3))), "points .n, 2., got shape .5, 3."),
        (lambda: plots.scatter(np.full((5, 2), np.nan)), "no finite point"),
        (lambda: plots.trajectories(np.zeros((5, 2))), "states .rows, n, 2."),
        (lambda: plots.loss([{"step": 1, "accuracy": 0.5}]), "columns .'accuracy', 'step'."),
        (lambda: plots.error_vs_nfe([{"sampler": "ddim", "error": 1.0}]), "'nfe'.* is missing"),
        (lambda: plots.error_vs_nfe([]), "no rows"),
        (lambda: plots.plan(sampler(t=np.zeros((2, 4)))), "drawn alone"),
    ],
)
def test_bad_input_is_explained(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_no_global_state_and_a_light_import(tmp_path):
    code = """
import sys, gendyn.plots as plots
assert "matplotlib" not in sys.modules and "PIL" not in sys.modules
plots.save_figure(sys.argv[1], plots.loss([{"step": 0, "loss": 1.0}]))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "loss.pdf")], check=True)
