"""The architecture of an EDM-family checkpoint: from the options that it was made with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gendyn.importing.inferring import inferred
from gendyn.importing.limits import Refused
from gendyn.importing.reading import Checkpoint

WRAPPERS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}
"""Class of the release -> our word."""

MODEL = {
    "model_channels": "width",
    "channel_mult": "multipliers",
    "channel_mult_emb": "conditioning",
    "num_blocks": "blocks",
    "attn_resolutions": "attention",
    "dropout": "dropout",
    "augment_dim": "augment",
    "embedding_type": "embedding",
    "channel_mult_noise": "features",
    "encoder_type": "encoder",
    "decoder_type": "decoder",
    "resample_filter": "taps",
}
"""Option of the published networks -> field of our config."""

WRAPPER = {
    "img_resolution": "resolution",
    "img_channels": "channels",
    "label_dim": "num_classes",
    "sigma_data": "sigma_data",
    "beta_d": "beta_d",
    "beta_min": "beta_min",
    "M": "levels",
    "C_1": "C1",
    "C_2": "C2",
    "D": "D",
}
"""Option of the published wrappers -> field of our config."""

ELSEWHERE = {"model_type", "use_fp16", "label_dropout", "sigma_min", "sigma_max", "epsilon_t", "pfgmpp"}
"""Options that are used otherwise, or only while training."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "SongUNet": {
        "model_channels": 128,
        "channel_mult": [1, 2, 2, 2],
        "channel_mult_emb": 4,
        "num_blocks": 4,
        "attn_resolutions": [16],
        "dropout": 0.1,
        "augment_dim": 0,
        "embedding_type": "positional",
        "channel_mult_noise": 1,
        "encoder_type": "standard",
        "decoder_type": "standard",
        "resample_filter": [1, 1],
    },
    "DhariwalUNet": {
        "model_channels": 192,
        "channel_mult": [1, 2, 3, 4],
        "channel_mult_emb": 4,
        "num_blocks": 3,
        "attn_resolutions": [32, 16, 8],
        "dropout": 0.1,
        "augment_dim": 0,
    },
}
"""What the release fills in for options that were not given."""

RANGES = {"edm": (0.0, math.inf), "ve": (0.02, 100.0), "iddpm": (0.0, math.inf), "vp": (0.0, math.inf)}
"""Noise levels that a wrapper supports, unless its options say otherwise."""
SAMPLED = (0.002, 80.0)
"""Noise levels that the release samples between, cut to those that the wrapper supports."""

LARGEST = {
    "resolution": 4096,
    "channels": 4096,
    "width": 16384,
    "blocks": 64,
    "conditioning": 64,
    "augment": 4096,
    "features": 64,
    "levels": 100_000,
}
"""Whole numbers from 1 (augment: 0) to here: what a file asks to be built stays within reason."""


WORDS = {
    "embedding": ("positional", "fourier"),
    "encoder": ("standard", "skip", "residual"),
    "decoder": ("standard", "skip"),
}


