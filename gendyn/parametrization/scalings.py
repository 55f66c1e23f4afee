"""What an optimiser's name stands for: the transformation of gradients that a table's multipliers are meant for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from gendyn.parametrization.table import ParamTable


def muon(table: ParamTable) -> optax.GradientTransformation:
    """The orthogonal factor of the momentum for hidden kernels, and Adam for all others.

    Jordan et al. 2024, "Muon". A kernel's last axis is its fan-out and all others are contracted, so that convolutions
    are orthogonalised as the matrices they are. Other implementations multiply by a factor of the shape: the
    table's (m_out/m_in)^1/2 takes its place.
    """
    kinds = {row.path: "muon" if row.kind == "hidden" else "adam" for row in table.rows}
    labels = lambda params: table.named(kinds, params)

    def as_matrices(updates: Any) -> Any:
        return jax.tree.map(
            lambda u: optax.contrib.MuonDimensionNumbers(tuple(range(u.ndim - 1)), (u.ndim - 1,)), updates
        )

    orthogonal = optax.contrib.scale_by_muon(weight_dimension_numbers=as_matrices)
    return optax.partition({"muon": orthogonal, "adam": optax.scale_by_adam()}, labels)


def adafactor(table: ParamTable) -> optax.GradientTransformation:
    """Without parameter scaling, which would change the exponents (Shazeer and Stern 2018, arXiv:1804.04235)."""
    return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))


SCALINGS: dict[str, Callable[[ParamTable], optax.GradientTransformation]] = {
    "sgd": lambda table: optax.identity(),
    "momentum": lambda table: optax.trace(0.9),
    "adam": lambda table: optax.scale_by_adam(),
    "adamw": lambda table: optax.scale_by_adam(),
    "lion": lambda table: optax.scale_by_lion(),
    "adafactor": adafactor,
    "muon": muon,
}
"""Name in `rules.OPTIMIZERS` -> table -> gradients as that optimiser changes them, before learning rate and decay."""
