"""Plots: every figure that a user or a notebook draws, from plain arrays and tables.

    table or array  ->  figure function  ->  matplotlib Figure  ->  save_figure, or the notebook shows it

A figure function takes numbers, never a model, so a figure can be made again without running again. It returns a
`matplotlib.figure.Figure` built with the object interface: no pyplot, no window, no global state, no back end to
choose, safe in threads and on machines without a display. matplotlib is imported only when a figure is drawn. (A
notebook shows such figures after `%matplotlib inline`.) Sample grids are images, not figures: `grid`, `save_png`.
"""

from gendyn.plots.curves import coordinates, error_vs_nfe, loss, ranking, transfer
from gendyn.plots.files import save_figure
from gendyn.plots.images import grid, save_png
from gendyn.plots.plan import plan
from gendyn.plots.points import density, scatter, trajectories

__all__ = [
    "coordinates",
    "density",
    "error_vs_nfe",
    "grid",
    "loss",
    "plan",
    "ranking",
    "save_figure",
    "save_png",
    "scatter",
    "trajectories",
    "transfer",
]
