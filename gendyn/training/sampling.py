"""Drawing many samples from a model: sample i of a seed is the same image whatever the batch and the devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from gendyn import distributed, samplers
from gendyn.control import cfg, restore
from gendyn.data.loader import take
from gendyn.processes.fields import Direction, Fields, OfGamma
from gendyn.samplers import SamplerPlan
from gendyn.samplers.statistics import Statistics
from gendyn.training.experiment import Experiment, Sampling
from gendyn.training.two_sided import clock_options


def plan_for(
    process: Any, sampling: Sampling, statistics: Statistics | None = None, shape: tuple[int, ...] | None = None
) -> SamplerPlan:
    """The plan that a `Sampling` names; samplers of `samplers.FITTED` need the model's statistics, of its shape."""
    fitted = {} if statistics is None else {"statistics": statistics, "shape": shape}
    options: dict[str, Any] = sampling.options | clock_options(process, sampling) | fitted
    return samplers.plan(sampling.sampler, process, sampling.nfe, sampling.grid, **options)


def guided(denoiser: Any, weight: float, null: Any) -> Any:
    """The denoiser itself at weight 1, else classifier-free guidance against the null condition (the null class)."""
    if weight == 1.0:
        return denoiser
    if hasattr(denoiser, "anchor"):
        raise ValueError(f"guidance {weight:g} was asked of a restoration model, which has no null condition (use 1).")
    if isinstance(denoiser, Fields):
        raise ValueError(f"guidance {weight:g} was asked of a two-sided interpolant, which is not guided (use 1).")
    if null is None:
        raise ValueError(f"guidance {weight:g} needs a class-conditional model; this one has no classes (use 1).")
    return cfg(denoiser, weight, null=null)


def sample(
    denoiser: Any,
    plan: SamplerPlan,
    shape: tuple[int, ...],
    *,
    num: int,
    labels: Any = None,
    starts: Any = None,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 256,
    mesh: Mesh | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """`num` samples of a seed from number `first` on, [num, *shape], as float32 on the host.

    Sample i draws its prior and all its noise from fold_in(key(seed), i), so it depends neither on its neighbours nor
    on the batch size; batches are cut over the mesh's devices. The last batch is filled up, so one program serves all.

    Args:
        labels: conditions, [num] (or a tree of such), or None.
        starts: states at the plan's first time, [num, *shape], in the place of draws from the prior.
        report: called with the number of samples done after every batch.
    """
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "mesh": mesh, "report": report}
    options["starts"] = starts
    return _ends(denoiser, plan, shape, rows=range(first, first + num), labels=labels, **options)[1]


