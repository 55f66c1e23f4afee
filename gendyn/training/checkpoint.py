"""Checkpoints: orbax, asynchronous and atomic; what is unreadable is set aside and said, never lost in silence."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from gendyn import distributed
from gendyn.parametrization import ParamTable
from gendyn.training.step import TrainState
from gendyn.tree import paths

Report = Callable[[str], None]
TABLE = "parametrization"
"""Entry of a checkpoint's meta that holds the network's table, if it has one."""
ITEMS = ("params", "ema", "rest")
MARGIN, BLOCK = 1.25, 4096
"""Room that is asked for: so much over the bytes of the arrays, and bytes for each array's name, shape and place."""
logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run: per step the items params, ema, rest (optimiser state, step, key) and meta.

    Items are separate so that a finished model is loaded without its optimiser. The last `keep_last` are kept, and
    every `keep_every`-th step for good. Trees are nested dicts of arrays keyed by name, restored onto any mesh.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        *,
        keep_last: int | None = 3,
        keep_every: int | None = None,
        read_only: bool = False,
    ):
        self.folder = epath.Path(folder)
        if "://" not in str(folder):  # orbax takes absolute paths only
            self.folder = self.folder.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep_last, keep_period=keep_every, create=not read_only, read_only=read_only
        )
        self.manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=_handlers())

    def steps(self) -> list[int]:
        """Steps present, oldest first; half-written ones do not count."""
        return sorted(self.manager.all_steps())

    def save(
        self, state: TrainState, stds: Sequence[float], meta: dict[str, Any], *, only: Sequence[str] = ITEMS
    ) -> None:
        """Copy to the host and write in the background (`only` some items); a step already on disk is left alone.

        Raises:
            OSError: less room on the disk than the checkpoint takes; said before anything is written.
        """
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        items = {name: item for name, item in _items(state, stds).items() if name in only}
        distributed.together("make room for a checkpoint", partial(self._check_room, items, step))
        saves = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        self.manager.save(step, args=ocp.args.Composite(**saves, meta=ocp.args.JsonSave(meta)))

    def restore(
        self, abstract: TrainState, stds: Sequence[float], sharding: Any, report: Report = logger.warning
    ) -> Any:
        """The newest readable state, or None if there is none.

        It is read onto `sharding`, one for every leaf or a tree like the state, whatever mesh wrote it.

        A checkpoint that cannot be read is moved to `unreadable/` beside the others and reported, and the one
        before it is tried.

        Raises:
            ValueError: the checkpoints are of another model (see `check`); they stay where they are.
        """
        self.check(abstract, stds)
        steps = distributed.first("list the checkpoints", self.steps)
        for step in reversed(steps):
            try:
                read = partial(self._state, step, abstract, stds, sharding)
                return distributed.together(f"read checkpoint {step}", read)
            except TimeoutError:
                raise
            except Exception as error:  # orbax raises many kinds for files cut short
                where = distributed.first(f"set checkpoint {step} aside", partial(self._set_aside, step))
                self.manager.reload()
                then = "trying the one before" if step != steps[0] else "none is left, starting from step 0"
                report(f"checkpoint {step} cannot be read ({first_line(error)}); moved to {where}, {then}.")
        return None

    def check(self, abstract: TrainState, stds: Sequence[float]) -> None:
        """Refuse to continue checkpoints of another model or optimiser, which is no damage and must not be moved.

        Only the stored names and shapes are read.

        Raises:
            ValueError: naming the first leaf of the newest checkpoint that differs.
        """
        wanted = _shapes(_items(abstract, stds))
        for step in reversed(self.steps()):
            found = self._stored_shapes(step)
            if not {"params", "rest"} <= found.keys() or (stds and "ema" not in found):
                continue  # damaged: restore sets it aside
            stored = _shapes(found)
            for name in sorted(wanted.keys() | stored.keys()):
                if wanted.get(name) != stored.get(name):
                    there, here = (str(list(s[name])) if name in s else "absent" for s in (stored, wanted))
                    raise ValueError(
                        f"checkpoint {step} in {self.folder} is of another model: {name} is {there} there and {here} "
                        "here; undo the change, or train in another directory."
                    )
            return

    def check_table(self, step: int, table: ParamTable | None) -> None:
        """Refuse weights that were trained under another parametrisation: they would be multiplied by other numbers.

        Raises:
            ValueError: naming the first entry that differs. A checkpoint that stores no table is accepted.
        """
        try:
            stored = self.meta(step).get(TABLE)
        except Exception:  # damaged: restore sets it aside
            return
        if stored is None:
            return
        where = f"checkpoint {step} in {self.folder}"
        if table is None:
            raise ValueError(f"{where} was trained under a {stored['rule']} table, and the network here has none.")
        if found := ParamTable.from_json(json.dumps(stored)).difference(table):
            raise ValueError(
                f"{where} was trained under another table, {found} here; undo the change, or train elsewhere."
            )

    def size(self, step: int) -> int:
        """Bytes on disk."""
        return _size(self.folder / str(step))

    def problems(self, step: int) -> list[str]:
        """What is wrong with a checkpoint, in words: every array of it is read, one item at a time, on one device."""
        found = self._stored_shapes(step)
        expected = () if set(found) == {"ema"} else ("params", "rest")  # snapshots are averages alone
        wrong = [f"{name} is missing or cannot be read" for name in expected if name not in found]
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        for name, tree in found.items():
            abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype), tree)
            try:
                read = self.item(step, name, abstract, device)
            except Exception as error:  # orbax raises many kinds for files cut short
                wrong.append(f"{name} cannot be read ({first_line(error)})")
                continue
            wrong += [
                f"{name}/{path} is not finite"
                for path, leaf in paths(read)
                if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all())
            ]
        try:
            self.meta(step)
        except Exception as error:
            wrong.append(f"meta cannot be read ({first_line(error)})")
        return wrong

    def delete(self, step: int) -> None:
        """Remove a checkpoint for good."""
        self.manager.delete(step)

    def forget(self, after: int) -> None:
        """Delete what lies beyond step `after`: left by a run that was interrupted and is about to redo it."""
        for step in self.steps():
            if step > after:
                self.delete(step)

    def item(self, step: int, name: str, abstract: Any, sharding: Any = None) -> Any:
        """One item of one step."""
        target = ocp.args.StandardRestore(_with_sharding(abstract, sharding))
        return self.manager.restore(step, args=ocp.args.Composite(**{name: target}))[name]

    def meta(self, step: int) -> dict[str, Any]:
        return self.manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def wait(self) -> None:
        """Until everything saved is on disk."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self.manager.close()

    def _check_room(self, items: dict[str, Any], step: int) -> None:
        """orbax, when the disk is full, says so in hundreds of lines from threads of its own."""
        self.manager.wait_until_finished()  # the one before is whole, and the oldest deleted
        if "://" in str(self.folder):
            return
        leaves, free = jax.tree.leaves(items), shutil.disk_usage(self.folder).free
        own = (shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards if shard.replica_id == 0)
        needed = MARGIN * sum(own) + BLOCK * len(leaves)
        if needed > free:
            kept = self.steps()
            since = f"continues from step {kept[-1]}" if kept else "begins anew"
            raise OSError(
                f"{self.folder} is full: the checkpoint of step {step} takes {needed / 2**20:.1f} MiB and "
                f"{free / 2**20:.1f} MiB are free. Make room (gendyn checkpoint prune); the same command then {since}."
            )

    def _state(self, step: int, abstract: TrainState, stds: Sequence[float], sharding: Any) -> TrainState:
        placed = _items(_with_sharding(abstract, sharding), stds)
        targets = {name: ocp.args.StandardRestore(tree) for name, tree in placed.items()}
        found = self.manager.restore(step, args=ocp.args.Composite(**targets))
        rest = found["rest"]
        averages = tuple(found["ema"][_name(std)] for std in stds) if stds else ()
        return TrainState(
            params=found["params"], ema=averages, opt_state=rest["opt_state"], step=rest["step"], key=rest["key"]
        )

    def _stored_shapes(self, step: int) -> dict[str, Any]:
        """Item -> tree of stored arrays' metadata; {} where they cannot be read."""
        try:
            return {name: item.tree for name, item in self.manager.item_metadata(step).items() if hasattr(item, "tree")}
        except Exception:  # orbax raises many kinds for files cut short
            return {}

    def _set_aside(self, step: int) -> str:
        source, target = self.folder / str(step), self.folder / "unreadable" / str(step)
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            target.rmtree()
        source.rename(target)
        return str(target)


