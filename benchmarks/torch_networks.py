"""gendyn's DiT and 2-D U-Net as PyTorch evaluates them: the same parameters, in PyTorch's own layouts and kernels.

Only what `train_step` needs: no classes, no dropout, float32. Data are [batch, channels, side, side].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as f

import gendyn as gd
from gendyn.networks.embeddings import FREQUENCIES
from gendyn.networks.unet import layout, levels
from gendyn.tree import paths

Parameters = Mapping[str, torch.Tensor]


def parameters(tree: Any) -> dict[str, torch.Tensor]:
    """Path -> leaf tensor; linear kernels become [out, in], convolutions [out, in, side, side]."""
    return {
        path: torch.tensor(_turned(path, np.asarray(leaf)).copy(), requires_grad=True) for path, leaf in paths(tree)
    }


def gradients(own: Parameters) -> dict[str, np.ndarray]:
    """Path -> gradient, in gendyn's layout."""
    return {path: _back(path, leaf.grad.numpy()) for path, leaf in own.items()}  # type: ignore[union-attr]


def _turned(path: str, leaf: np.ndarray) -> np.ndarray:
    if not path.endswith("kernel"):
        return leaf
    return leaf.T if leaf.ndim == 2 else leaf.transpose(3, 2, 0, 1)


def _back(path: str, leaf: np.ndarray) -> np.ndarray:
    if not path.endswith("kernel"):
        return leaf
    return leaf.T if leaf.ndim == 2 else leaf.transpose(2, 3, 1, 0)


def dense(p: Parameters, name: str, x: torch.Tensor) -> torch.Tensor:
    return f.linear(x, p[f"{name}/kernel"], p[f"{name}/bias"])


def conv(p: Parameters, name: str, x: torch.Tensor) -> torch.Tensor:
    """A 3x3 convolution, or a linear layer over the channels."""
    kernel = p[f"{name}/kernel"]
    if kernel.ndim == 2:
        return f.conv2d(x, kernel[:, :, None, None], p[f"{name}/bias"])
    return f.conv2d(x, kernel, p[f"{name}/bias"], padding=1)


def norm(p: Parameters, name: str, x: torch.Tensor) -> torch.Tensor:
    channels = x.shape[1]
    return f.group_norm(x, max(1, min(32, channels // 4)), p[f"{name}/scale"], p[f"{name}/bias"], eps=1e-5)


def frequencies(features: int) -> torch.Tensor:
    return torch.tensor(np.geomspace(*FREQUENCIES, features // 2), dtype=torch.float32)


def conditioning(p: Parameters, label: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    angles = label[:, None] * w
    waves = torch.cat([torch.cos(angles), torch.sin(angles)], -1)
    inner = f.silu(dense(p, "conditioning/level", waves))
    return f.silu(dense(p, "conditioning/mix", inner))


def attention(p: Parameters, name: str, x: torch.Tensor, heads: int) -> torch.Tensor:
    """Tokens [batch, tokens, width]."""
    batch, tokens, width = x.shape
    parts = [dense(p, f"{name}/{part}", x) for part in ("query", "key", "value")]
    query, key, value = (part.view(batch, tokens, heads, -1).transpose(1, 2) for part in parts)
    mixed = f.scaled_dot_product_attention(query, key, value)
    return dense(p, f"{name}/out", mixed.transpose(1, 2).reshape(batch, tokens, width))


def dit(*, width: int, depth: int, heads: int, patch: int, side: int, features: int = 256) -> Callable[..., Any]:
    """(parameters, x, label) -> output of `gd.networks.DiT`."""
    count, w = side // patch, frequencies(features)
    places = torch.tensor(gd.networks.grid_sinusoids((count, count), width), dtype=torch.float32)

    def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return f.layer_norm(x, (width,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    def network(p: Parameters, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        c = conditioning(p, label, w)
        batch, channels = x.shape[:2]
        cells = x.view(batch, channels, count, patch, count, patch).permute(0, 2, 4, 3, 5, 1)
        h = dense(p, "stem", cells.reshape(batch, count * count, -1)) + places
        for i in range(depth):
            block = f"blocks/{i}"
            shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = dense(p, f"{block}/modulation", c).chunk(6, -1)
            h = h + gate[:, None] * attention(p, f"{block}/attention", modulated(h, shift, scale), heads)
            inner = f.gelu(dense(p, f"{block}/hidden", modulated(h, mlp_shift, mlp_scale)), approximate="tanh")
            h = h + mlp_gate[:, None] * dense(p, f"{block}/out", inner)
        shift, scale = dense(p, "modulation", c).chunk(2, -1)
        h = dense(p, "readout", modulated(h, shift, scale)).view(batch, count, count, patch, patch, channels)
        return h.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, side, side)

    return network


def unet(
    *, width: int, multipliers: tuple[int, ...], blocks: int, attends: tuple[int, ...], features: int = 64
) -> Callable[..., Any]:
    """(parameters, x, label) -> output of `gd.networks.UNet` on two grid axes."""
    widths = tuple(width * multiplier for multiplier in multipliers)
    encoder, middle, decoder = layout(widths, blocks, levels(attends, len(multipliers)))
    w = frequencies(features)

    def block(p: Parameters, name: str, row: Any, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        def resample(h: torch.Tensor) -> torch.Tensor:
            if row.resample == "down":
                return f.avg_pool2d(h, 2)
            return f.interpolate(h, scale_factor=2) if row.resample == "up" else h

        shift, scale = dense(p, f"{name}/modulation", c)[:, :, None, None].chunk(2, 1)
        h = conv(p, f"{name}/hidden", resample(f.silu(norm(p, f"{name}/norm", x))))
        h = f.silu(norm(p, f"{name}/hidden_norm", h) * (1 + scale) + shift)
        x = resample(x)
        h = conv(p, f"{name}/out", h) + (x if row.inputs == row.outputs else conv(p, f"{name}/skip", x))
        if not row.attention:
            return h
        tokens = norm(p, f"{name}/attention_norm", h).flatten(2).transpose(1, 2)
        mixed = attention(p, f"{name}/attention", tokens, max(1, row.outputs // 64))
        return h + mixed.transpose(1, 2).reshape(h.shape)

    def network(p: Parameters, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        c = conditioning(p, label, w)
        h = conv(p, "stem", x)
        skips = [h]
        for i, row in enumerate(encoder):
            h = block(p, f"encoder/{i}", row, h, c)
            skips.append(h)
        for i, row in enumerate(middle):
            h = block(p, f"middle/{i}", row, h, c)
        for i, row in enumerate(decoder):
            h = block(p, f"decoder/{i}", row, torch.cat([h, skips.pop()], 1) if row.joins else h, c)
        return conv(p, "readout", f.silu(norm(p, "norm", h)))

    return network
