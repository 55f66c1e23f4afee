"""Published DiT and SiT: their state dicts against the architecture written out in numpy, and back to their names."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn.importing import Refused, adopt, export, read
from gendyn.networks import grid_sinusoids

WIDTH, DEPTH, HEADS, PATCH, SIDE, CHANNELS, CLASSES = 12, 2, 3, 2, 6, 4, 5


def state_dict(outputs=2 * CHANNELS):
    """Random tensors under the published names, in PyTorch's layouts."""
    shapes = {
        "pos_embed": (1, (SIDE // PATCH) ** 2, WIDTH),
        "x_embedder.proj.weight": (WIDTH, CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": (WIDTH,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH),
    }
    linear = {"t_embedder.mlp.0": (WIDTH, 256), "t_embedder.mlp.2": (WIDTH, WIDTH)}
    linear |= {"final_layer.linear": (PATCH**2 * outputs, WIDTH), "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH)}
    for i in range(DEPTH):
        inner = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH), "mlp.fc1": (4 * WIDTH, WIDTH)}
        inner |= {"mlp.fc2": (WIDTH, 4 * WIDTH), "adaLN_modulation.1": (6 * WIDTH, WIDTH)}
        linear |= {f"blocks.{i}.{name}": shape for name, shape in inner.items()}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    rng = np.random.default_rng(3)
    return {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def reference(w, x, t, y):
    """The published forward pass, in float64, channels first: [n, c, side, side] -> [n, outputs, side, side]."""
    linear = lambda name, h: h @ np.float64(w[f"{name}.weight"]).T + w[f"{name}.bias"]
    silu = lambda h: h / (1 + np.exp(-h))
    gelu = lambda h: 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))

    def norm(h, shift, scale):
        centred = h - h.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return unit * (1 + scale[:, None]) + shift[:, None]

    n, cells = len(x), SIDE // PATCH
    pieces = x.reshape(n, CHANNELS, cells, PATCH, cells, PATCH)
    h = np.einsum("nciajb,ocab->nijo", pieces, np.float64(w["x_embedder.proj.weight"])) + w["x_embedder.proj.bias"]
    h = h.reshape(n, cells * cells, WIDTH) + w["pos_embed"]
    frequencies = np.exp(-np.log(10000) * np.arange(128) / 128)
    angles = t[:, None] * frequencies
    c = linear("t_embedder.mlp.0", np.concatenate([np.cos(angles), np.sin(angles)], -1))
    c = silu(linear("t_embedder.mlp.2", silu(c)) + w["y_embedder.embedding_table.weight"][y])
    for i in range(DEPTH):
        block = f"blocks.{i}"
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = np.split(linear(f"{block}.adaLN_modulation.1", c), 6, -1)
        qkv = linear(f"{block}.attn.qkv", norm(h, shift, scale)).reshape(n, -1, 3, HEADS, WIDTH // HEADS)
        q, k, v = (qkv[:, :, part].swapaxes(1, 2) for part in range(3))
        logits = q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH // HEADS)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(n, -1, WIDTH)
        h = h + gate[:, None] * linear(f"{block}.attn.proj", mixed)
        y_mlp = linear(f"{block}.mlp.fc2", gelu(linear(f"{block}.mlp.fc1", norm(h, shift_mlp, scale_mlp))))
        h = h + gate_mlp[:, None] * y_mlp
    h = linear("final_layer.linear", norm(h, *np.split(linear("final_layer.adaLN_modulation.1", c), 2, -1)))
    h = h.reshape(n, cells, cells, PATCH, PATCH, -1)
    return np.einsum("nijabc->nciajb", h).reshape(n, -1, SIDE, SIDE)


@pytest.fixture(scope="module")
def tensors():
    return state_dict()


@pytest.fixture(scope="module")
def file(make, tensors, tmp_path_factory):
    """As torch.save writes a state dict, with the heads beside it."""
    path = tmp_path_factory.mktemp("published") / "DiT-small.pt"
    path.write_bytes(make.archive({name: make.Tensor(value) for name, value in tensors.items()}))
    path.with_suffix(".json").write_text(json.dumps({"kwargs": {"num_heads": HEADS}}))
    return path


@pytest.fixture(scope="module")
def runs(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for wrapper in ("dit", "sit"):
        adopt(read(file), folder / wrapper, wrapper=wrapper)
    return {wrapper: gd.load(folder / wrapper) for wrapper in ("dit", "sit")} | {"folder": folder}


X = np.random.default_rng(4).standard_normal((3, SIDE, SIDE, CHANNELS)).astype(np.float32)
Y = np.array([0, 3, CLASSES])


def expected(tensors, t):
    """The first half of the channels, channels last."""
    return reference(tensors, X.transpose(0, 3, 1, 2), t, Y)[:, :CHANNELS].transpose(0, 2, 3, 1)


def test_dit_is_the_published_network_on_its_thousand_steps(runs, tensors):
    """Trained steps 0..999 are t = 1/1000 .. 1; float32 angles up to 999 are exact to 6e-5."""
    D, steps = runs["dit"].denoiser, np.array([0, 17, 999])
    t = jnp.asarray((steps + 1) / 1000, jnp.float32)
    eps = expected(tensors, steps)
    found = jax.jit(lambda D, x, t, y: (D.output(x, t, y), D(x, t, y)))(D, X, t, Y)
    scale = np.abs(eps).max(axis=(1, 2, 3))
    error = np.abs(found[0] - eps).max(axis=(1, 2, 3)) / scale
    assert error[:2].max() < 1e-5
    assert error[2] < 1e-4
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[steps][:, None, None, None]
    denoised = (X - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
    np.testing.assert_allclose(found[1][:2], denoised[:2], rtol=1e-4, atol=1e-4)


def test_sit_is_the_published_network_on_the_straight_path(runs, tensors):
    """x = t data + (1 - t) noise, so that data = x + (1 - t) velocity."""
    D, t = runs["sit"].denoiser, np.array([0.0, 0.31, 0.9])
    velocity = expected(tensors, t)
    found = jax.jit(lambda D, x, t, y: (D.output(x, t, y), D(x, t, y)))(D, X, jnp.asarray(t, jnp.float32), Y)
    np.testing.assert_allclose(found[0], velocity, rtol=1e-5, atol=1e-5 * np.abs(velocity).max())
    np.testing.assert_allclose(found[1], X + (1 - t)[:, None, None, None] * velocity, rtol=1e-4, atol=1e-4)


def test_export_is_the_inverse_of_import(runs, tensors, tmp_path):
    written = export(runs["folder"] / "dit", tmp_path / "again.safetensors")
    again = read(tmp_path / "again.safetensors")
    assert written.keys() == again.tensors.keys() == tensors.keys()
    assert all(np.array_equal(again.tensors[name], tensors[name]) for name in tensors)
    assert again.wrapper == "DiT"
    adopt(again, tmp_path / "run")
    assert gd.load(tmp_path / "run").config.heads == HEADS


def test_positions_of_our_own_are_the_published_table():
    """Each token (row, column): half of the features from the column, half from the row, sines before cosines."""
    table = grid_sinusoids((3, 3), 8)
    w = 1 / 10000 ** (np.arange(2) / 2)
    for row in range(3):
        for column in range(3):
            parts = [f(place * w) for place in (column, row) for f in (np.sin, np.cos)]
            np.testing.assert_allclose(table[3 * row + column], np.concatenate(parts), atol=1e-12)


def test_what_the_run_knows(runs):
    config = runs["dit"].config
    assert (config.depth, config.patch, config.resolution, config.num_classes) == (DEPTH, PATCH, SIDE, CLASSES)
    assert config.learned_variance
    assert runs["dit"].process == gd.processes.VPDiscrete.linear(1000)
    np.testing.assert_allclose(runs["dit"].decode(X), X / 0.18215, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {}, "DiT and SiT have the same tensors, .*; pass --wrapper dit or sit"),
        ({}, {"wrapper": "edm"}, "pass --wrapper dit or sit"),
        (
            {"final_layer.linear.weight": (12, WIDTH)},
            {"wrapper": "dit"},
            "not those of a DiT .*3 channels out for 4 in",
        ),
        ({"pos_embed": (1, 8, WIDTH)}, {"wrapper": "dit"}, "8 tokens are no square"),
        ({"blocks.1.mlp.fc2.bias": None}, {"wrapper": "dit"}, "lacks 1 tensors of this architecture"),
        ({"extra.weight": (2, 2)}, {"wrapper": "dit"}, "1 tensors that this architecture lacks, first extra.weight"),
    ],
)
def test_what_is_no_such_network_is_refused(change, options, message, tensors, file, tmp_path):
    whole = read(file)
    for name, shape in change.items():
        whole.tensors.pop(name, None)
        if shape is not None:
            whole.tensors[name] = np.zeros(shape, np.float32)
    with pytest.raises(Refused, match=message):
        adopt(whole, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_unknown_heads_are_asked_for(file, tmp_path):
    from dataclasses import replace

    with pytest.raises(Refused, match="number of attention heads is in no shape"):
        adopt(replace(read(file), options=None), tmp_path / "run", wrapper="dit")


@pytest.mark.system
@pytest.mark.slow
def test_a_file_becomes_a_run_that_is_sampled(file, tmp_path):
    """Latents, as the autoencoder takes them, and no picture."""
    from gendyn.cli import main

    assert main(["import", str(file), "--wrapper", "sit", "--out", str(tmp_path / "run")]) == 0
    options = ["--num", "4", "--nfe", "2", "--batch", "4", "--guidance", "2", "--out", str(tmp_path / "samples")]
    assert main(["sample", str(tmp_path / "run"), *options]) == 0
    with np.load(tmp_path / "samples" / "samples.npz") as found:
        assert found["samples"].shape == (4, SIDE, SIDE, CHANNELS)
    assert not list((tmp_path / "samples").glob("*.png"))
