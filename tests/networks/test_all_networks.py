"""One suite for every network: what the rest of the library relies on, whatever the blocks are."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn.networks import (
    ADM,
    MLP,
    NETWORKS,
    Classes,
    DiT,
    EDMUNet,
    Image,
    Tokens,
    UNet,
    Vector,
    functional,
    initialise,
)
from gendyn.parametrization import AXES, ROLES
from gendyn.parametrization.axes import role
from gendyn.tree import paths

BATCH, CLASSES = 3, 4
TOLD = {"style": Vector(2), "text": Tokens(3, 2, positions="learned"), "sketch": Image(2), "kind": Classes(2)}
EDM = partial(EDMUNet, 4, 2, width=4, multipliers=(1, 2), blocks=1, attention=(4,))
ALL_NETWORKS = {
    "mlp": (partial(MLP, 5, width=12, depth=2), (5,)),
    "unet_1d": (partial(UNet, 1, 2, width=8, multipliers=(1,), blocks=1, attention=(0,), head_dim=4), (6, 2)),
    "unet_2d": (partial(UNet, 2, 1, width=4, multipliers=(1, 2), blocks=1), (4, 6, 1)),
    "unet_3d": (partial(UNet, 3, 1, width=4, multipliers=(1, 1), blocks=1, attention=()), (2, 4, 2, 1)),
    "dit_1d": (partial(DiT, (8, 2), patch=4, width=8, depth=1, heads=2), (8, 2)),
    "dit_2d": (partial(DiT, (4, 6, 1), width=12, depth=2, heads=2, positions="learned"), (4, 6, 1)),
    "edm_ddpmpp": (partial(EDM, family="ddpmpp"), (4, 4, 2)),
    "edm_ncsnpp": (partial(EDM, family="ncsnpp"), (4, 4, 2)),
    "edm_adm": (partial(EDM, family=replace(ADM, head_dim=4)), (4, 4, 2)),
    "dit_3d": (partial(DiT, (2, 4, 2, 1), width=12, depth=1, heads=2), (2, 4, 2, 1)),
    "dit_scan": (partial(DiT, (4, 6, 1), width=12, depth=2, heads=2, scan=True), (4, 6, 1)),
    "mlp_told": (partial(MLP, 5, width=12, depth=1, conditions={"style": Vector(2), "beside": Image(3)}), (5,)),
    "unet_told": (partial(UNet, 1, 2, width=8, multipliers=(1,), blocks=1, attention=(0,), conditions=TOLD), (6, 2)),
    "dit_told": (partial(DiT, (8, 2), patch=4, width=12, depth=1, heads=2, conditions=TOLD), (8, 2)),
}
ALIKE = ("unet_3d", "dit_1d", "dit_3d", "edm_ncsnpp", "mlp_told", "dit_scan")
"""Other dimensions or options of networks that are checked each time."""
each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in ALL_NETWORKS]
)
ONE_OF_EACH = ["mlp", "unet_1d", "dit_2d"]
one_of_each = pytest.mark.parametrize("name", ONE_OF_EACH)
and_told = pytest.mark.parametrize("name", [*ONE_OF_EACH, "dit_told"])
"""Also a network that is told more than a class."""


def make(name, **options):
    return partial(ALL_NETWORKS[name][0], num_classes=CLASSES, **options)


@cache
def network(name, **options):
    return functional(make(name, **options))


@cache
def initial(name):
    return initialise(network(name), jax.random.key(0))


@cache
def randomised(name):
    """Every entry of order 0.3: at initialisation the output is zero, which would make most checks vacuous."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(network(name).init, jax.random.key(0)))
    rng = np.random.default_rng(1)
    return structure.unflatten(jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32) for leaf in leaves)


@cache
def inputs(name):
    rng = np.random.default_rng(2)
    constructor, shape = ALL_NETWORKS[name]
    x = jnp.asarray(rng.standard_normal((BATCH, *shape)), jnp.float32)
    label, cond = jnp.asarray([-1.3, 0.2, 0.9]), jnp.asarray([0, 3, CLASSES])
    if conditions := constructor.keywords.get("conditions"):
        cond = {"label": cond} | {name: told(kind, shape, rng) for name, kind in conditions.items()}
    return x, label, cond