def _items(state: TrainState, stds: Sequence[float]) -> dict[str, Any]:
    items = {"params": state.params, "rest": {"opt_state": state.opt_state, "step": state.step, "key": state.key}}
    if stds:
        items["ema"] = {_name(std): tree for std, tree in zip(stds, state.ema, strict=True)}
    return items


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    """What reads which item; named, so that metadata can be read before anything was saved."""
    trees = {name: ocp.StandardCheckpointHandler() for name in ("params", "ema", "rest")}
    return {**trees, "meta": ocp.JsonCheckpointHandler()}


def _shapes(items: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Leaf name -> shape; but for the key, whose stored form is its words."""
    return {name: tuple(leaf.shape) for name, leaf in paths(items) if name != "rest/key"}


def _size(path: epath.Path) -> int:
    return sum(map(_size, path.iterdir())) if path.is_dir() else path.stat().length


def _name(std: float) -> str:
    return f"{std:g}"


def _with_sharding(abstract: Any, sharding: Any) -> Any:
    """`sharding` is one for all leaves, a tree of them, or None."""
    places = jax.tree.broadcast(sharding, abstract, is_leaf=lambda node: node is None)
    return jax.tree.map(lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), abstract, places)


def table_meta(table: ParamTable | None) -> dict[str, Any]:
    """What a checkpoint's meta says of the network's table."""
    return {} if table is None else {TABLE: json.loads(table.to_json())}


def first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
