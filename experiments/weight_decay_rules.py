"""Does one weight decay serve a perceptron of every width, and under which rule?

Run:      gendyn transfer weight_decay_rules --over width=64,128,256,512 --sweep weight_decay=2^-6..2^4
          gendyn transfer weight_decay_rules --over width=64,128,256,512 --sweep weight_decay=2^-6..2^4 --decay naive \
              --out transfer/decay_naive
          gendyn transfer weight_decay_rules --over width=64,128,256,512 --sweep weight_decay=2^-6..2^4 --decay robust \
              --out transfer/decay_robust
          gendyn train weight_decay_rules --from-transfer transfer/weight_decay_rules
Takes:    not measured yet.
Expect:   not measured yet.
Writes:   transfer/weight_decay_rules: the table of all runs, the figure, and the best weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments import transfer_mlp


@dataclass(frozen=True, kw_only=True)
class Config(transfer_mlp.Config):
    """transfer_mlp with decoupled weight decay on a small training set, which it can overfit."""

    weight_decay: float = 0.1
    learning_rate: float = 2**-7
    steps: int = 600