def told(kind, shape, rng):
    """A condition of every example but the second, whose is absent; the last token of a sequence always is."""
    if isinstance(kind, Classes):
        return jnp.asarray([0, kind.null, 1])
    value = rng.standard_normal((BATCH, *kind.shape(shape)))
    value[1] = kind.null
    if isinstance(kind, Tokens):
        value[:, -1] = kind.null
    return jnp.asarray(value, jnp.float32)


def compiled(f):
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


@cache
def evaluate(name, **options):
    return compiled(network(name, **options).apply)


@cache
def train(name, **options):
    return compiled(network(name, **options).train)


def close(a, b, rtol=2e-4):
    return np.max(np.abs(np.asarray(a) - np.asarray(b))) <= rtol * np.max(np.abs(np.asarray(b)))


def test_every_listed_network_is_in_this_suite():
    assert set(NETWORKS.values()) == {constructor.func for constructor, _ in ALL_NETWORKS.values()}


@each
def test_output_is_finite_float32_of_the_shape_of_x(name):
    x, label, cond = inputs(name)
    y = evaluate(name)(randomised(name), x, label, cond)
    assert y.shape == x.shape
    assert y.dtype == jnp.float32
    assert np.isfinite(y).all()
    assert np.std(y) > 1e-2


@each
def test_permuting_the_batch_permutes_the_output(name):
    params, order = randomised(name), jnp.array([2, 0, 1])
    x, label, cond = inputs(name)
    y = evaluate(name)(params, x, label, cond)
    permuted = jax.tree.map(lambda a: a[order], (x, label, cond))
    assert close(evaluate(name)(params, *permuted), y[order])


@each
def test_examples_do_not_see_each_other(name):
    x, label, cond = inputs(name)
    y = evaluate(name)(randomised(name), x, label, cond)
    moved = evaluate(name)(randomised(name), x.at[0].add(1.0), label.at[0].add(1.0), cond)
    assert close(moved[1:], y[1:])
    assert not close(moved[0], y[0], rtol=1e-2)


@each
def test_every_parameter_is_annotated(name):
    shapes = dict(paths(jax.eval_shape(network(name).init, jax.random.key(0))))
    axes = dict(paths(network(name).axes, is_leaf=lambda node: isinstance(node, tuple)))
    roles = dict(paths(network(name).roles))
    assert shapes.keys() == axes.keys() == roles.keys()
    for path, leaf in shapes.items():
        assert len(axes[path]) == leaf.ndim, path
        assert set(axes[path]) <= set(AXES), path
        assert roles[path] in ROLES, path
        assert roles[path] == role(axes[path]), path


@and_told
def test_axis_names_agree_with_the_axes_that_grow(name):
    """Grow the width: exactly the axes named as widths change, all by the same factor (no mixed concatenation)."""
    from gendyn.parametrization.axes import WIDTH

    width = ALL_NETWORKS[name][0].keywords["width"]
    shapes = dict(paths(jax.eval_shape(network(name).init, jax.random.key(0))))
    wide = dict(paths(jax.eval_shape(functional(make(name, width=2 * width)).init, jax.random.key(0))))
    axes = dict(paths(network(name).axes, is_leaf=lambda node: isinstance(node, tuple)))
    for path, leaf in shapes.items():
        grown = tuple((2 if axis in WIDTH else 1) * n for axis, n in zip(axes[path], leaf.shape))
        assert wide[path].shape == grown, path


@and_told
def test_untrained_network_is_exactly_zero(name):
    x, label, cond = inputs(name)
    assert not np.any(evaluate(name)(initial(name), x, label, cond))


@and_told
def test_initialisation_is_reproducible_and_float32(name):
    again = initialise(network(name), jax.random.key(0))
    other = initialise(network(name), jax.random.key(1))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), initial(name), again))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(other)))
    assert {leaf.dtype for leaf in jax.tree.leaves(again)} == {jnp.dtype("float32")}


