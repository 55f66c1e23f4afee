"""The architecture of an EDM-family network, read off the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gendyn.importing.limits import Refused


def inferred(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The published options of a network, from the names and shapes of its tensors.

    Dropout leaves no trace and is left out.

    Raises:
        Refused: if they are not those of this family.
    """
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    try:
        return _inferred(tensors, shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise Refused(
            f"the tensors are not those of an EDM-family network ({type(error).__name__}: {error})."
        ) from None


def _inferred(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    song = "out_conv.weight" not in shapes
    sides = sorted({int(m[1]) for name in shapes if (m := re.match(r"enc\.(\d+)x\1_block0\.", name))}, reverse=True)
    top = sides[0]
    stem = shapes[f"enc.{top}x{top}_conv.weight"]
    widths = [shapes[f"enc.{side}x{side}_block0.conv1.weight"][0] for side in sides]
    features = shapes["map_layer0.weight"][1]
    width = stem[0] if song else features
    options = {
        "img_resolution": top,
        "img_channels": stem[1],
        "model_type": "SongUNet" if song else "DhariwalUNet",
        "model_channels": width,
        "channel_mult": [_times(each, width) for each in widths],
        "channel_mult_emb": _times(shapes["map_layer0.weight"][0], width),
        "num_blocks": sum(1 for name in shapes if re.match(rf"enc\.{top}x{top}_block\d+\.conv0\.weight$", name)),
        "attn_resolutions": [side for side in sides if f"enc.{side}x{side}_block0.qkv.weight" in shapes],
        "label_dim": shapes.get("map_label.weight", (0, 0))[1],
        "augment_dim": shapes.get("map_augment.weight", (0, 0))[1],
    }
    return options | (_song(tensors, shapes, features, width) if song else {})


def _song(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], features: int, width: int
) -> dict[str, Any]:
    """What only SongUNet can vary."""
    filters = [value for name, value in tensors.items() if name.endswith("resample_filter")]
    residual, skip = (any(f"_aux_{kind}." in name for name in shapes) for kind in ("residual", "skip"))
    taps = np.sqrt(np.diagonal(np.asarray(filters[0], np.float64)[0, 0])) if filters else np.ones(2)
    return {
        "embedding_type": "fourier" if "map_noise.freqs" in shapes else "positional",
        "channel_mult_noise": _times(features, width),
        "encoder_type": "residual" if residual else "skip" if skip else "standard",
        "decoder_type": "skip" if sum(name.endswith("_aux_conv.weight") for name in shapes) > 1 else "standard",
        "resample_filter": [round(float(tap), 6) for tap in taps / taps[0]],
    }


def _times(value: int, unit: int) -> int:
    if value % unit:
        raise ValueError(f"{value} channels are no multiple of {unit}")
    return value // unit
