"""Any objective on augmented data, with a network that is told of the augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.objectives.denoising import training_mode
from gendyn.predictions import Denoiser
from gendyn.tree import pytree, static


@pytree
class Augmented:
    """An objective on data that were augmented inside the training step, as the network is told by a label.

    The condition that the network sees in training is {"classes": cond, "augment": label}. The label is never dropped
    with the classes: for guidance, too, the network must know what was done. Sampling leaves it out, which to a
    network without a bias there is the label 0, not augmented.

    Args:
        objective: reads data and condition only; a pair would lose its partner when one end is moved.
        augment: (key, data) -> (data, label [batch, labels]), for example `gendyn.data.Augmentation`.

    Raises:
        ValueError: an objective of pairs.

    Karras et al. 2022, arXiv:2206.00364, appendix F.2.

    Example:
        >>> import gendyn as gd, jax, jax.numpy as jnp
        >>> plain = gd.objectives.Denoising(process=gd.processes.EDM())
        >>> loss = gd.objectives.Augmented(objective=plain, augment=gd.data.Augmentation(p=0.12))
        >>> apply = lambda params, x, label, cond: params * x + cond["augment"].mean()
        >>> per_example, aux = loss(apply, jnp.float32(0), jax.random.key(0), jnp.zeros((4, 8, 8, 3)), None)
        >>> per_example.shape
        (4,)
    """

    objective: Any
    augment: Callable[[PRNGKeyArray, Array], tuple[Array, Array]] = static()

    def __post_init__(self) -> None:
        needs = getattr(self.objective, "needs", ())  # nothing to check where a tree is rebuilt around other leaves
        if pairs := [name for name in needs if name != "step"]:
            raise ValueError(
                f"augmentation would move the data and not the {', '.join(pairs)} that belongs to them; "
                "use an objective of data alone, or transforms= that move both."
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """Entries of a batch, besides data and label, that the objective reads."""
        return tuple(getattr(self.objective, "needs", ()))

    @property
    def process(self) -> Any:
        return self.objective.process

    def __call__(
        self,
        network: Any,
        params: Any,
        key: PRNGKeyArray,
        data: Float[Array, "batch *data"],
        cond: Any = None,
        **more: Any,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        key, key_augment = jax.random.split(key)
        data, label = self.augment(key_augment, data)
        return self.objective(_Told(network, label), params, key, data, cond, **more)

    def denoiser(self, apply: Callable[..., Any], params: Any) -> Denoiser:
        """The denoiser that this objective trains, of data that were not augmented."""
        return self.objective.denoiser(apply, params)


@dataclass(frozen=True)
class _Told:
    """A network in training mode that also sees the augmentation label."""

    network: Any
    label: Array

    def train(self, params: Any, x: Array, label: Any, cond: Any, key: PRNGKeyArray) -> Any:
        told = dict(cond) if isinstance(cond, Mapping) else {"classes": cond}
        return training_mode(self.network, key)(params, x, label, told | {"augment": self.label})
