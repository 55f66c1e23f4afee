"""The augmentation of the EDM release: random moves of a picture, and nine numbers that tell the network of them.

A network that is told how its picture was moved need not learn to draw moved pictures: sampling tells it zeros.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.data.warping import warp
from gendyn.tree import constant, expand, pytree

LABELS = 9
"""Length of an augmentation label."""
OCTAVES = 0.2
"""Standard deviation of scales, in powers of two."""
SHIFT = 0.125
"""Standard deviation of translations, in sides of the picture."""


@pytree
class Moves:
    """What is done to each picture of a batch; all zeros is nothing.

    Attributes:
        mirror_x, mirror_y: 1 to exchange left and right, top and bottom.
        zoom: w of the scale 2^(0.2 w).
        angle: of the rotation, in radians, against the clock.
        stretch, tilt: w and r of the scales 2^(0.2 w) along and 2^(-0.2 w) across the direction r above x.
        shift: (w_x, w_y) of the translation, in eighths of the sides.

    Karras et al. 2022, arXiv:2206.00364, table 6.
    """

    mirror_x: Float[Array, " batch"]
    mirror_y: Float[Array, " batch"]
    zoom: Float[Array, " batch"]
    angle: Float[Array, " batch"]
    stretch: Float[Array, " batch"]
    tilt: Float[Array, " batch"]
    shift: Float[Array, "batch 2"]

    def labels(self) -> Float[Array, "batch 9"]:
        """Mirrors, zoom, cos(angle) - 1, sin(angle), stretch (cos tilt, sin tilt), shift, in the published order.

        (w, r) and (-w, r + pi) stretch in opposite ways under one label: so it was published, and trained.
        """
        turn = jnp.cos(self.angle) - 1, jnp.sin(self.angle)
        stretch = self.stretch * jnp.cos(self.tilt), self.stretch * jnp.sin(self.tilt)
        columns = (self.mirror_x, self.mirror_y, self.zoom, *turn, *stretch, *self.shift.T)
        return jnp.stack(columns, axis=1)

    def inverse(self, height: int, width: int) -> Float[Array, "batch 3 3"]:
        """The affine map from a place in the moved (but not yet mirrored) picture to where it came from, in pixels."""
        scale, stretch = jnp.exp2(-OCTAVES * self.zoom), jnp.exp2(-OCTAVES * self.stretch)
        sides = SHIFT * jnp.array([width, height], jnp.float32)
        factors = (
            _scaled(scale, scale),
            _turned(self.angle),
            _turned(-self.tilt),
            _scaled(stretch, 1 / stretch),
            _turned(self.tilt),
            _shifted(-self.shift * sides),
        )
        product = factors[0]
        for factor in factors[1:]:
            product = jnp.matmul(product, factor, precision="highest")
        # A tilt without a stretch leaves rounding; what was not moved is the identity exactly.
        still = (self.zoom == 0) & (self.angle == 0) & (self.stretch == 0) & jnp.all(self.shift == 0, axis=1)
        return jnp.where(still[:, None, None], jnp.eye(3), product)

    def __call__(
        self, data: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """The pictures, mirrored exactly and then moved by one affine map."""
        data = jnp.where(expand(self.mirror_x == 1, data), data[:, :, ::-1], data)
        data = jnp.where(expand(self.mirror_y == 1, data), data[:, ::-1], data)
        return warp(data, self.inverse(*data.shape[1:3]))


@constant
class Augmentation:
    """Random moves, each of which happens to a picture with probability p times its factor: (data, label).

    Args:
        p: 0.12 for the published CIFAR-10 networks, 0.15 for FFHQ and AFHQv2; 0 changes nothing.
        mirror_x, mirror_y: factors; a mirror that may happen then does so in one half of the cases.
        zoom, angle, stretch, shift: factors.

    The default mirrors left and right in one half of the pictures at every p > 0, as published.
    Pass it to `gendyn.objectives.Augmented`, with a network built with augment=9.

    >>> data = jnp.ones((4, 8, 8, 3))
    >>> moved, label = Augmentation(p=0.12)(jax.random.key(0), data)
    >>> moved.shape, label.shape
    ((4, 8, 8, 3), (4, 9))
    """

    p: float = 0.12
    mirror_x: float = 1e8
    mirror_y: float = 1.0
    zoom: float = 1.0
    angle: float = 1.0
    stretch: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p is a probability; got {self.p}.")
        for name in ("mirror_x", "mirror_y", "zoom", "angle", "stretch", "shift"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is a factor of the probability, at least 0; got {getattr(self, name)}.")

    def __call__(
        self, key: PRNGKeyArray, data: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch 9"]]:
        if data.ndim != 4:
            raise ValueError(f"augmentation needs pictures [batch, height, width, channels], got {list(data.shape)}.")
        moves = self.draw(key, len(data))
        return moves(data), moves.labels()

    def draw(self, key: PRNGKeyArray, n: int) -> Moves:
        """Moves of n pictures."""
        key_mirrors, key_normals, key_coins, *keys = jax.random.split(key, 9)
        gates = iter(keys)

        def gated(factor: float, values: Array) -> Array:
            happens = jax.random.uniform(next(gates), (n,)) < factor * self.p
            return jnp.where(expand(happens, values), values, 0.0)

        mirrors = jax.random.bernoulli(key_mirrors, 0.5, (2, n)).astype(jnp.float32)
        normals = jax.random.normal(key_normals, (n, 4))
        coins = jax.random.uniform(key_coins, (3, n))
        angle, tilt = math.pi * (2 * coins[:2] - 1)
        return Moves(
            mirror_x=gated(self.mirror_x, mirrors[0]),
            mirror_y=gated(self.mirror_y, mirrors[1]),
            zoom=gated(self.zoom, normals[:, 0]),
            angle=gated(self.angle, angle),
            stretch=gated(self.stretch, normals[:, 1]),
            tilt=jnp.where(coins[2] < 0.5, tilt, 0.0),
            shift=gated(self.shift, normals[:, 2:]),
        )


def _matrices(a: Array, b: Array, x: Array, c: Array, d: Array, y: Array) -> Float[Array, "batch 3 3"]:
    """[[a, b, x], [c, d, y], [0, 0, 1]], one per example."""
    zero, one = jnp.zeros_like(a), jnp.ones_like(a)
    return jnp.stack([a, b, x, c, d, y, zero, zero, one], axis=-1).reshape(-1, 3, 3)


def _scaled(x: Array, y: Array) -> Array:
    zero = jnp.zeros_like(x)
    return _matrices(x, zero, zero, zero, y, zero)


def _turned(angle: Array) -> Array:
    cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)
    return _matrices(cos, -sin, zero, sin, cos, zero)


def _shifted(by: Float[Array, "batch 2"]) -> Array:
    zero, one = jnp.zeros_like(by[:, 0]), jnp.ones_like(by[:, 0])
    return _matrices(one, zero, by[:, 0], zero, one, by[:, 1])
