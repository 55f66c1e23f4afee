"""l, s and b as tables over lam: interpolation, saving, and whether they fit a grid."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from gendyn.files import write_npz
from gendyn.processes import Process, describe, from_description
from gendyn.samplers.grids import Grid, explicit
from gendyn.tree import pytree, static

FORMAT = 1
SLACK = 1e-4  # in lam: how far a grid may reach beyond the tables, for the digits of a printed t


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What statistics belong to, and what they cost.

    Attributes:
        model: in words, for example a run directory. step, weights, guidance: which of its models.
        num_samples: (data, noise) pairs at each node. probes: Rademacher probes per pair, or "exact".
        network_calls: evaluations of the denoiser, samples x nodes.
        tangents: directional derivatives taken with them, each about the price of one more evaluation.
    """

    model: str = ""
    step: int | None = None
    weights: str = ""
    guidance: float = 1.0
    num_samples: int = 0
    probes: int | str = 1
    network_calls: int = 0
    tangents: int = 0


@pytree
class Statistics:
    """Tables of l, s, b on n + 1 nodes of lam = log(alpha/sigma); linear in between, per element of the data.

    They are functions of lam alone: l, s and f/alpha do not change when the state is rescaled. So the same network
    wrapped for another path has the same statistics; `process` says which model they were measured on.

    Attributes:
        lam: nodes, rising from noise to data, [n + 1].
        l, s, b: [n + 1, *data] (or [n + 1], one number for all elements).
        process: the path of the model, if known. origin: which model, how many samples, what it cost.

    Example:
        >>> flat = np.ones((2, 3))
        >>> data_form = Statistics(lam=np.array([-5.0, 5.0]), l=flat, s=0 * flat, b=0 * flat)
        >>> data_form.data_shape
        (3,)
    """

    lam: Any
    l: Any
    s: Any
    b: Any
    process: Process | None = static(default=None)
    origin: Origin | None = static(default=None)

    @property
    def data_shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.l)[1:])

    def at(self, lam: Float[np.ndarray, "*points"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(l, s, b) at any lam inside the tables, each [*points, *data]."""
        lam = np.asarray(lam, np.float64)
        right = np.clip(np.searchsorted(self.lam, lam, side="right"), 1, len(self.lam) - 1)
        start, end = self.lam[right - 1], self.lam[right]
        weight = np.clip((lam - start) / (end - start), 0.0, 1.0)
        weight = weight.reshape(lam.shape + (1,) * len(self.data_shape))
        l, s, b = ((1 - weight) * table[right - 1] + weight * table[right] for table in (self.l, self.s, self.b))
        return l, s, b

    def require(self, grid: Grid, shape: tuple[int, ...] | None = None) -> None:
        """Refuse, in words, tables that are malformed, of another path or data shape, or too short for the grid.

        Raises:
            ValueError: naming the remedy.
        """
        _require_tables(self)
        if self.process is not None and self.process != grid.process:
            raise ValueError(
                f"these statistics were measured on a model with the path {_short(self.process)}, but the plan is for "
                f"{_short(grid.process)}; estimate them for the model that you sample "
                "(gd.samplers.statistics.estimate, or `gendyn statistics RUN`)."
            )
        if shape is not None and self.data_shape not in ((), tuple(shape)):
            raise ValueError(
                f"these statistics are of data of shape {self.data_shape}, but the plan is for {tuple(shape)}; estimate"
                " them for the model that you sample."
            )
        low, high = self.lam[0], self.lam[-1]
        start, end = grid.lam[0], grid.lam[-1]
        if start < low - SLACK or end > high + SLACK:
            t_start, t_end = (float(grid.process.t_of_lam(lam)) for lam in (low, high))
            raise ValueError(
                f"the statistics cover lam from {low:.4g} to {high:.4g}, but the grid runs from {start:.4g} to "
                f"{end:.4g}; keep the grid inside (t_start={t_start:.6g}, t_end={t_end:.6g}) or estimate statistics "
                "over its range."
            )

    def snap(self, grid: Grid) -> Grid:
        """The grid with every node moved to the nearest node of the tables, as the published code does.

        Needed only to reproduce that code: the default quadrature is exact between nodes.

        Raises:
            ValueError: two nodes of the grid that are nearest to the same node of the tables.
        """
        self.require(grid)
        nearest = np.abs(grid.lam[:, None] - self.lam).argmin(1)
        double = np.flatnonzero(np.diff(nearest) == 0)
        if len(double):
            raise ValueError(
                f"nodes {double[0]} and {double[0] + 1} of the grid snap to the same node of the statistics; use fewer "
                "steps, tables with more nodes, or do not snap."
            )
        snapped = explicit(grid.process, lam=self.lam[nearest])
        return dataclasses.replace(snapped, name=f"{grid.name}/snapped")

    def save(self, path: epath.PathLike) -> None:
        """Write the tables, atomically: one npz with a JSON header that says what they belong to."""
        header = {
            "format": FORMAT,
            "process": None if self.process is None else describe(self.process),
            "origin": None if self.origin is None else dataclasses.asdict(self.origin),
        }
        tables = {name: np.asarray(getattr(self, name), np.float64) for name in TABLES}
        write_npz(path, header=np.array(json.dumps(header)), **tables)

    @classmethod
    def load(cls, path: epath.PathLike) -> Statistics:
        """Read what `save` wrote; nothing in the file is executed.

        Raises:
            FileNotFoundError, or ValueError for a file that does not hold statistics of this format.
        """
        path = epath.Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist.")
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                header = json.loads(str(stored["header"]))
                tables = {name: stored[name] for name in TABLES}
            process, origin = header["process"], header["origin"]
        except Exception:  # zip, numpy and json each have their own errors for a foreign or damaged file
            raise ValueError(f"{path} does not hold saved statistics; write them with Statistics.save.") from None
        if header["format"] != FORMAT:
            raise ValueError(f"{path} has format {header['format']}; this version reads format {FORMAT}.")
        return cls(
            **tables,
            process=None if process is None else from_description(process),
            origin=None if origin is None else Origin(**origin),
        )


TABLES = ("lam", "l", "s", "b")


def _require_tables(statistics: Statistics) -> None:
    lam, tables = np.asarray(statistics.lam), [np.asarray(getattr(statistics, name)) for name in "lsb"]
    shapes = [table.shape for table in tables]
    if lam.ndim != 1 or len(lam) < 2 or not (np.diff(lam) > 0).all():
        raise ValueError("statistics need two or more nodes lam that rise from noise to data; sort them, drop doubles.")
    if len(set(shapes)) > 1 or shapes[0][:1] != lam.shape:
        raise ValueError(
            f"statistics need l, s, b of one shape [{len(lam)}, *data] for {len(lam)} nodes; got {shapes}."
        )
    if not all(np.isfinite(table).all() for table in (lam, *tables)):
        raise ValueError("these statistics hold values that are not finite; estimate them again.")


def _short(process: Process) -> str:
    text = str(process)
    return text if len(text) < 100 else text[:90] + " ...)"
