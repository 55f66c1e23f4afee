"""How does the number of extra dimensions D of PFGM++ trade robustness for accuracy?

Run:      for D in 64 128 2048 inf; do gendyn train pfgmpp_digits --D $D --out runs/pfgmpp/$D; done
          python -m benchmarks.pfgmpp_robustness --runs runs/pfgmpp     (trains what is missing, then measures)
Takes:    about 5 minutes a run on two CPU cores, and some 10 minutes of measuring.
Expect:   docs/explanation/pfgmpp_robustness.md has the tables: Frechet distance and class agreement
          by D under injected errors, coarse steps and quantised weights.
Writes:   RUN/samples/*.png while training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments import digits_dynamics


@dataclass(frozen=True, kw_only=True)
class Config(digits_dynamics.Config):
    """EDM's recipe at every D: only the noise and the prior change."""

    dynamics: Literal["pfgmpp"] = "pfgmpp"