def settings(checkpoint: Checkpoint, wrapper: str | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Fields of the imported config, and the network's own tensors.

    Args:
        wrapper: "edm", "vp", "ve" or "iddpm", for files that do not say.

    Raises:
        Refused: an unknown wrapper, network or option, or values that make no network.
    """
    tensors, buffers = inner(checkpoint.tensors)
    options = dict(checkpoint.options) if checkpoint.options is not None else inferred(tensors)
    wrapper = _wrapper(checkpoint.wrapper, wrapper, buffers)
    if "in_channels" in options:  # a bare network's own options
        options = {"img_channels": options.pop("in_channels")} | options
        options.pop("out_channels", None)
    kind = options.get("model_type", "SongUNet" if wrapper in ("vp", "ve") else "DhariwalUNet")
    kind = checkpoint.wrapper if checkpoint.wrapper in DEFAULTS else kind
    if kind not in DEFAULTS:
        raise Refused(f"the network is a {str(kind)[:60]!r}; only {' and '.join(DEFAULTS)} are known.")
    unknown = sorted(map(str, set(options) - ELSEWHERE - WRAPPER.keys() - DEFAULTS[kind].keys()))
    if unknown:
        raise Refused(f"the network was made with an option {unknown[0][:60]!r} that {kind} is not known to have.")
    made = {MODEL[name]: options.get(name, default) for name, default in DEFAULTS[kind].items()}
    made |= {WRAPPER[name]: options[name] for name in WRAPPER if name in options}
    fields = _checked(made) | {"network": kind, "wrapper": wrapper}
    if not options.get("pfgmpp"):
        fields.pop("D", None)  # a plain EDM network of the PFGM++ code has a D that means nothing
    else:
        fields.setdefault("D", 128.0)
    fields["sigma_min"], fields["sigma_max"] = _range(wrapper, options, fields)
    return fields, tensors


def inner(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The network's tensors under the names of the network alone, and the wrapper's own buffers."""
    prefix = "model." if any(name.startswith("model.") for name in tensors) else ""
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    outer = {name: value for name, value in tensors.items() if name not in own and not name.startswith(prefix)}
    if not prefix and "u" in own:
        outer["u"] = own.pop("u")
    if extra := sorted(outer.keys() - {"u"}):
        raise Refused(f"the file has a tensor {extra[0][:100]} beside its network, which no wrapper has.")
    return own, outer


def _wrapper(said: str | None, asked: str | None, buffers: Mapping[str, np.ndarray]) -> str:
    if asked is not None:
        if asked not in WRAPPERS.values():
            raise Refused(f"a network of the EDM family is wrapped by {', '.join(WRAPPERS.values())}, not by {asked}.")
        return asked
    if said in WRAPPERS:
        return WRAPPERS[said]
    if said is not None and said not in DEFAULTS:
        raise Refused(f"the file holds a {said[:60]}; only {', '.join(WRAPPERS)} around the EDM family are known.")
    if "u" in buffers:
        return "iddpm"
    raise Refused(f"the file does not say how its network is wrapped; pass --wrapper {', '.join(WRAPPERS.values())}.")


def _checked(made: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the right kind and of a size that can be built."""
    fields = dict(made)
    for name, largest in LARGEST.items():
        if name in fields:
            fields[name] = _whole(name, fields[name], 0 if name == "augment" else 1, largest)
    fields["num_classes"] = _whole("label_dim", fields.get("num_classes", 0), 0, 10**6) or None
    fields["multipliers"] = _several("channel_mult", fields["multipliers"], 1, 64, 1)
    fields["attention"] = _several("attn_resolutions", fields["attention"], 1, 4096, 0)
    if "taps" in fields:
        fields["taps"] = tuple(
            float(_number("resample_filter", tap)) for tap in _list("resample_filter", fields["taps"])
        )
    for name in ("dropout", "sigma_data", "beta_d", "beta_min", "C1", "C2", "D"):
        if name in fields:
            fields[name] = float(_number(name, fields[name]))
    for name, words in WORDS.items():
        if name in fields and fields[name] not in words:
            raise Refused(
                f"the option for the {name} should be one of {', '.join(words)}; got {str(fields[name])[:40]}."
            )
    if fields.get("resolution") is None or fields.get("channels") is None:
        raise Refused("the file does not say the resolution and channels of its pictures.")
    return fields


def _whole(name: str, value: Any, least: int, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= largest:
        raise Refused(f"the option {name} should be a whole number from {least} to {largest}, got {str(value)[:40]}.")
    return value


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > 16:
        raise Refused(f"the option {name} should be a short list.")
    return list(value)


def _several(name: str, value: Any, least: int, largest: int, fewest: int) -> tuple[int, ...]:
    values = tuple(_whole(name, each, least, largest) for each in _list(name, value))
    if len(values) < fewest:
        raise Refused(f"the option {name} is empty.")
    return values


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise Refused(f"the option {name} should be a number, got {str(value)[:40]}.")
    return value


def _range(wrapper: str, options: Mapping[str, Any], fields: Mapping[str, Any]) -> tuple[float, float]:
    """Where samplers stop and start: EDM's own range, cut to what the wrapper supports."""
    low, high = RANGES[wrapper]
    if wrapper == "vp":
        beta_min, beta_d = fields.get("beta_min", 0.1), fields.get("beta_d", 19.9)
        sigma = lambda t: math.sqrt(math.expm1(0.5 * beta_d * t**2 + beta_min * t))
        low, high = sigma(_number("epsilon_t", options.get("epsilon_t", 1e-5))), sigma(1.0)
    if wrapper in ("edm", "ve"):
        low, high = (options.get(name, value) for name, value in (("sigma_min", low), ("sigma_max", high)))
    if not all(isinstance(v, (int, float)) for v in (low, high)):
        raise Refused("the options sigma_min and sigma_max should be numbers.")
    return max(SAMPLED[0], float(low)), min(SAMPLED[1], float(high))


def published_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `settings`: wrapper class and options, as a file of the release would say them."""
    names = {ours: theirs for theirs, ours in (MODEL | WRAPPER).items()}
    known = set(DEFAULTS[fields["network"]]) | WRAPPER.keys()
    kwargs = {
        names[field]: list(value) if isinstance(value, tuple) else value
        for field, value in fields.items()
        if field in names and names[field] in known and value is not None
    }
    kwargs |= {"model_type": fields["network"]}
    if fields.get("D") is not None:
        kwargs["pfgmpp"] = True
    wrapper = {word: name for name, word in WRAPPERS.items()}[fields["wrapper"]]
    return {"precond": wrapper, "kwargs": kwargs}
