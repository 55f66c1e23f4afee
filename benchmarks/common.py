"""How a measurement is taken and what is written beside it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

RESULTS = pathlib.Path(__file__).parent / "results"
PACKAGES = ("gendyn", "jax", "jaxlib", "flax", "numpy")


def interleaved(functions: dict[str, Callable[[], Any]], repeats: int, warmup: int = 2) -> dict[str, np.ndarray]:
    """Seconds of each function, [repeats], timed in turn: a machine that slows down slows them all.

    The order is reversed in every other round, so that none is always the first after another. Results are waited for.
    """
    for _ in range(warmup):
        for function in functions.values():
            jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(repeats):
        names = list(functions) if i % 2 == 0 else list(reversed(functions))
        for name in names:
            start = time.perf_counter()
            jax.block_until_ready(functions[name]())
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "quartile_low": float(low), "quartile_high": float(high), "n": len(values)}


def record(name: str, results: dict[str, Any], settings: dict[str, Any]) -> pathlib.Path:
    """Write RESULTS/name.json: settings and results, with machine, versions, commit and command."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    written = {"results": results, "settings": settings, "machine": machine(), "versions": versions()}
    written |= {"commit": commit(), "command": command(), "date": datetime.date.today().isoformat()}
    path.write_text(json.dumps(written, indent=2) + "\n")
    return path


def recorded(name: str) -> dict[str, Any]:
    """The results in RESULTS/name.json."""
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


def machine() -> dict[str, Any]:
    """Processor, cores, devices, and how busy the machine was."""
    cpu = pathlib.Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}


def commit() -> str:
    """The commit, with a plus if files differ from it."""
    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()


def command() -> str:
    module = pathlib.Path(sys.argv[0]).stem
    return " ".join(["python -m", f"benchmarks.{module}", *sys.argv[1:]])
