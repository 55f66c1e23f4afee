"""The published sizes of the diffusion transformer, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gendyn.networks.dit import DiT

DIT_SIZES: dict[str, dict[str, int]] = {
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}
"""Peebles and Xie 2023, arXiv:2212.09748, table 1."""


def dit(name: str, shape: tuple[int, ...] = (32, 32, 4), **options: Any) -> Callable[..., DiT]:
    """How to make a DiT of a published size with a patch edge, "XL/2", for `functional`.

    Args:
        name: one of `DIT_SIZES`, a slash, and the edge of a patch.
        shape: of one example; 32x32x4 are the latents of 256x256 images.
        options: of `DiT`; they go before the size's own.

    Raises:
        ValueError: a name that is none of these.

    >>> import jax
    >>> from gendyn.networks import functional
    >>> network = functional(dit("S/4", num_classes=1000, out_channels=8))
    >>> params = jax.eval_shape(network.init, jax.random.key(0))
    >>> round(sum(a.size for a in jax.tree.leaves(params)) / 1e6)
    33
    """
    size, _, patch = name.partition("/")
    if size not in DIT_SIZES or not patch.isdigit() or int(patch) < 1:
        raise ValueError(f"a DiT is named {', '.join(f'{key}/PATCH' for key in DIT_SIZES)}, as XL/2; got {name!r}.")
    return partial(DiT, shape, **(DIT_SIZES[size] | {"patch": int(patch)} | options))
