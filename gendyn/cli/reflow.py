"""gendyn reflow: straighten a run's flow by training on its own pairs, round after round."""

import dataclasses
import sys
from typing import Annotated, Any

import tyro

from gendyn import distributed
from gendyn.cli.common import Flat, first_positional, parse, progress
from gendyn.cli.train import Pictures, devices
from gendyn.training import Reflow, read_config, reflow
from gendyn.training.straightening import Row

HEAD = f"{'model':20} {'straightness':>12} {'E|z|^2':>10} {'E|z|':>8} {'E|z|_1':>8} {'few-step rmse':>18}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Rectify a run's flow: pairs of noise and sample, the next model trained on them, and again.

    The same command resumes; more rounds or a distillation may be asked for later.
    """

    out: str
    """Directory for pairs and rounds, local or gs://; each round in it is an ordinary run directory."""
    rounds: int = 1
    """How many; 0 to distil the run as it is."""
    pairs: int = 50_000
    """Pairs per round."""
    distill: int = 0
    """Distil the last round into a sampler of so many steps; 0 for none."""
    sampler: str = "unipc_2"
    """Deterministic solver that makes the pairs."""
    nfe: int = 100
    """Its network calls per pair."""
    grid: str = "uniform_t"
    """Its time grid, which must start at pure noise."""
    guidance: float = 1.0
    """Classifier-free guidance in the first pairs; the rounds learn the guided flow."""
    ema: float | None = None
    """Relative width of the averaged weights that make pairs and start the next round; 0 for the raw parameters."""
    noise_levels: str | None = None
    """Density of times while training on pairs, for example u_shaped; the experiment's own by default."""
    measured: int = 512
    """Fresh starts on which every flow is measured."""
    seed: int = 0
    """Seed of the pairs."""
    batch: int = 256
    """Pairs per compiled call."""
    devices: int | None = None
    """Use only so many devices."""

    def asked(self) -> Reflow:
        return Reflow(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Reflow)})


def run(argv: list[str]) -> int:
    """Rectify the run that the command line names; exit status."""
    folder, rest = first_positional(argv, "reflow", "a run directory")
    if folder is None:
        parse(Options, rest, prog="gendyn reflow RUN", description=Options.__doc__ or "")
        return 0
    stored: Any = read_config(folder)
    cls = type(stored)

    def both(
        options: Annotated[Options, Flat],
        config: Annotated[cls, tyro.conf.arg(name="config")] = stored,  # type: ignore[valid-type]
    ) -> Any:
        """The run's own config with changes for the rounds: --config.steps 2000 --config.learning-rate 1e-4."""
        return options, config

    options, config = parse(both, rest, prog=f"gendyn reflow {folder}", description=Options.__doc__ or "")
    return rectify(folder, options, config)


def rectify(folder: str, options: Options, config: Any) -> int:
    mesh = distributed.data_mesh(devices(options.devices))
    distributed.check_divisible(config.experiment().batch_size, mesh, config.experiment().accumulate)
    try:
        rows, last = reflow(
            folder,
            options.out,
            options.asked(),
            config=config,
            mesh=mesh,
            progress=progress,
            callbacks=lambda experiment, out: [Pictures(experiment, out, mesh)],
            report=lambda row: print(line(row), file=sys.stderr, flush=True),
        )
    except KeyboardInterrupt:
        print(f"SIGINT: what is whole is kept in {options.out}; the same command continues.")
        return 130
    if last is not None:
        print(
            f"{last.stopped_by}: checkpoint written at step {last.step} in {options.out}; the same command continues."
        )
        return 0
    print("\n".join([HEAD, *map(line, rows), *bound(rows)]))
    print(f"written to {options.out}. Next: gendyn sample {options.out}/{rows[-1]['stage']} --nfe {rows[-1]['nfe']}")
    return 0


def line(row: Row) -> str:
    """One row of the table."""
    bend = f"{row['straightness']:12.4g}" if "straightness" in row else " " * 12
    few = f"{row['rmse']:.4g} at {row['nfe']} call" + ("s" if row["nfe"] > 1 else "")
    return f"{row['stage']:20} {bend} {row['squared']:10.4g} {row['euclidean']:8.4g} {row['absolute']:8.4g} {few:>18}"


def bound(rows: list[Row]) -> list[str]:
    """The theorem's bound on the straightest of K flows, beside what was measured."""
    flows = [row for row in rows if "straightness" in row]
    last = flows[-1]
    verdict = "holds" if last["straightest"] <= last["bound"] else "FAILS: the velocities are not yet learned"
    return [
        f"straightest of {len(flows)}: {last['straightest']:.4g} <= {last['bound']:.4g}, the cost of independent pairs "
        f"over {len(flows)}: {verdict}"
    ]
