"""Where parameters lie, and that a run does not depend on it."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from experiments.digits_dynamics import Config
from gendyn.distributed import RULES, ShardingTable, abstract_mesh, make_mesh
from gendyn.training import Checkpoints, abstract_state, build
from gendyn.training.step import sharding_table, state_shardings
from gendyn.tree import paths

MESHES = [
    {"fsdp": 2, "tensor": 2},
    *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ({"fsdp": 8}, {"tensor": 4}, {"sequence": 4})),
]


def network(**sizes):
    return gd.networks.functional(partial(gd.networks.DiT, (32, 32, 4), num_classes=1000, **sizes))


def table(net, **sizes):
    return ShardingTable.of(jax.eval_shape(net.init, jax.random.key(0)), net.axes, abstract_mesh(**sizes))


def test_rules_name_axes_of_parameters_and_of_the_mesh():
    assert set(RULES) <= set(gd.parametrization.axes.AXES)
    assert set(RULES.values()) <= set(gd.distributed.AXES)
    with pytest.raises(ValueError, match="name the mesh axis 'pipe', but the mesh has data, fsdp, tensor, sequence"):
        ShardingTable.of({"w": jnp.ones((2, 2))}, None, abstract_mesh(), rules={"embed": "pipe"})


def test_every_row_is_what_its_sharding_does():
    """No axis twice, only dimensions that divide, vectors whole, and bytes as jax counts them."""
    found = table(network(width=48, depth=2, heads=3), fsdp=4, tensor=3)
    for row in found.rows:
        used = [axis for axis in row.spec if axis]
        assert len(set(used)) == len(used)
        assert all(size % found.mesh.shape[axis] == 0 for size, axis in zip(row.shape, row.spec) if axis)
        assert len(row.shape) > 1 or not used
        leaf = jax.ShapeDtypeStruct(row.shape, jnp.float32)
        assert found.bytes_per_device({row.path: leaf}) in (row.bytes, row.bytes_per_device)
    specs = {row.path: row.spec for row in found.rows}
    assert specs["blocks/0/hidden/kernel"] == ("fsdp", "tensor")
    assert specs["blocks/0/out/kernel"] == ("tensor", "fsdp")
    assert specs["blocks/0/attention/query/kernel"] == ("fsdp", "tensor")
    assert "of" in str(found).splitlines()[-1]


def test_what_does_not_divide_stays_whole():
    found = table(network(width=48, depth=1, heads=3), fsdp=5)
    assert {axis for row in found.rows for axis in row.spec} == {None}


def test_networks_without_axes_are_cut_along_their_largest_dimension():
    params = {"w": jnp.ones((8, 24)), "odd": jnp.ones((3, 5)), "b": jnp.ones(24)}
    rows = ShardingTable.of(params, None, abstract_mesh(fsdp=4)).rows
    assert {row.path: row.spec for row in rows} == {"w": (None, "fsdp"), "odd": (None, None), "b": (None,)}


def test_fsdp_shares_out_a_small_dit_almost_evenly():
    """Parameters, Adam's moments and an average of DiT-S/2: at most 1.05/8 of one device's bytes on each of eight."""
    net = network(width=384, depth=12, heads=6)
    experiment = dataclasses.replace(Config().experiment(), network=net, ema=(0.05,))
    state = abstract_state(experiment)
    whole, eighth = (sharding_table(experiment, abstract_mesh(fsdp=n)).bytes_per_device(state) for n in (1, 8))
    assert eighth <= 1.05 / 8 * whole


@pytest.fixture(scope="module")
def experiment():
    """An MLP in two dimensions: programs that compile in a second."""
    net = gd.networks.functional(partial(gd.networks.MLP, 2, width=16, depth=1))
    rate = gd.training.schedule("constant", 1e-2, steps=10)
    return gd.training.Experiment(
        network=net,
        objective=gd.objectives.Denoising(process=gd.processes.EDM()),
        source=partial(gd.data.synthetic2d, "gaussians8", n=64),
        shape=(2,),
        batch_size=16,
        steps=10,
        optimizer=gd.training.adamw(rate),
        ema=(0.05,),
    )


def trained(experiment, mesh, steps=5):
    state, step, batches = build(experiment, mesh=mesh)
    losses = []
    for _, batch in zip(range(steps), batches):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses


def one():
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def alone(experiment):
    """(state, losses) on one device."""
    return trained(experiment, one())


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_a_run_is_the_same_on_every_mesh(experiment, alone, sizes):
    """Losses and parameters to float32 reduction error, every leaf where the table says, the old state donated."""
    mesh = make_mesh(**sizes)
    state, losses = trained(experiment, mesh)
    np.testing.assert_allclose(losses, alone[1], rtol=1e-5)
    for (path, leaf), (_, wanted) in zip(paths(state.params), paths(alone[0].params)):
        np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-6, err_msg=path)
    places = state_shardings(experiment, mesh)
    for (path, leaf), (_, place) in zip(paths(state), paths(places)):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim), path
    moments = [path for path, place in paths(places.opt_state) if any(place.spec)]
    assert len(moments) == 2 * len([row for row in sharding_table(experiment, mesh).rows if any(row.spec)])


def test_a_sharded_model_draws_the_same_samples(experiment, alone):
    """Weights stay cut while sampling."""
    mesh = make_mesh(fsdp=2, tensor=2)
    params = jax.device_put(alone[0].params, state_shardings(experiment, mesh).params)
    plan = gd.plan("ddim", experiment.process, nfe=3)
    whole, cut = (
        gd.training.sample(experiment.objective.denoiser(experiment.network.apply, p), plan, (2,), num=8, mesh=m)
        for p, m in ((alone[0].params, one()), (params, mesh))
    )
    np.testing.assert_allclose(cut, whole, rtol=1e-4, atol=1e-4)


def test_a_sharded_state_is_donated(experiment):
    state, step, batches = build(experiment, mesh=make_mesh(fsdp=8))
    step(state, next(batches))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_checkpoints_move_between_meshes(experiment, tmp_path):
    """Written by fsdp over eight devices, read on fewer, cut otherwise and whole: the same values."""
    state, _ = trained(experiment, make_mesh(fsdp=8), steps=1)
    store = Checkpoints(tmp_path / "checkpoints")
    store.save(state, experiment.ema, {})
    store.wait()
    wanted = {path: np.asarray(leaf) for path, leaf in paths(state.params)}
    for mesh in (make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4]), one()):
        places = state_shardings(experiment, mesh)
        found = store.restore(abstract_state(experiment), experiment.ema, places)
        for path, leaf in paths(found.params):
            np.testing.assert_array_equal(leaf, wanted[path], err_msg=path)
        assert all(a.sharding == b for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(places.params)))


def test_heads_that_a_tensor_axis_does_not_divide_are_refused():
    net = network(width=48, depth=1, heads=3, patch=8)
    params = jax.eval_shape(net.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((8, 32, 32, 4), jnp.float32)
    with (
        jax.set_mesh(make_mesh(tensor=2)),
        pytest.raises(ValueError, match="tensor=2, which does not divide the 3 attention heads"),
    ):
        jax.jit(net.apply).lower(params, x, 0.5)


def test_over_a_sequence_axis_a_block_gathers_its_keys_and_values_alone():
    """Each device keeps its own tokens; the output is that of one device."""
    net = gd.networks.functional(partial(gd.networks.DiT, (8, 8, 1), patch=2, width=16, depth=2, heads=2))
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape) / 4, jnp.float32)
    params = jax.tree.map(draw, jax.eval_shape(net.init, jax.random.key(0)))
    x = draw(jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32))
    wanted = jax.jit(net.apply)(params, x, 0.5)
    mesh = make_mesh(sequence=4, data=2)
    with jax.set_mesh(mesh):
        compiled = jax.jit(net.apply).lower(jax.device_put(params, gd.distributed.replicated(mesh)), x, 0.5).compile()
        found = compiled(params, x, 0.5)
    keys_and_values = re.findall(r"f32\[2,16,2,8\]\S* all-gather(?:-start)?\(", compiled.as_text())
    assert len(keys_and_values) == 2 * 2
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_a_transformer_gathers_weights_and_never_exchanges_activations(sizes):
    """Of the compiled step: no all-to-all; over fsdp at most three gathers per weight. Losses as on one device."""
    config = Config(width=32, depth=1, batch_size=16, warmup=2)
    mesh = make_mesh(**sizes)
    state, step, batches = build(config, mesh=mesh)
    text = step.lower(state, next(batches)).compile().as_text()
    assert not re.findall(r"all-to-all\(", text)
    rows = [row for row in sharding_table(config.experiment(), mesh).rows if "fsdp" in row.spec]
    if not {"tensor", "sequence"} & sizes.keys():
        assert len(re.findall(r"all-gather\(|all-gather-start\(", text)) <= 3 * len(rows)
    np.testing.assert_allclose(trained(config, mesh)[1], trained(config, one())[1], rtol=1e-5)
