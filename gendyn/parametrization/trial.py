"""What is trained at one size, and its step: shared by the coordinate check and by sweeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import optax
from jaxtyping import Array, PRNGKeyArray


@dataclass(frozen=True)
class Trial:
    """What is trained at one size.

    Attributes:
        network: its init(key) and apply(params, *inputs).
        loss: (network, params, key, batch) -> a number.
        optimizer: an optax transformation, learning rate included.
        score: (network, params) -> numbers by name, of which "score" is what a sweep minimises; the same draws every
            time. A coordinate check needs none.
    """

    network: Any
    loss: Callable[[Any, Any, PRNGKeyArray, Any], Array]
    optimizer: optax.GradientTransformation
    score: Callable[[Any, Any], dict[str, Array]] | None = None

    def start(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """Parameters and the optimiser's state."""
        params = self.network.init(key)
        return params, self.optimizer.init(params)

    def update(self, params: Any, state: Any, key: PRNGKeyArray, batch: Any) -> tuple[Any, Any, Array]:
        """One step: (parameters, state, loss before it)."""
        loss, gradient = jax.value_and_grad(partial(self.loss, self.network))(params, key, batch)
        updates, state = self.optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss


def keys(key: PRNGKeyArray) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Of the parameters and of the run, whose step k draws from fold_in(run, k): as `gendyn train` does."""
    params, run = jax.random.split(key)
    return params, run
