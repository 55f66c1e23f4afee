"""What networks are told: nothing is nothing in every form, and each kind reaches the output as it should."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gendyn.conditions import without
from gendyn.control import cfg
from gendyn.networks import MLP, Classes, DiT, Image, Tokens, UNet, Vector, functional, null
from gendyn.networks.layers import Attention
from gendyn.objectives.dropping import dropped
from gendyn.parametrization import table
from gendyn.tree import paths

KINDS = {"style": Vector(2), "text": Tokens(4, 3), "sketch": Image(2), "kind": Classes(3)}
NULL = null(KINDS, num_classes=5)
each_kind = pytest.mark.parametrize("name", ["label", *KINDS])


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


X, TIME = draw(3, 4, 2), jnp.asarray([0.1, -0.4, 0.8])
COND = {"label": jnp.array([0, 4, 2]), "style": draw(3, 2, seed=1), "text": draw(3, 4, 3, seed=2)}
COND |= {"sketch": draw(3, 4, 2, seed=3), "kind": jnp.array([2, 0, 1])}


@cache
def network(**changes):
    kinds = KINDS | changes
    return functional(partial(DiT, (4, 2), patch=2, width=8, depth=1, heads=2, num_classes=5, conditions=kinds))


@cache
def params(**changes):
    leaves, structure = jax.tree.flatten(jax.eval_shape(network(**changes).init, jax.random.key(0)))
    return structure.unflatten(0.4 * draw(*leaf.shape, seed=i) for i, leaf in enumerate(leaves))


@cache
def compiled(**changes):
    return jax.jit(network(**changes).apply)


def evaluate(cond, **changes):
    return np.asarray(compiled(**changes)(params(**changes), X, TIME, cond))


def differ(a, b):
    return np.max(np.abs(a - b)) > 1e-3


@each_kind
def test_left_out_is_null_is_always_dropped(name):
    rest = {other: value for other, value in COND.items() if other != name}
    nothing = evaluate(rest)
    assert differ(evaluate(COND), nothing)
    for cond in (
        rest | {name: None},
        without(COND, {name: NULL[name]}),
        dropped(jax.random.key(0), COND, 3, {name: 1.0}, NULL),
    ):
        np.testing.assert_allclose(evaluate(cond), nothing, rtol=1e-4, atol=1e-4)


def test_what_is_left_out_has_no_null_to_be_replaced_by():
    assert without(COND | {"text": None}, NULL)["text"] is None


def test_all_null_is_no_condition():
    np.testing.assert_allclose(evaluate(without(COND, NULL)), evaluate(None), rtol=1e-4, atol=1e-4)


@each_kind
def test_guidance_goes_from_the_null_condition_through_the_condition(name):
    denoiser = jax.tree_util.Partial(lambda x, t, cond: compiled()(params(), x, t, cond))
    for own in ({name: NULL[name]}, NULL):
        at = [np.asarray(cfg(denoiser, w, own)(X, TIME, COND)) for w in (0.0, 1.0, 3.0)]
        np.testing.assert_allclose(at[1], evaluate(COND), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(at[0], evaluate(without(COND, own)), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(at[2], at[0] + 3 * (at[1] - at[0]), rtol=1e-4, atol=1e-4)


def test_dropping_by_name_is_independent_and_at_its_rate():
    """4000 draws: five standard errors, false alarm below 1e-5."""
    n, rates = 4000, {"label": 0.3, "style": 0.5}
    cond = {"label": jnp.zeros(n, int), "style": jnp.zeros((n, 2))}
    seen = dropped(jax.random.key(1), cond, n, rates, {"label": 5, "style": np.nan})
    gone = np.stack([np.asarray(seen["label"]) == 5, np.isnan(seen["style"]).all(-1)])
    for own, rate in zip((*gone, gone.all(0)), (0.3, 0.5, 0.15)):
        assert abs(own.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)


def test_absent_tokens_are_as_if_the_sequence_were_shorter():
    """Parameters do not depend on the length, so the same ones serve a network for two tokens."""
    text = COND["text"].at[:, 2:].set(jnp.nan)
    short = evaluate(COND | {"text": COND["text"][:, :2]}, text=Tokens(2, 3))
    np.testing.assert_allclose(evaluate(COND | {"text": text}), short, rtol=1e-4, atol=1e-4)


def test_tokens_are_a_set_unless_they_have_places():
    turned = COND | {"text": COND["text"][:, ::-1]}
    np.testing.assert_allclose(evaluate(turned), evaluate(COND), rtol=1e-4, atol=1e-4)
    placed = {"text": Tokens(4, 3, positions="learned")}
    assert differ(evaluate(turned, **placed), evaluate(COND, **placed))


def test_absent_pixels_are_zero_and_half_a_vector_is_a_mistake_that_is_seen():
    zero = COND["sketch"].at[:, 1].set(0.0)
    gone = COND["sketch"].at[:, 1].set(jnp.nan)
    np.testing.assert_array_equal(evaluate(COND | {"sketch": gone}), evaluate(COND | {"sketch": zero}))
    torn = evaluate(COND | {"style": COND["style"].at[1, 0].set(jnp.nan)})
    assert np.isnan(torn[1]).all()
    assert np.isfinite(torn[[0, 2]]).all()


def test_the_parameter_table_knows_every_kernel():
    """Kinds found in the computation agree with the axes; what meets a finite number of inputs is an input."""
    make = lambda width: functional(
        partial(DiT, (4, 2), patch=2, width=width, depth=1, heads=2, num_classes=5, conditions=KINDS)
    )
    rows = table(make, base={"width": 8}, target={"width": 32}, inputs=(X, TIME, COND)).rows
    kinds = {row.path: row.kind for row in rows}
    assert kinds == dict(paths(network().roles))
    assert {path: kinds[path] for path in kinds if "cross" in path and "kernel" in path} == {
        f"blocks/0/cross/{name}/kernel": "hidden" for name in ("query", "key", "value", "out")
    }
    assert kinds["conditioning/embeddings/text/tokens/project/kernel"] == "input"


def test_cross_attention_is_the_mean_of_values_under_the_softmax():
    layer = Attention(4, 2, context=3, rngs=nnx.Rngs(0))
    x, context, there = draw(1, 2, 4), draw(1, 3, 3, seed=1), jnp.array([[True, False, True]])
    named = {name: (np.asarray(x) if name == "query" else np.asarray(context))[0] for name in ("query", "key", "value")}
    q, k, v = (rows @ np.asarray(getattr(layer, name).kernel) for name, rows in named.items())
    kept, heads = [0, 2], []
    for head in (slice(0, 2), slice(2, 4)):
        logits = np.exp(q[:, head] @ k[kept, head].T / np.sqrt(2))
        heads.append(logits / logits.sum(1, keepdims=True) @ v[kept, head])
    wanted = np.concatenate(heads, 1) @ np.asarray(layer.out.kernel)
    np.testing.assert_allclose(jax.jit(layer.__call__)(x, context, there)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ({"txt": COND["text"]}, "cond names 'txt', but the network was built for kind, label, sketch, style, text"),
        ({"text": COND["text"][:, :2]}, r"the condition 'text' is \[3, 4, 3\], got \[3, 2, 3\]"),
        ({"sketch": COND["sketch"][:, :2]}, r"the condition 'sketch' is \[3, 4, 2\]"),
        ({"style": jnp.ones((3, 2), int)}, "the condition 'style' holds floating numbers, got int32"),
    ],
)
def test_wrong_conditions_are_named_before_compiling(cond, message):
    with pytest.raises((ValueError, TypeError), match=message):
        jax.eval_shape(network().apply, params(), X, TIME, cond)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(MLP, 2, conditions={"text": Tokens(2, 2)}), "an MLP does not attend to tokens"),
        (partial(UNet, attention=(), conditions={"text": Tokens(2, 2)}), "tokens are read where a UNet attends"),
        (partial(MLP, 2, conditions={"label": Vector(2)}), "is that of num_classes="),
        (partial(MLP, 2, conditions={"style": 3}), "a condition is Classes, Vector, Tokens or Image, got 3"),
        (partial(DiT, conditions={"text": Tokens(2, 2, positions="sincos")}), "positions of tokens"),
    ],
)
def test_conditions_that_a_network_cannot_be_told_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        functional(make)


def test_a_null_of_something_else_is_refused():
    with pytest.raises(ValueError, match="null= names 'txt', which is not among the conditions"):
        cfg(lambda x, t, cond: x, 2.0, {"txt": np.nan})(X, TIME, COND)
    with pytest.raises(ValueError, match="not among the conditions \\(unnamed\\)"):
        without(jnp.zeros(3, int), {"label": 5})
