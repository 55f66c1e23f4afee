"""What to change when the batch or the length of a run changes; widths and depths are the table's business.

Rules of thumb, not laws: each says what it holds constant. Check with `gendyn transfer ... --over batch_size=...` or
`--over steps=...`.
"""

from __future__ import annotations

from typing import Literal

POWERS = {"sgd": 1.0, "adam": 0.5}


def rate_for_batch(
    learning_rate: float, batch: float, new_batch: float, critical: float, optimizer: Literal["sgd", "adam"] = "adam"
) -> float:
    """The learning rate at another batch size: proportional to 1/(1 + critical/batch), for Adam to its square root.

    Far below the critical batch it grows as the batch (Adam: as its square root), far above it stays: McCandlish et
    al. 2018 (arXiv:1812.06162), and Malladi et al. 2022 (arXiv:2205.10287) for Adam's root.

    Args:
        critical: from `noise_scale`, in examples.

    Example:
        >>> rate_for_batch(1e-3, 64, 256, critical=1e12)
        0.002
    """
    if min(batch, new_batch) <= 0 or critical < 0:
        raise ValueError(f"batches are positive, a critical batch is not negative; got {batch, new_batch, critical}.")
    return _rounded(learning_rate * ((1 + critical / batch) / (1 + critical / new_batch)) ** POWERS[optimizer])


def _rounded(value: float) -> float:
    """Without the last digits that arithmetic leaves behind."""
    return float(f"{value:.9g}")


def timescale(learning_rate: float, weight_decay: float) -> float:
    """Steps over which decoupled decay forgets: 1/(learning_rate * weight_decay), as an average of updates.

    Wang and Aitchison 2024 (arXiv:2405.13698). Runs that share it have overlapping curves late in training.

    >>> timescale(1e-3, 0.1)
    10000.0
    """
    return _rounded(1 / (learning_rate * weight_decay))


def decay_for_horizon(weight_decay: float, steps: int, new_steps: int) -> float:
    """The weight decay at another length, the learning rate unchanged: the timescale stays the same part of the run.

    >>> decay_for_horizon(0.1, 1000, 4000)
    0.025
    """
    if min(steps, new_steps) < 1:
        raise ValueError(f"a run has one step or more; got {steps} and {new_steps}.")
    return _rounded(weight_decay * steps / new_steps)


def decay_for_rate(weight_decay: float, learning_rate: float, new_learning_rate: float) -> float:
    """The weight decay at another learning rate: their product, the effective rate of the late run, stays the same.

    >>> decay_for_rate(0.1, 1e-3, 2e-3)
    0.05
    """
    if min(learning_rate, new_learning_rate) <= 0:
        raise ValueError(f"learning rates are positive; got {learning_rate} and {new_learning_rate}.")
    return _rounded(weight_decay * learning_rate / new_learning_rate)
