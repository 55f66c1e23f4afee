"""What the EDM family is told: noise level, class and augmentation label, made into one vector."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import normal, zeros
from jaxtyping import Array, Float

from gendyn.networks.edm_layers import XAVIER, dense
from gendyn.networks.edm_layout import Family
from gendyn.networks.embeddings import per_example
from gendyn.networks.layers import Dense, parameter


class Conditions(NamedTuple):
    """What a network of the family is told besides the noise level."""

    classes: Any = None
    augment: Any = None

    @classmethod
    def of(cls, cond: Any) -> "Conditions":
        if not isinstance(cond, Mapping):
            return cls(classes=cond)
        if unknown := sorted(set(cond) - set(cls._fields)):
            raise ValueError(f'cond may name "classes" and "augment", got {unknown[0]!r}; leave it out.')
        return cls(**cond)


class Conditioning(nnx.Module):
    """The vector that modulates every block, from noise level, class and augmentation label, in float32."""

    def __init__(
        self, family: Family, width: int, outputs: int, num_classes: int | None, augment: int, *, rngs: nnx.Rngs
    ) -> None:
        self.family, self.features, self.num_classes, self.length = (
            family,
            family.features * width,
            num_classes,
            augment,
        )
        inner = ("conditioning", "conditioning")
        if family.embedding == "fourier":
            self.frequencies = parameter(rngs, normal(16.0), (self.features // 2,), ("conditioning",))
        before = family.classes == "before"
        if num_classes is not None:
            self.classes = Dense(
                num_classes,
                self.features if before else outputs,
                ("classes", "conditioning"),
                init=XAVIER if before else normal(1.0),
                bias=zeros if before else None,
                rngs=rngs,
            )
        if augment:
            axes = ("augment", "conditioning")
            init = XAVIER if family.initial == "xavier" else zeros
            self.augment = Dense(augment, self.features, axes, init=init, bias=None, rngs=rngs)
        self.level = dense(family, self.features, outputs, inner, rngs=rngs)
        self.mix = dense(family, outputs, outputs, inner, rngs=rngs)

    def __call__(self, label: Any, cond: Any, batch: int) -> Float[Array, "#batch width"]:
        """One row per example, or a single row when nothing differs between examples."""
        told = Conditions.of(cond)
        features = self._features(per_example("label", label, batch).astype(jnp.float32))
        classes = self._classes(told.classes, batch)
        features = features + self._augment(told.augment, batch)
        if self.family.classes == "before":
            return jax.nn.silu(self.mix(jax.nn.silu(self.level(features + classes))))
        return jax.nn.silu(self.mix(jax.nn.silu(self.level(features))) + classes)

    def _features(self, label: Array) -> Array:
        frequencies: Any
        if self.family.embedding == "fourier":
            frequencies = 2 * np.pi * jax.lax.stop_gradient(self.frequencies[...])
        else:
            frequencies = positional(self.features // 2, endpoint=self.family.embedding == "endpoint")
        angles = label[:, None] * frequencies
        waves = jnp.sin(angles), jnp.cos(angles)
        return jnp.concatenate(waves if self.family.order == "sincos" else waves[::-1], axis=-1)

    def _classes(self, classes: Any, batch: int) -> Any:
        if self.num_classes is None:
            if classes is None:
                return 0.0
            raise ValueError("a class came, but the network was built without classes; build it with num_classes=.")
        rows = one_hot(classes, self.num_classes, batch)
        return self.classes(rows * self.num_classes**0.5 if self.family.classes == "before" else rows)

    def _augment(self, label: Any, batch: int) -> Any:
        if label is None:
            return 0.0
        if not self.length:
            raise ValueError("an augmentation label came, but the network was built without; build it with augment=.")
        if jnp.shape(label) not in ((batch, self.length), (1, self.length)):
            raise ValueError(f"the augmentation label is [{batch}, {self.length}], got {list(jnp.shape(label))}.")
        return self.augment(jnp.asarray(label))


def one_hot(classes: Any, count: int, batch: int) -> Float[Array, "#batch count"]:
    """Classes as rows: zeros for class `count` or None, NaN for a class out of range; rows stay as they are."""
    classes = jnp.asarray(count if classes is None else classes)
    if jnp.issubdtype(classes.dtype, jnp.floating) and classes.shape in ((batch, count), (1, count)):
        return classes.astype(jnp.float32)
    rows = per_example("cond", classes, batch)
    if not jnp.issubdtype(rows.dtype, jnp.integer):
        raise TypeError(
            f"cond holds integer classes 0 to {count} (no class) or float rows [batch, {count}], got {rows.dtype} "
            f"{list(classes.shape)}; cast it."
        )
    known = (rows >= 0) & (rows <= count)
    return jnp.where(known[:, None], jax.nn.one_hot(rows, count), jnp.nan)


def positional(count: int, *, endpoint: bool) -> Float[np.ndarray, " count"]:
    """10000^(-i/(count - 1)) with the endpoint, 10000^(-i/count) without."""
    # In float32 throughout, as the published networks were trained: at label 1000 a better table would differ.
    powers = np.arange(count, dtype=np.float32) / np.float32(max(count - endpoint, 1))
    return np.float32(1 / 10000) ** powers
