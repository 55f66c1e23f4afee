"""Learning-rate schedules by name, and the usual optimiser."""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax.numpy as jnp
import optax

Schedule: TypeAlias = Literal["constant", "cosine", "inverse_sqrt", "wsd", "power"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine", "inverse_sqrt", "wsd", "power")
POWER = -0.51
"""Exponent of the power schedule."""


def schedule(
    name: Schedule,
    learning_rate: float,
    *,
    steps: int,
    warmup: int = 0,
    final: float = 0.0,
    reference: int | None = None,
    cooldown: int | None = None,
) -> optax.Schedule:
    """Linear warm-up from zero over `warmup` steps (a shorter run ends inside it), then one of

        constant      learning_rate
        cosine        from learning_rate to final * learning_rate at `steps`, half a cosine
        inverse_sqrt  learning_rate / sqrt(max(step/reference, 1)): EDM2 (Karras et al. 2024, arXiv 2312.02696), eq. 67;
                      reference defaults to the warm-up, or a tenth of the run
        wsd           learning_rate, and over the last `cooldown` steps (a tenth of the run) down a line to final *
                      learning_rate: warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395)
        power         learning_rate * max(step/reference, 1)^-0.51, times the same line at the end: the power scheduler
                      (Shen et al. 2024, arXiv 2408.13359), whose rate before `reference` is its upper limit

    >>> float(schedule("cosine", 1.0, steps=100, warmup=10)(5))
    0.5
    >>> float(schedule("wsd", 1.0, steps=100, cooldown=20)(90))
    0.5
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(SCHEDULES)}.")
    if warmup < 0:
        raise ValueError(f"warmup must be zero or positive; got {warmup}.")
    if name == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, max(steps - warmup, 1), alpha=final)
        return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), after], [warmup])
    flat_until = reference or warmup or max(steps // 10, 1)
    last = max(steps // 10, 1) if cooldown is None else cooldown
    if not 0 <= last <= steps:
        raise ValueError(f"cooldown is part of the {steps} steps; got {last}.")
    power = {"inverse_sqrt": -0.5, "power": POWER}.get(name, 0.0)
    begin = max(steps - last, min(warmup, steps))
    end = final if name in ("wsd", "power") and begin < steps else 1.0

    def rate(step):
        ramp = jnp.minimum(step / warmup, 1.0) if warmup else 1.0
        fall = jnp.maximum(step / flat_until, 1.0) ** power
        done = jnp.clip((step - begin) / max(steps - begin, 1), 0.0, 1.0)
        return learning_rate * ramp * fall * (1 - (1 - end) * done)

    return rate


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay behind a global-norm clip (None: no clip)."""
    chain = [] if clip is None else [optax.clip_by_global_norm(clip)]
    return optax.chain(*chain, optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay))
