"""What devices say to each other in a training step of DiT-XL/2, from its compiled program, and the cost on paper.

    python -m benchmarks.collectives                     (about ten minutes and a few GB on two cores)

The step is compiled for 8, 64 and 256 forced CPU devices, without memory for parameters or batches, at two depths; all
blocks are alike, so that depth 28 follows, and a third depth checks that it does. Collectives are counted in the
program's text (its loops have none) with the bytes of their results.

What a CPU's compiler cannot show: it has no reduce-scatter, so that gradients over fsdp appear as sums of whole arrays
(counted here as what a reduce-scatter moves, which is half); it does not overlap anything; it fuses otherwise.
The roofline takes peaks and links from the makers' data sheets, and no measurement of an accelerator is in it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import tyro

import gendyn as gd
from benchmarks import common
from gendyn.training import Experiment, abstract_state, costs
from gendyn.training.step import compiled_step, sharding_table

DEPTH = 28
LAYOUTS = ({"fsdp": 8}, {"fsdp": 64}, {"fsdp": 256}, {"data": 4, "fsdp": 64})
SIZES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "f16": 2, "s8": 1, "u8": 1, "s64": 8, "u64": 8}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
CHIPS = {
    "TPU v5e": {"flops": 197e12, "link": 200e9, "memory": 16e9},
    "TPU v5p": {"flops": 459e12, "link": 600e9, "memory": 95e9},
    "H100 SXM": {"flops": 989e12, "link": 450e9, "memory": 80e9},
}
"""Per chip: bfloat16 products per second, bytes per second to its neighbours (all links of a torus together; NVLink in
one direction, between GPUs of one node only), bytes of memory. From the makers' data sheets."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Compile the steps, count, and write the table."""

    per_device: int = 32
    """Examples per device."""
    depths: tuple[int, ...] = (1, 2, 3)
    """Compiled; the first two give the slope, the last one checks it."""


def experiment(depth: int, batch_size: int) -> Experiment:
    """DiT-XL/2 on 32x32x4 latents with a thousand classes, bfloat16, AdamW, one average."""
    network = gd.networks.dit("XL/2", (32, 32, 4), num_classes=1000, depth=depth, dtype=jnp.bfloat16)
    return Experiment(
        network=gd.networks.functional(network),
        objective=gd.objectives.Denoising(process=gd.processes.EDM(), drop=0.1, null=1000),
        source=lambda: None,
        shape=(32, 32, 4),
        num_classes=1000,
        batch_size=batch_size,
        steps=1,
        optimizer=gd.training.adamw(1e-4),
        ema=(0.1,),
    )


def counted(text: str, devices: int) -> dict[str, dict[str, float]]:
    """Collective -> how often it stands in a program, and the bytes that each device sends for it."""
    found = {name: {"count": 0, "bytes": 0.0} for name in COLLECTIVES}
    for line in text.splitlines():
        match = re.search(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", line)
        if match is None:
            continue
        shapes, name = match.groups()
        size = sum(
            SIZES[kind] * math.prod(int(d) for d in dims.split(",") if d)
            for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
            if kind in SIZES
        )
        group = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
        ways = int(group[2]) if group else devices
        found[name]["count"] += 1
        found[name]["bytes"] += size * (ways - 1) / ways
    return found


def program(depth: int, layout: dict[str, int], per_device: int) -> dict[str, Any]:
    """The counts of one depth, and the compiled memory of a device."""
    devices = math.prod(layout.values())
    mesh = gd.distributed.make_mesh(**layout, devices=jax.devices()[:devices])
    made = experiment(depth, per_device * devices)
    batch = costs.abstract_batch(made, made.batch_size)
    compiled = compiled_step(made, mesh).lower(abstract_state(made), batch).compile()
    text = compiled.as_text()
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))  # of the generator of random numbers
    for block in re.split(r"\n(?=\S)", text):
        name = re.match(r"%?([\w.\-]+)", block)
        if name and name[1] in bodies and any(kind["count"] for kind in counted(block, devices).values()):
            raise ValueError(f"the loop {name[1]} has collectives, which would be counted once.")
    memory = compiled.memory_analysis()
    return {"collectives": counted(text, devices), "temporary": int(memory.temp_size_in_bytes)}


def extrapolated(per_depth: dict[int, dict[str, Any]], depths: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """The counts at `DEPTH`, from the first two depths."""
    low, high = (per_depth[depth]["collectives"] for depth in depths[:2])
    step = depths[1] - depths[0]
    line = lambda a, b, at: a + (b - a) * (at - depths[0]) / step
    for depth in depths[2:]:
        for name, kinds in per_depth[depth]["collectives"].items():
            wanted = line(low[name]["count"], high[name]["count"], depth)
            if kinds["count"] != wanted:
                raise ValueError(f"{name} at depth {depth}: {kinds['count']}, and {wanted} by the line.")
    return {name: {k: line(low[name][k], high[name][k], DEPTH) for k in ("count", "bytes")} for name in COLLECTIVES}


def estimate(layout: dict[str, int], found: dict[str, dict[str, float]], per_device: int) -> dict[str, Any]:
    """Seconds of computing and of sending per step and chip, and the largest model whose state fits."""
    devices = math.prod(layout.values())
    made = experiment(DEPTH, per_device * devices)
    flops = costs.step_flops(experiment(DEPTH, per_device))
    # A sum over fsdp becomes a reduce-scatter (one pass); one over data needs two.
    sums = found["all-reduce"]["bytes"] * (1 if layout.get("data", 1) == 1 else 2)
    sent = sums + sum(found[name]["bytes"] for name in COLLECTIVES if name != "all-reduce")
    table, state = sharding_table(made, gd.distributed.abstract_mesh(**layout)), abstract_state(made)
    own = table.bytes_per_device((state.params, state.opt_state, state.ema)) + table.bytes_per_device(state.params)
    parameters = sum(a.size for a in jax.tree.leaves(state.params))
    chips = {}
    for name, chip in CHIPS.items():
        computing, sending = flops / chip["flops"], sent / chip["link"]
        chips[name] = {
            "computing_ms": 1e3 * computing,
            "sending_ms": 1e3 * sending,
            "largest_mfu_if_overlapped": computing / max(computing, sending),
            "largest_mfu_if_not": computing / (computing + sending),
            "parameters_that_fit": 0.5 * chip["memory"] / own * parameters,
        }
    return {"parameters": parameters, "state_bytes_per_device": own, "flops_per_device": flops, "sent": sent, **chips}


def main(settings: Settings) -> None:
    jax.config.update("jax_num_cpu_devices", max(math.prod(layout.values()) for layout in LAYOUTS))
    results = {}
    for layout in LAYOUTS:
        per_depth = {depth: program(depth, layout, settings.per_device) for depth in settings.depths}
        found = extrapolated(per_depth, settings.depths)
        name = " x ".join(f"{axis} {size}" for axis, size in layout.items())
        results[name] = {"collectives": found, "compiled": per_depth, **estimate(layout, found, settings.per_device)}
        counts = ", ".join(f"{each} {v['count']:g} ({v['bytes'] / 1e9:.2f} GB)" for each, v in found.items())
        print(f"{name}: {counts}", flush=True)
        for chip in CHIPS:
            print(f"  {chip}: " + ", ".join(f"{k} {v:.3g}" for k, v in results[name][chip].items()), flush=True)
    print(common.record("collectives", results, dataclasses.asdict(settings)))


if __name__ == "__main__":
    main(tyro.cli(Settings))
