"""What does pairing a batch cost, beside nothing at all?

Run:      python -m benchmarks.couplings
Takes:    about a minute on two CPU cores.
Measures: milliseconds per call of every jitted coupling, Gaussian base and data, in turn; median and quartiles.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

import jax
import tyro

from benchmarks.common import interleaved, record, spread
from gendyn.processes.couplings import COUPLINGS


@dataclass(frozen=True, kw_only=True)
class Config:
    """Milliseconds per batch of each coupling."""

    batches: tuple[int, ...] = (128, 256, 512)
    dims: tuple[int, ...] = (2, 784)
    repeats: int = 10
    seed: int = 0


def main(config: Config) -> None:
    results = {}
    for dim in config.dims:
        for n in config.batches:
            key, draws = jax.random.split(jax.random.key(config.seed))
            base, data = jax.random.normal(draws, (2, n, dim))
            calls = {name: partial(jax.jit(kind()), key, base, data) for name, kind in COUPLINGS.items()}
            for name, seconds in interleaved(calls, config.repeats).items():
                results[f"{name}, batch {n}, {dim} entries"] = row = spread(1e3 * seconds)
                print(f"{name:14} batch {n:4} dim {dim:4}  {row['median']:8.2f} ms")
    print(record("couplings", results, asdict(config)))


if __name__ == "__main__":
    main(tyro.cli(Config))
