"""Parametrisations, as multipliers of a parameter relative to the base network, at which all of them are 1.

    kind      init std        forward    learning rate: SGD      Adam, Lion, Adafactor    Muon
    input     1               1          m_out                   1                        1 (its Adam)
    vector    1               1          m_out                   1                        1 (its Adam)
    hidden    m_in^-1/2       1          m_out/m_in              1/m_in                   (m_out/m_in)^1/2
    output    1               1/m_in     m_in                    1                        1 (its Adam)
    scalar    1               1          1                       1                        1

is muP with a readout multiplier (Yang et al. 2022, arXiv:2203.03466, table 8); m_in and m_out are target over base of
the widths on the two sides. Every network function is unchanged under (forward c, init/c, Adam's rate/c, SGD's
rate/c^2), which gives the other forms. Muon: Bernstein's spectral condition (Yang et al. 2023, arXiv:2310.17813).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True)
class Multipliers:
    """Of initial standard deviation, kernel in the forward pass, learning rate, weight decay and Adam's eps."""

    init: float = 1.0
    forward: float = 1.0
    learning_rate: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


Rate = Callable[[str, float, float], float]
"""(kind, m_in, m_out) -> learning-rate multiplier under muP with a readout multiplier."""


def sgd(kind: str, m_in: float, m_out: float) -> float:
    return {"input": m_out, "vector": m_out, "hidden": m_out / m_in, "output": m_in, "scalar": 1.0}[kind]


def adam(kind: str, m_in: float, m_out: float) -> float:
    return 1 / m_in if kind == "hidden" else 1.0


def muon(kind: str, m_in: float, m_out: float) -> float:
    return sqrt(m_out / m_in) if kind == "hidden" else 1.0


@dataclass(frozen=True)
class Optimizer:
    """What a rule must know of an optimiser.

    Attributes:
        rate: learning-rate multipliers.
        power: its step is multiplied by c^power when all gradients are: 1 for SGD, 0 for what normalises them.
    """

    rate: Rate
    power: int


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(sgd, 1),
    "momentum": Optimizer(sgd, 1),
    "adam": Optimizer(adam, 0),
    "adamw": Optimizer(adam, 0),
    "lion": Optimizer(adam, 0),
    "adafactor": Optimizer(adam, 0),
    "muon": Optimizer(muon, 0),
}
"""Adafactor without parameter scaling; Muon with the orthogonal factor itself, and Adam for what is not hidden."""


def standard(kind: str, m_in: float, m_out: float, optimizer: Optimizer) -> Multipliers:
    """SP: initial variance 1/fan_in, one learning rate for all."""
    return Multipliers(init=m_in**-0.5 if kind in ("hidden", "output") else 1.0)


def ntk(kind: str, m_in: float, m_out: float, optimizer: Optimizer) -> Multipliers:
    """NTK (Jacot et al. 2018, arXiv:1806.07572): the 1/sqrt(fan_in) stands in the forward pass."""
    return Multipliers(forward=m_in**-0.5 if kind in ("hidden", "output") else 1.0)


def mup(kind: str, m_in: float, m_out: float, optimizer: Optimizer) -> Multipliers:
    """muP with a readout multiplier; gradients shrink as one over the width, and eps with them."""
    return Multipliers(
        init=m_in**-0.5 if kind == "hidden" else 1.0,
        forward=1 / m_in if kind == "output" else 1.0,
        learning_rate=optimizer.rate(kind, m_in, m_out),
        eps=1 / (m_in if kind == "output" else m_out),
    )


def mup_plain(kind: str, m_in: float, m_out: float, optimizer: Optimizer) -> Multipliers:
    """muP without multipliers in the forward pass: the readout's initial deviation and rate carry them."""
    form = mup(kind, m_in, m_out, optimizer)
    c = form.forward
    return Multipliers(
        init=form.init * c, learning_rate=form.learning_rate * c ** (1 + optimizer.power), eps=form.eps / c
    )


def weight_normalized(kind: str, m_in: float, m_out: float, optimizer: Optimizer) -> Multipliers:
    """muP of networks that keep their kernels at unit size and divide by sqrt(fan_in) themselves, as EDM2 does.

    Adam's rate of hidden kernels then falls as the inverse square root, as the published presets of EDM2 do (Karras et
    al. 2024, arXiv:2312.02696); the readout needs 1/sqrt(m_in) beside the network's own.
    """
    form = mup(kind, m_in, m_out, optimizer)
    own = m_in**-0.5 if kind in ("hidden", "output") else 1.0
    moved = own if kind == "hidden" else 1.0  # of the readout it is part of muP's own multiplier
    return Multipliers(
        init=form.init / moved,
        forward=form.forward / own if kind == "output" else 1.0,
        learning_rate=form.learning_rate / moved ** (1 + optimizer.power),
        eps=form.eps * moved,
    )


RULES: dict[str, Callable[[str, float, float, Optimizer], Multipliers]] = {
    "sp": standard,
    "ntk": ntk,
    "mup": mup,
    "mup_plain": mup_plain,
    "weight_normalized": weight_normalized,
}
"""Name -> (kind, m_in, m_out, optimizer) -> multipliers."""

LEARNING = ("mup", "mup_plain", "weight_normalized")
"""Rules under which features are learned at every width. They scale attention logits by one over the length of a head
(q and k are correlated then), and the depth by CompleteP unless told otherwise; the others leave both alone."""


def naive(kind: str, m_in: float, learning_rate: float) -> float:
    """One coefficient: what a step removes falls with the learning rate."""
    return 1.0


def independent(kind: str, m_in: float, learning_rate: float) -> float:
    """A step removes the same share at every width."""
    return 1 / learning_rate


def robust(kind: str, m_in: float, learning_rate: float) -> float:
    """Hidden kernels as sqrt(m_in), so that their top singular values match across widths; nothing else decays."""
    return sqrt(m_in) if kind == "hidden" else 0.0


DECAYS: dict[str, Callable[[str, float, float], float]] = {
    "naive": naive,
    "independent": independent,
    "robust": robust,
}
"""Name -> (kind, m_in, learning-rate multiplier) -> multiplier of the decoupled weight decay."""


@dataclass(frozen=True)
class Depth:
    """Residual branches times (depth over base depth)^-alpha, and what keeps the sum over blocks of their changes.

    The sum of L changes, each multiplied by L^-alpha, stays if Adam's rate goes as L^(alpha - 1) and SGD's, whose
    gradients carry the multiplier once more, as L^(2 alpha - 1). Gradients in the blocks shrink by the multiplier.
    """

    alpha: float

    def branch(self, m_depth: float) -> float:
        return m_depth**-self.alpha

    def rate(self, m_depth: float, power: int) -> float:
        return m_depth ** (self.alpha * (1 + power) - 1)


@dataclass(frozen=True)
class Unscaled(Depth):
    """Nothing changes with the depth: the usual network, whose residual stream grows with it."""

    alpha: float = 0.0

    def rate(self, m_depth: float, power: int) -> float:
        return 1.0


DEPTHS: dict[str, Depth] = {"completep": Depth(1.0), "depth_mup": Depth(0.5), "none": Unscaled()}
"""CompleteP (Dey et al. 2025, arXiv:2505.01618): every block goes on learning features however many there are.
Depth-muP (Yang et al. 2023, arXiv:2310.02244): branches by the square root."""