def pairs(
    denoiser: Any,
    plan: SamplerPlan,
    shape: tuple[int, ...],
    *,
    rows: range,
    labels: Any = None,
    seed: int = 0,
    batch_size: int = 256,
    mesh: Mesh | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Samples number `rows` of a seed with the unit noise that each started from: (noise, sample), [len(rows), *shape].

    As `sample`: pair i depends neither on its neighbours nor on the batch size, so pairs may be made in pieces.
    """
    x_T, x = _ends(
        denoiser,
        plan,
        shape,
        rows=rows,
        labels=labels,
        starts=None,
        seed=seed,
        batch_size=batch_size,
        mesh=mesh,
        report=report,
    )
    return x_T / np.float32(plan.process.sigma(float(plan.t[0]))), x


def _ends(
    denoiser: Any,
    plan: SamplerPlan,
    shape: tuple[int, ...],
    *,
    rows: range,
    labels: Any,
    starts: Any,
    seed: int,
    batch_size: int,
    mesh: Mesh | None,
    report: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """(x_T, x) of the numbered rows, on the host."""
    mesh = distributed.data_mesh() if mesh is None else mesh
    denoiser = _on(mesh, denoiser)
    ways, num = distributed.ways(mesh), len(rows)
    batch_size = -(-min(batch_size, num) // ways) * ways
    kept: tuple[list[np.ndarray], ...] = ([np.zeros((0, *shape), np.float32)], [np.zeros((0, *shape), np.float32)])
    for start in range(0, num, batch_size):
        places = np.minimum(np.arange(start, start + batch_size), num - 1)
        cond, begin = jax.tree.map(lambda a, places=places: np.asarray(a)[places], (labels, starts))
        both = _batch(denoiser, plan, shape, seed, np.asarray(rows)[places], cond, begin, mesh)
        for end, new in zip(kept, both, strict=True):
            end.append(distributed.fetch(new)[: num - start])
        report(min(start + batch_size, num))
    return np.concatenate(kept[0]), np.concatenate(kept[1])


def _batch(
    denoiser: Any, plan: SamplerPlan, shape: tuple[int, ...], seed: int, rows: Any, cond: Any, starts: Any, mesh: Mesh
) -> tuple[Any, Any]:
    cut = distributed.split(mesh)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(rows))
    priors, draws = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    x_T = starts if starts is not None else _from_prior(plan, priors, shape)
    x_T, draws, cond = distributed.put((x_T, draws, cond), cut)
    with jax.set_mesh(mesh):
        if hasattr(denoiser, "anchor"):
            mu = denoiser.anchor(cond)
            return x_T, restore(plan, denoiser, mu, draws, x_T=mu + x_T, cond=cond)
        return x_T, samplers.run(plan, denoiser, x_T, key=draws, cond=cond)


def _from_prior(plan: SamplerPlan, keys: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    prior = plan.process.sample_prior
    return jax.vmap(lambda key: prior(key, (1, *shape), t=float(plan.t[0]))[0])(keys)


def _on(mesh: Mesh, denoiser: Any) -> Any:
    """Weights that do not lie on the mesh already are copied to every device of it; a function stays as it is."""
    whole = distributed.replicated(mesh)

    def put(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or getattr(leaf.sharding, "mesh", None) == mesh:
            return leaf
        return distributed.put(leaf, whole)

    return jax.tree.map(put, denoiser)


def conditions(
    experiment: Experiment, num: int, only: int | None = None, *, first: int = 0
) -> tuple[Any, np.ndarray | None]:
    """(conditions, classes) of `num` samples from number `first` on: classes as in `class_labels`; where a model is
    told more than a class, or the objective makes samples from entries of an example (mu of a restoration), those of
    the test examples from that number on, of one class if `only` says so.

    Raises:
        ValueError: such a model, and an experiment without test examples.
    """
    given = getattr(experiment.objective, "given", ())
    if not given and not experiment.conditions:
        labels = class_labels(num, experiment.num_classes, only, first=first)
        return labels, labels
    batch = _examples(experiment, (*given, *experiment.conditions), num, only, first)
    labels, cond = batch["label"] if experiment.num_classes is not None else None, experiment.condition(batch)
    if given:
        cond = {name: batch[name] for name in given} | ({} if cond is None else {"label": cond})
    return cond, labels


def starts(experiment: Experiment, num: int, direction: Direction = "forward", *, first: int = 0) -> np.ndarray | None:
    """What `num` samples from number `first` on start from in the place of a prior: the base of those test examples for
    an objective of two data sets (their data on the way back), else None.

    Raises:
        ValueError: an objective of two data sets, and an experiment without test examples.
    """
    entry = getattr(experiment.objective, "start", None)
    if entry is None:
        return None
    entry = entry if direction == "forward" else "data"
    return _examples(experiment, (entry,), num, first=first)[entry]


def _examples(
    experiment: Experiment, names: tuple[str, ...], num: int, only: int | None = None, first: int = 0
) -> dict[str, Any]:
    """Test examples in turn, again from the beginning where there are fewer; of one class if `only` says so."""
    if experiment.test is None:
        raise ValueError(f"samples of this model are made from {', '.join(names)} of test examples; set test=.")
    source = experiment.test()
    rows = np.arange(len(source))
    if only is not None:
        class_labels(1, experiment.num_classes, only)
        rows = rows[take(source, rows)["label"] == only]
    return take(source, rows[(first + np.arange(num)) % len(rows)])


def called(D: Any, plan: SamplerPlan, sampling: Sampling) -> Any:
    """What the plan calls: the model itself, or, for an SDE of an interpolant, its drift with the same diffusion."""
    if isinstance(D, Fields) and plan.field != D.field:
        return D.drift(sampling.options.get("diffusion", OfGamma()), sampling.direction)
    return D


def class_labels(num: int, num_classes: int | None, only: int | None = None, *, first: int = 0) -> np.ndarray | None:
    """Classes of the samples from number `first` on, in turn, 0 1 2 ... 0 1 2, or one class throughout; None for an
    unconditional model."""
    if num_classes is None:
        if only is not None:
            raise ValueError(f"class {only} was asked of a model without classes.")
        return None
    if only is not None and not 0 <= only < num_classes:
        raise ValueError(f"class must lie in 0..{num_classes - 1}; got {only}.")
    turns = ((first + np.arange(num)) % num_classes).astype(np.int32)
    return turns if only is None else np.full(num, only, np.int32)