@and_told
def test_hidden_kernels_have_variance_one_over_fan_in(name):
    """Statistical: each pooled estimate has over 50 draws; 5 standard errors, false alarm below 1e-5 per kernel."""
    roles = dict(paths(network(name).roles))
    for path, leaf in paths(initial(name)):
        if roles[path] == "hidden" and np.any(leaf):
            fan_in = leaf.size // leaf.shape[-1]
            scaled = float(jnp.var(leaf)) * fan_in
            assert abs(scaled - 1) < 5 * np.sqrt(2 / leaf.size), path


@one_of_each
def test_scalar_label_is_that_label_for_everyone(name):
    x, _, cond = inputs(name)
    params = randomised(name)
    everyone = evaluate(name)(params, x, jnp.full(BATCH, 0.7), cond)
    assert close(evaluate(name)(params, x, 0.7, cond), everyone)
    assert not close(evaluate(name)(params, x, 0.2, cond), everyone, rtol=1e-2)


@one_of_each
def test_null_class_is_no_class_and_differs_from_every_class(name):
    x, label, _ = inputs(name)
    params = randomised(name)
    null = evaluate(name)(params, x, label, jnp.full(BATCH, CLASSES))
    assert close(evaluate(name)(params, x, label, None), null)
    assert not close(evaluate(name)(params, x, label, jnp.zeros(BATCH, int)), null, rtol=1e-2)


@and_told
def test_dropout_follows_its_key_and_rests_in_evaluation(name):
    x, label, cond = inputs(name)
    params = randomised(name)
    noisy = partial(train(name, dropout=0.5), params, x, label, cond)
    assert (noisy(jax.random.key(3)) == noisy(jax.random.key(3))).all()
    assert not close(noisy(jax.random.key(3)), noisy(jax.random.key(4)), rtol=1e-2)
    plain = evaluate(name)(params, x, label, cond)
    assert (evaluate(name, dropout=0.5)(params, x, label, cond) == plain).all()
    assert close(train(name)(params, x, label, cond, jax.random.key(3)), plain)


@cache
def gradients(name, remat):
    x, label, cond = inputs(name)

    def loss(params):
        out = network(name, remat=remat, dropout=0.3).train(params, x, label, cond, jax.random.key(0))
        return jnp.mean(jnp.square(out - x))

    return compiled(jax.value_and_grad(loss))(randomised(name))


@pytest.mark.parametrize("name", ["mlp", "dit_2d", pytest.param("unet_2d", marks=pytest.mark.slow)])
def test_remat_changes_neither_values_nor_gradients(name):
    (plain, grads), (remade, regrads) = gradients(name, False), gradients(name, True)
    assert close(remade, plain)
    largest = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(grads))
    errors = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), regrads, grads)
    assert max(jax.tree.leaves(errors)) < 1e-4 * largest
    params = jax.eval_shape(network(name).init, jax.random.key(0))
    assert "remat" in str(jax.make_jaxpr(network(name, remat=True).apply)(params, *inputs(name)))


@pytest.mark.parametrize(
    "name",
    [
        *("mlp", "dit_2d", "dit_told"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("unet_2d", "unet_told", "edm_adm")),
    ],
)
def test_gradient_reaches_every_parameter(name):
    _, grads = gradients(name, False)
    # softmax is blind to what shifts all logits of a query alike: a key's bias is dead up to rounding, by design
    live = {path: np.max(np.abs(leaf)) for path, leaf in paths(grads) if not path.endswith("key/bias")}
    largest = max(live.values())
    assert [path for path, size in live.items() if not size > 1e-6 * largest] == []


