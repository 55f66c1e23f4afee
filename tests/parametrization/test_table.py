"""Kinds and multipliers against the published tool, and what training at several widths makes of them."""

import dataclasses
import json
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gendyn as gd
from gendyn.parametrization import DECAYS, OPTIMIZERS, RULES, ParamTable, table
from gendyn.parametrization.scalings import SCALINGS
from gendyn.tree import paths

CASES = ("mlp_3hidden", "unet_2level_skipconcat", "transformer_preln", "dit_adaln")
MIXED = "fuse_img.weight"


def published(case, without=(MIXED,)):
    """(sizes -> a network with the shapes of a case, transposed to the house layout; its entries at width 256)."""
    entries = [p for p in case["targets"][2]["params"] if p["name"] not in without]

    def dim(base, fixed, width):
        return fixed if base is None else width * (base // 64) + base % 64

    def shape(entry, width):
        found = [dim(b, s, width) for b, s in zip(entry["base_shape"], entry["shape"])]
        if len(found) == 4:
            return (*found[2:], found[1], found[0])
        return tuple(found[::-1]) if len(found) == 2 and entry["module"] != "Embedding" else tuple(found)

    def make(width):
        init = lambda key: {e["name"].replace(".", "_"): jnp.zeros(shape(e, width)) for e in entries}
        return SimpleNamespace(init=init, axes=None)

    return make, {e["name"].replace(".", "_"): e for e in entries}


@pytest.fixture(scope="module")
def parity(shared):
    return json.loads((shared / "parity" / "mup_open.json").read_text())["cases"]


@pytest.mark.parametrize("name", CASES)
def test_kinds_and_multipliers_of_the_published_tool(parity, name):
    """Every class, deviation, rate and decay that it has right; a readout convolution is one of its two failures."""
    make, entries = published(parity[name])
    by = {o: table(make, base={"width": 64}, target={"width": 256}, optimizer=o) for o in ("adamw", "sgd")}
    for row, slow in zip(by["adamw"].rows, by["sgd"].rows):
        entry, ours = entries[row.path], row.multipliers
        assert row.kind == entry["param_class"] or row.path == "pos"  # a table of positions: the multipliers agree
        assert ours.init == pytest.approx(entry["std_mup_normal"] / parity[name]["base_std"], rel=1e-6)
        assert ours.learning_rate == pytest.approx(entry["adam_lr_mult"], rel=1e-6)
        assert slow.multipliers.learning_rate == pytest.approx(entry["sgd_lr_mult"], rel=1e-6)
        if row.kind not in ("vector", "scalar"):  # gendyn decays none of these
            assert ours.weight_decay == pytest.approx(entry["adamw_wd_mult"], rel=1e-6)
        if row.path == "conv_out_naive_weight":
            assert (ours.forward, entry["forward_mult"]) == (0.25, 1.0)
        else:
            assert ours.forward == pytest.approx(entry["forward_mult"], rel=1e-6)


def test_a_width_glued_to_something_finite_is_refused_by_name(parity):
    """The other failure: the tool scales the whole kernel by (c + 3)/(c0 + 3)."""
    make, _ = published(parity["unet_2level_skipconcat"], without=())
    with pytest.raises(
        ValueError, match=r"dimension 2 of fuse_img_weight is a width of 64 and 3 that do not.*kernel of its own"
    ):
        table(make, base={"width": 64}, target={"width": 256})


@pytest.mark.parametrize(
    "make",
    [
        lambda width: partial(gd.networks.MLP, 2, width=width, depth=2, num_classes=3),
        lambda width: partial(gd.networks.DiT, (8, 8, 1), width=width, heads=width // 8, depth=1, num_classes=3),
    ],
    ids=["mlp", "dit"],
)
def test_kinds_are_the_roles_that_the_networks_declare(make):
    made = lambda width: gd.networks.functional(make(width))
    found = table(made, base={"width": 16}, target={"width": 64})
    roles = dict(paths(made(64).roles))
    assert {row.path: row.kind for row in found.rows} == roles
    assert ParamTable.from_json(found.to_json()) == found
    assert str(found).count("\n") == len(found.rows) + 1


def test_at_base_size_everything_is_one():
    make = lambda width: gd.networks.functional(partial(gd.networks.MLP, 2, width=width, depth=1))
    for rule in RULES:
        for row in table(make, base={"width": 16}, target={"width": 16}, rule=rule, decay="naive").rows:
            values = row.multipliers
            assert {values.init, values.forward, values.learning_rate, values.eps} == {1.0}


@pytest.mark.parametrize("target", [{"width": 16, "depth": 2}, {"width": 16, "depth": 6}], ids=["base", "deeper"])
def test_kinds_are_known_and_weights_decay_also_where_no_width_changes(target):
    """At the size where one tunes: a table there would otherwise train without decay, and Muon without Muon."""
    make = lambda width, depth, **scales: gd.networks.functional(
        partial(gd.networks.MLP, 2, width=width, depth=depth, **scales)
    )
    found = table(make, base={"width": 16, "depth": 2}, target=target, rule="mup")
    assert {row.path: row.kind for row in found.rows} == dict(paths(make(**target).roles))
    for row in found.rows:
        assert (row.m_in, row.m_out) == (1.0, 1.0)
        assert row.multipliers.weight_decay == (0.0 if row.kind in ("vector", "scalar") else 1.0)


def test_sizes_that_cannot_grow_alone_do_not_hide_kinds():
    """Heads that grow with the width, a patch that does not divide, a size that is a depth."""
    make = lambda width, heads, patch, depth: gd.networks.functional(
        partial(gd.networks.DiT, (8, 8, 1), width=width, heads=heads, patch=patch, depth=depth)
    )
    sizes = {"width": 16, "heads": 2, "patch": 4, "depth": 1}
    found = table(make, base=sizes, target=sizes)
    assert {row.path: row.kind for row in found.rows} == dict(paths(make(**sizes).roles))


def test_the_difference_of_two_tables_is_named():
    make = lambda width: gd.networks.functional(partial(gd.networks.MLP, 2, width=width, depth=1))
    one = table(make, base={"width": 16}, target={"width": 64})
    assert one.difference(ParamTable.from_json(one.to_json())) is None
    assert one.difference(table(make, base={"width": 16}, target={"width": 64}, rule="sp")) == "rule 'mup' and 'sp'"
    multipliers = dataclasses.replace(one.rows[0].multipliers, learning_rate=7.0)
    rows = (dataclasses.replace(one.rows[0], multipliers=multipliers), *one.rows[1:])
    found = one.difference(dataclasses.replace(one, rows=rows))
    assert found.startswith(f"{one.rows[0].path}, multipliers")


def test_a_narrower_network_has_the_inverse_multipliers():
    make = lambda width: gd.networks.functional(partial(gd.networks.MLP, 2, width=width, depth=1))
    by = {row.path: row.multipliers for row in table(make, base={"width": 64}, target={"width": 16}).rows}
    assert by["blocks/0/hidden/kernel"].learning_rate == 4.0
    assert by["readout/kernel"].forward == 4.0


def test_bad_input_is_refused_in_words():
    make = lambda width: gd.networks.functional(partial(gd.networks.MLP, 2, width=width, depth=1))
    sizes = {"base": {"width": 16}, "target": {"width": 32}}
    for change, message in (
        ({"rule": "mu"}, "unknown rule 'mu'; choose one of sp, ntk, mup"),
        ({"optimizer": "sam"}, "unknown optimizer 'sam'"),
        ({"base": {}}, "base and target name the same sizes"),
        ({"target": {"width": 32.5}}, "positive whole number; got width = 32.5"),
    ):
        with pytest.raises(ValueError, match=message):
            table(make, **(sizes | change))
    other = jax.eval_shape(make(64).init, jax.random.key(0))
    with pytest.raises(ValueError, match="the table is of another network"):
        table(make, **sizes).check(other)


# --- Training at several widths -----------------------------------------------------------------------------------

WIDTHS = (64, 256, 1024)


def plain(width):
    """A perceptron with three kernels and LeCun initialisers; returns the hidden features too."""
    shapes = {"a": (8, width), "b": (width, width), "c": (width, 1)}

    def init(key):
        keys = jax.random.split(key, 3)
        return {n: jax.random.normal(k, s) / np.sqrt(s[0]) for k, (n, s) in zip(keys, shapes.items())}

    def apply(params, x, label, cond):
        hidden = jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"])
        return hidden @ params["c"] if label is None else hidden

    return gd.networks.Network(init=init, apply=apply)


def changes(rule, optimizer, inner, rate, width):
    """How much hidden features and output change in four steps, root mean square over a batch and four seeds."""
    found = table(plain, base={"width": WIDTHS[0]}, target={"width": width}, rule=rule, optimizer=optimizer)
    network = gd.parametrization.network(found, plain)
    tx = gd.parametrization.optimizer(found, inner, learning_rate=rate)
    x = jax.random.normal(jax.random.key(1), (16, 8))
    y = jnp.sin(x.sum(1, keepdims=True))

    @jax.jit
    def both(key):
        params = start = gd.parametrization.init(found, plain, key)
        state = tx.init(params)
        for _ in range(4):
            loss = lambda p: jnp.mean((network.apply(p, x, None, None) - y) ** 2)
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
        moved = lambda label: network.apply(params, x, label, None) - network.apply(start, x, label, None)
        return jnp.sqrt(jnp.stack([jnp.mean(moved(label) ** 2) for label in (0, None)]))

    return np.mean([both(jax.random.key(seed)) for seed in range(4)], axis=0)


@pytest.mark.parametrize(
    ("optimizer", "inner", "rate"),
    [
        ("adam", optax.scale_by_adam(), 3e-3),
        pytest.param("sgd", optax.identity(), 0.05, marks=pytest.mark.slow),
    ],
    ids=["adam", "sgd"],
)
def test_features_move_alike_at_every_width_under_mup_and_not_under_sp(optimizer, inner, rate):
    """Slopes in log width over a factor of sixteen: muP within 0.15 and 0.25, SP's control beyond 0.5."""
    slopes = {}
    for rule in ("mup", "sp"):
        each = np.log([changes(rule, optimizer, inner, rate, width) for width in WIDTHS])
        slopes[rule] = np.polyfit(np.log(WIDTHS), each, 1)[0]
    assert abs(slopes["mup"][0]) <= 0.15, slopes
    assert abs(slopes["mup"][1]) <= 0.25, slopes
    assert np.abs(slopes["sp"]).max() >= 0.5, slopes


def test_the_two_forms_of_mup_are_one_trajectory():
    """Equal functions after equal steps, with an eps of Adam that matters."""
    x = jax.random.normal(jax.random.key(1), (16, 8))

    def trained(rule):
        found = table(plain, base={"width": 16}, target={"width": 64}, rule=rule, decay="naive")
        network = gd.parametrization.network(found, plain)
        tx = gd.parametrization.optimizer(found, optax.scale_by_adam(eps=1e-3), learning_rate=1e-2)
        params = gd.parametrization.init(found, plain, jax.random.key(0))
        state = tx.init(params)
        loss = lambda p: jnp.mean((network.apply(p, x, None, None) - 1) ** 2)
        for _ in range(3):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
        return network.apply(params, x, None, None)

    np.testing.assert_allclose(trained("mup"), trained("mup_plain"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_rule_for_normalised_kernels_is_the_trajectory_of_mup(optimizer):
    """A network that divides by the square root of its fan-in itself, beside one that divides by the base's."""
    inner = {"adam": optax.scale_by_adam(eps=1e-3), "sgd": optax.identity()}[optimizer]
    x = jax.random.normal(jax.random.key(1), (16, 8))

    def unit(width, divided_by):
        shapes = {"a": (8, width), "b": (width, width), "c": (width, 2)}

        def init(key):
            return {
                name: jax.random.normal(jax.random.fold_in(key, i), s) for i, (name, s) in enumerate(shapes.items())
            }

        def apply(params, x):
            for name in shapes:
                x = jax.nn.tanh(x @ params[name] / np.sqrt(8 if name == "a" else divided_by(width)))
            return x

        return gd.networks.Network(init=init, apply=apply)

    def trained(rule, divided_by):
        make = partial(unit, divided_by=divided_by)
        found = table(make, base={"width": 16}, target={"width": 64}, rule=rule, optimizer=optimizer, decay="naive")
        network = gd.parametrization.network(found, make)
        tx = gd.parametrization.optimizer(found, inner, learning_rate=0.1)
        params = network.init(jax.random.key(0))
        state = tx.init(params)
        loss = lambda p: jnp.mean((network.apply(p, x) - 1) ** 2)
        for _ in range(3):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
        return network.apply(params, x)

    own = trained("weight_normalized", lambda width: width)
    np.testing.assert_allclose(own, trained("mup", lambda width: 16), rtol=1e-4, atol=1e-5)
    assert not np.allclose(own, trained("mup", lambda width: width), rtol=1e-2)


def test_every_optimizer_has_a_scaling_and_muon_orthogonalises_hidden_kernels_alone():
    """Also kernels of convolutions, as matrices of their fan-in; one step of Muon has singular values near one."""
    assert SCALINGS.keys() == OPTIMIZERS.keys()
    make = lambda width: gd.networks.functional(
        partial(gd.networks.UNet, 2, 1, width=width, multipliers=(1,), blocks=1, attention=(), groups=4)
    )
    found = table(make, base={"width": 8}, target={"width": 8}, optimizer="muon")
    params = make(8).init(jax.random.key(0))
    tx = gd.parametrization.optimizer(found, learning_rate=1.0)
    keys = iter(jax.random.split(jax.random.key(1), len(found.rows)))
    gradient = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), params)
    updates, _ = tx.update(gradient, tx.init(params), params)
    kinds = {row.path: row.kind for row in found.rows}
    seen = set()
    for path, update in paths(updates):
        if kinds[path] == "hidden":
            values = np.linalg.svd(np.asarray(update).reshape(-1, update.shape[-1]), compute_uv=False)
            assert 0.5 < values.min() <= values.max() < 1.5, path
            seen.add(update.ndim)
        else:
            np.testing.assert_allclose(np.abs(update), 1.0, rtol=1e-2)
    assert seen == {2, 4}


def test_lists_are_callable_alike():
    for rule in RULES.values():
        for optimizer in OPTIMIZERS.values():
            for kind in gd.parametrization.ROLES:
                values = rule(kind, 4.0, 2.0, optimizer)
                assert min(values.init, values.forward, values.learning_rate, values.eps) > 0
    for decay in DECAYS.values():
        assert decay("hidden", 4.0, 0.25) >= 1
