"""Does one learning rate serve a residual perceptron of every depth, under CompleteP?

Run:      gendyn transfer transfer_depth --over depth=2,4,8,16,32 --base 2
          gendyn transfer transfer_depth --over depth=2,4,8,16,32 --base 2 --depth-rule depth_mup --out transfer/mup
          gendyn transfer transfer_depth --over depth=2,4,8,16,32 --base 2 --depth-rule none --out transfer/none
          gendyn train transfer_depth --from-transfer transfer/transfer_depth
Takes:    ten minutes of two CPU cores shared with other work for 240 runs of 300 steps.
Expect:   the best learning rate shifts by -0.02 +- 0.01 octaves per doubling of the depth under CompleteP
          and by -0.12 +- 0.04 without a rule (docs/explanation/transfer.md).
Writes:   transfer/transfer_depth: the table of all runs, the figure, and the best learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments import transfer_mlp


@dataclass(frozen=True, kw_only=True)
class Config(transfer_mlp.Config):
    """transfer_mlp at width 64, ten times as deep."""

    depth: int = 20
    steps: int = 300