@and_told
def test_bfloat16_computes_in_bfloat16_and_answers_in_float32(name):
    x, label, cond = inputs(name)
    params = randomised(name)
    half = network(name, dtype="bfloat16")
    sixteen = [
        dtype == jnp.bfloat16 for dtype in contractions(jax.make_jaxpr(half.apply)(params, x, label, cond).jaxpr)
    ]
    assert len(sixteen) >= 10
    # float32: two kernels of the conditioning, the readout, attention's q k; and two projections and a second q k
    assert sum(sixteen) >= len(sixteen) - (7 if "told" in name else 4)
    out = evaluate(name, dtype="bfloat16")(params, x, label, cond)
    exact = evaluate(name)(params, x, label, cond)
    assert out.dtype == jnp.float32
    assert close(out, exact, rtol=0.1)
    assert not (out == exact).all()
    grads = jax.eval_shape(jax.grad(lambda p: half.apply(p, x, label, cond).sum()), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


def contractions(jaxpr):
    """The dtypes of the left operands of all matrix products and convolutions of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation.invars[0].aval.dtype
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from contractions(inner)


def test_a_call_changes_nothing():
    """Called eagerly, where a module with random state of its own would advance it; all networks share the layers."""
    x, label, cond = inputs("mlp")
    params = jax.tree.map(jnp.copy, randomised("mlp"))
    call = partial(network("mlp", dropout=0.5).train, params, x, label, cond, jax.random.key(0))
    assert (call() == call()).all()
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, randomised("mlp")))


@and_told
def test_new_weights_and_equal_configurations_do_not_recompile(name):
    traces = []

    @partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
    def call(apply, params, *args):
        traces.append(name)
        return apply(params, *args)

    for params in (initial(name), randomised(name)):
        for apply in (network(name).apply, functional(make(name)).apply):
            call(apply, params, *inputs(name))
    assert len(traces) == 1
    assert functional(make(name)).apply == network(name).apply
    assert functional(make(name, dropout=0.1)).apply != network(name).apply


@one_of_each
def test_out_channels_widen_the_last_axis_only(name):
    x, label, cond = inputs(name)
    wide = network(name, out_channels=2 * x.shape[-1])
    params = jax.eval_shape(wide.init, jax.random.key(0))
    assert jax.eval_shape(wide.apply, params, x, label, cond).shape == (*x.shape[:-1], 2 * x.shape[-1])


@one_of_each
def test_branch_scale_zero_switches_every_branch_off(name):
    x, label, cond = inputs(name)
    params = randomised(name)
    inside = ("/hidden/kernel", "/out/kernel")
    changed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: -leaf if jax.tree_util.keystr(path, simple=True, separator="/").endswith(inside) else leaf,
        params,
    )
    off = evaluate(name, branch_scale=0.0)
    assert (off(params, x, label, cond) == off(changed, x, label, cond)).all()
    assert not close(evaluate(name)(changed, x, label, cond), evaluate(name)(params, x, label, cond), rtol=1e-2)


@one_of_each
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, label, cond: (x[..., None], label, cond), "expects"),
        (lambda x, label, cond: (x, label[:, None], cond), "label is a scalar or one value per example"),
        (lambda x, label, cond: (x, label, cond[:2]), "cond is a scalar or one value per example"),
        (lambda x, label, cond: (x, label, cond / 2), "integer classes"),
    ],
)
def test_wrong_inputs_are_named_before_compiling(name, change, message):
    net = network(name)
    params = jax.eval_shape(net.init, jax.random.key(0))
    with pytest.raises((ValueError, TypeError), match=message):
        jax.eval_shape(net.apply, params, *change(*inputs(name)))


def test_a_class_out_of_range_is_seen():
    x, label, _ = inputs("mlp")
    out = evaluate("mlp")(randomised("mlp"), x, label, jnp.array([0, CLASSES + 1, 1]))
    assert np.isnan(out[1]).all()
    assert np.isfinite(out[jnp.array([0, 2])]).all()


def test_a_class_for_a_network_without_classes_is_refused():
    net = functional(partial(MLP, 2, width=8, depth=1))
    params = jax.eval_shape(net.init, jax.random.key(0))
    with pytest.raises(ValueError, match="num_classes="):
        jax.eval_shape(net.apply, params, jnp.ones((3, 2)), 0.1, jnp.zeros(3, int))
