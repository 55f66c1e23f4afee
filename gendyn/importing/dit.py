"""The architecture of a DiT or SiT checkpoint, read off the names and shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gendyn.importing.limits import Refused
from gendyn.importing.reading import Checkpoint
from gendyn.networks import DIT_SIZES

WRAPPERS = {"DiT": "dit", "SiT": "sit"}
"""Class of the release -> our word."""

DEEPEST = 512
"""Blocks that a file may ask to be built."""


def recognised(tensors: Mapping[str, Any]) -> bool:
    """Whether these are the tensors of a DiT or SiT."""
    return "x_embedder.proj.weight" in tensors


def settings(checkpoint: Checkpoint, wrapper: str | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Fields of the imported config, and the network's own tensors.

    Everything but the number of heads is in the shapes; that is looked up among the published sizes, or is the option
    "num_heads" of a file beside the checkpoint.

    Args:
        wrapper: "dit" (noise of a discrete schedule) or "sit" (velocity of a straight path), for files that do not say.

    Raises:
        Refused: shapes that make no such network, unknown heads, or another wrapper.
    """
    shapes = {name: tuple(value.shape) for name, value in checkpoint.tensors.items()}
    try:
        fields = _inferred(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise Refused(f"the tensors are not those of a DiT ({type(error).__name__}: {error}).") from None
    fields["heads"] = _heads(fields, checkpoint.options or {})
    fields["wrapper"] = _wrapper(WRAPPERS.get(checkpoint.wrapper or "") if wrapper is None else wrapper)
    return fields, dict(checkpoint.tensors)


def _inferred(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    tokens, hidden = shapes["pos_embed"][1], shapes["blocks.0.mlp.fc1.weight"][0]
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    if depth > DEEPEST:
        raise ValueError(f"{depth} blocks, more than {DEEPEST}")
    outputs, rest = divmod(shapes["final_layer.linear.weight"][0], patch**2)
    if rest or outputs not in (channels, 2 * channels):
        raise ValueError(f"{outputs} channels out for {channels} in")
    if math.isqrt(tokens) ** 2 != tokens:
        raise ValueError(f"{tokens} tokens are no square")
    return {
        "resolution": math.isqrt(tokens) * patch,
        "channels": channels,
        "patch": patch,
        "width": width,
        "depth": depth,
        "mlp_ratio": hidden / width,
        "num_classes": shapes["y_embedder.embedding_table.weight"][0] - 1,
        "learned_variance": outputs == 2 * channels,
        "time_features": shapes["t_embedder.mlp.0.weight"][1],
    }


def _heads(fields: Mapping[str, Any], options: Mapping[str, Any]) -> int:
    known = {(size["width"], size["depth"]): size["heads"] for size in DIT_SIZES.values()}
    heads = options.get("num_heads", known.get((fields["width"], fields["depth"])))
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1 or fields["width"] % heads:
        raise Refused(
            f"the number of attention heads is in no shape, and width {fields['width']} with {fields['depth']} blocks "
            'is no published size; pass --config with {"kwargs": {"num_heads": N}}.'
        )
    return heads


def _wrapper(word: str | None) -> str:
    if word is None or word not in WRAPPERS.values():
        raise Refused("DiT and SiT have the same tensors, and the file does not say which; pass --wrapper dit or sit.")
    return word


def published_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Class and options as the releases name them."""
    wrapper = {word: name for name, word in WRAPPERS.items()}[fields["wrapper"]]
    kwargs = {
        "input_size": fields["resolution"],
        "patch_size": fields["patch"],
        "in_channels": fields["channels"],
        "hidden_size": fields["width"],
        "depth": fields["depth"],
        "num_heads": fields["heads"],
        "mlp_ratio": fields["mlp_ratio"],
        "num_classes": fields["num_classes"],
        "learn_sigma": fields["learned_variance"],
    }
    return {"precond": wrapper, "kwargs": kwargs}
