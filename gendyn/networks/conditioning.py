"""What turns noise level and conditions into the vector that modulates every block, and the tokens that it attends to.

    vector = silu( W2 silu(W1 phi(label)) + sum of what is told ),    phi(label) = [cos(label w), sin(label w)]

The number of frequencies w is fixed, never tied to the width: features of the label are an input of the
network, and a wider network looks at the same input.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal
from jaxtyping import Array, Bool, Float, Int

from gendyn.conditions import present
from gendyn.distributed import constrain, gathered
from gendyn.networks.conditions import LABEL, Classes, Conditions, Image, Tokens, Vector, checked, named
from gendyn.networks.embeddings import per_example, sinusoids
from gendyn.networks.layers import Dense, parameter

# A standard deviation of the order of the noise-level vector's that rows are added to.
ROW = normal(0.3)


class Told(NamedTuple):
    """What every block is told."""

    vector: Float[Array, "#batch width"]
    tokens: Float[Array, "#batch count width"] | None = None
    there: Bool[Array, "#batch count"] | None = None


class ClassTable(nnx.Module):
    """A vector per class; the extra last row, number `num_classes`, is the null class of guidance."""

    def __init__(self, num_classes: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.table = parameter(rngs, ROW, (num_classes + 1, width), ("classes", "conditioning"))

    @property
    def null(self) -> int:
        return self.table.shape[0] - 1

    def __call__(self, cond: Int[Array, " batch"] | None, batch: int) -> Float[Array, "#batch width"]:
        rows = per_example("cond", self.null if cond is None else cond, batch)
        if not jnp.issubdtype(rows.dtype, jnp.integer):
            raise TypeError(f"cond holds integer classes 0 to {self.null} (the null class), got {rows.dtype}; cast it.")
        # "fill": a class out of range gives NaN; the default would silently take the last row.
        return constrain(jnp.take(gathered(self.table[...]), rows, axis=0, mode="fill"), "conditioning")


class Projection(nnx.Module):
    """W v + b for every vector along the last axis, or a learned row where it is absent."""

    def __init__(self, size: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.project = Dense(size, width, ("condition", "conditioning"), rngs=rngs)
        self.null = parameter(rngs, ROW, (width,), ("conditioning",))

    def __call__(self, value: Float[Array, "*rows size"]) -> Float[Array, "*rows width"]:
        there = present(value)[..., None]
        return jnp.where(there, self.project(jnp.where(there, value, 0.0)), self.null[...])


class Sequence(nnx.Module):
    """Tokens and a learned one after them, which of them are there, and perhaps their places."""

    def __init__(self, kind: Tokens, width: int, *, rngs: nnx.Rngs) -> None:
        if kind.positions not in (None, "learned"):
            raise ValueError(f'positions of tokens are "learned" or None, got {kind.positions!r}.')
        self.tokens = Projection(kind.size, width, rngs=rngs)
        learned = kind.positions == "learned"
        axes = ("position", "conditioning")
        self.positions = parameter(rngs, normal(0.02), (kind.length, width), axes) if learned else None

    def __call__(self, value: Float[Array, "batch length size"]) -> tuple[Array, Array]:
        value = jnp.pad(value, ((0, 0), (0, 1), (0, 0)), constant_values=jnp.nan)
        tokens, there = self.tokens(value), present(value).at[:, -1].set(True)
        return tokens if self.positions is None else tokens + jnp.pad(self.positions[...], ((0, 1), (0, 0))), there


class Conditioning(nnx.Module):
    """Noise level and conditions, embedded in float32.

    Args:
        width: of the vector and of the tokens.
        num_classes: None for a network without classes.
        time_features: sinusoids of the label; fixed, whatever the width.
        frequencies: lowest and highest angular frequency.
        conditions: what else the network is told, by name.
    """

    def __init__(
        self,
        width: int,
        num_classes: int | None,
        time_features: int,
        frequencies: tuple[float, float],
        conditions: Conditions | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if LABEL in (conditions or {}):
            raise ValueError('the condition "label" is that of num_classes=; give the other one another name.')
        self.time_features = time_features
        self.lowest, self.highest = frequencies
        self.level = Dense(time_features, width, ("time", "conditioning"), rngs=rngs)
        self.mix = Dense(width, width, ("conditioning", "conditioning"), rngs=rngs)
        self.classes = None if num_classes is None else ClassTable(num_classes, width, rngs=rngs)
        self.conditions = tuple((conditions or {}).items())
        made = {name: _embedding(kind, width, rngs) for name, kind in self.conditions}
        self.embeddings = nnx.Dict({name: module for name, module in made.items() if module is not None})

    def __call__(self, label: Any, cond: Any, batch: int) -> Told:
        """The vector has one row per example, or a single one when nothing differs between them (a scalar label)."""
        features = sinusoids(per_example("label", label, batch), self.time_features, (self.lowest, self.highest))
        vector, sequences = self.mix(jax.nn.silu(self.level(features))), []
        told = named(cond, dict(self.conditions))
        if self.classes is not None:
            vector = vector + self.classes(told.get(LABEL), batch)
        elif LABEL in told:
            raise ValueError("a class came, but the network was built without classes; build it with num_classes=.")
        for name, kind in self.conditions:
            if isinstance(kind, Classes):
                vector = vector + self.embeddings[name](told.get(name), batch)
            elif isinstance(kind, Vector):
                vector = vector + self.embeddings[name](_value(told, name, kind, batch))
            elif isinstance(kind, Tokens):
                sequences.append(self.embeddings[name](_value(told, name, kind, batch)))
        vector = jax.nn.silu(vector)
        return Told(vector, *_joined(sequences)) if sequences else Told(vector)

    def beside(self, x: Float[Array, "batch *grid channels"], cond: Any) -> Float[Array, "batch *grid more"]:
        """The data with the images that the network is told on further channels."""
        told = named(cond, dict(self.conditions))
        parts = [x]
        for name, kind in self.conditions:
            if isinstance(kind, Image):
                image = _value(told, name, kind, x.shape[0], x.shape[1:])
                image = jnp.where(present(image)[..., None], image, 0.0).astype(x.dtype)
                parts.append(jnp.broadcast_to(image, (x.shape[0], *image.shape[1:])))
        return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else x


def _embedding(kind: Any, width: int, rngs: nnx.Rngs) -> nnx.Module | None:
    match kind:
        case Classes(count):
            return ClassTable(count, width, rngs=rngs)
        case Vector(size):
            return Projection(size, width, rngs=rngs)
        case Tokens():
            return Sequence(kind, width, rngs=rngs)
        case Image():
            return None
    raise ValueError(f"a condition is Classes, Vector, Tokens or Image, got {kind!r}.")


def _value(told: dict[str, Any], name: str, kind: Any, batch: int, data: tuple[int, ...] = ()) -> Array:
    """What was told, or nothing, as an array of the kind's shape."""
    shape = kind.shape(data)
    return checked(name, told[name], shape, batch) if name in told else jnp.full((1, *shape), kind.null)


def _joined(sequences: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """All tokens as one sequence."""
    batch = max(len(tokens) for tokens, _ in sequences)
    whole = [jnp.broadcast_to(part, (batch, *part.shape[1:])) for pair in sequences for part in pair]
    return jnp.concatenate(whole[::2], axis=1), jnp.concatenate(whole[1::2], axis=1)
