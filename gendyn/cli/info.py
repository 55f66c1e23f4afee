"""gendyn info: what a run is made of."""

from __future__ import annotations

import dataclasses

import jax
import tyro
from etils import epath

from gendyn import distributed
from gendyn.cli.common import parse
from gendyn.training import Checkpoints, Experiment, abstract_state, costs, read_experiment, read_metrics
from gendyn.training.runs import stored_config
from gendyn.training.step import sharding_table
from gendyn.tree import paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info:
    """Config, versions, progress, checkpoints and parameters of a run."""

    run: tyro.conf.Positional[str]
    """Run directory, local or gs://."""
    parameters: bool = False
    """List every parameter with shape, axes and role."""
    costs: bool = False
    """Count the floating-point operations and bytes of a network call and of a training step (this compiles one)."""
    mesh: str = ""
    """List where every parameter would lie on such a mesh, for example data=2,fsdp=4, and the bytes per device."""


def run(argv: list[str]) -> int:
    """Print what a run is made of; exit status."""
    options: Info = parse(Info, argv, prog="gendyn info", description=Info.__doc__ or "")
    folder, sizes = epath.Path(options.run), distributed.parse_mesh(options.mesh)
    experiment = read_experiment(folder)
    described = stored_config(folder)
    abstract = jax.eval_shape(experiment.network.init, jax.random.key(0))
    rows = read_metrics(folder)
    steps = Checkpoints(folder / "checkpoints", read_only=True).steps() if (folder / "checkpoints").exists() else []
    print(f"{folder}")
    for name, value in described["config"].items():
        print(f"  {name} = {value!r}")
    if round := described.get("round"):
        print(f"round       {', '.join(f'{k} {v}' for k, v in round.items() if v is not None)}")
    print(f"process     {experiment.process}")
    print(f"data        {tuple(experiment.shape)}, classes {experiment.num_classes}")
    print(f"parameters  {sum(a.size for a in jax.tree.leaves(abstract)):,}")
    print(f"versions    {', '.join(f'{k} {v}' for k, v in described['versions'].items())}")
    print(f"devices     {described['devices']}")
    print(f"checkpoints {', '.join(map(str, steps)) or 'none yet'} of {experiment.steps} steps")
    if rows:
        last = rows[-1]
        print("last row    " + ", ".join(f"{k} {v:.5g}" for k, v in last.items()))
    if options.parameters:
        print(_table(abstract, experiment.network.axes, experiment.network.roles))
    if options.costs:
        print(_costs(experiment))
    if sizes:
        print(_placed(experiment, sizes))
    return 0


def _costs(experiment: Experiment) -> str:
    """Operations of products and convolutions, and bytes, one device."""
    state = abstract_state(experiment)
    parts = {"parameters": state.params, "optimiser": state.opt_state, "averages": state.ema}
    held = {name: sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree)) for name, tree in parts.items()}
    held["activations and gradients of a step"] = costs.step_memory(experiment)
    call, step = costs.call_flops(experiment), costs.step_flops(experiment)
    return (
        f"network call {call:,} FLOPs per example\n"
        f"step        {step:,} FLOPs for a batch of {experiment.batch_size}\n"
        f"MiB         {', '.join(f'{name} {size / 2**20:.1f}' for name, size in held.items())}"
    )


def _placed(experiment: Experiment, sizes: dict[str, int]) -> str:
    """The sharding table on a mesh that need not exist, and what a device would hold of the training state."""
    mesh = distributed.abstract_mesh(**sizes)
    distributed.check_divisible(experiment.batch_size, mesh, experiment.accumulate)
    table, state = sharding_table(experiment, mesh), abstract_state(experiment)
    parts = {"parameters": state.params, "optimiser": state.opt_state, "averages": state.ema}
    each = ", ".join(f"{name} {table.bytes_per_device(tree) / 2**20:.1f}" for name, tree in parts.items())
    return f"{table}\n{mesh.size} devices, MiB on each: {each}; gradients as parameters, activations not included"


def _table(abstract: object, axes: object, roles: object) -> str:
    """One aligned line per parameter."""
    names = dict(paths(axes, is_leaf=lambda node: isinstance(node, tuple))) if axes else {}
    kinds = dict(paths(roles)) if roles else {}
    rows = [(p, str(tuple(a.shape)), " ".join(names.get(p, ())), kinds.get(p, "-")) for p, a in paths(abstract)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows)
