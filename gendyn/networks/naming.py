"""Calling what a module returns by the module's path, without a word in the network's source."""

from functools import cache
from typing import Any

from flax import nnx
from jax.ad_checkpoint import checkpoint_name


def name_outputs(module: nnx.Module) -> None:
    """From now on every submodule's output carries its path ("blocks/3/attention") as `checkpoint_name`.

    For a module that is merged for one trace, as the bridge does: its submodules change class, in place. (Storing
    outputs in the module instead, as `nnx.capture` does, leaks them out of rematerialised and scanned blocks.)
    """
    for path, inner in nnx.iter_modules(module):
        if path and callable(inner):
            inner._feature = "/".join(map(str, path))  # type: ignore[attr-defined]
            object.__setattr__(inner, "__class__", _named(type(inner)))


@cache
def _named(cls: type) -> type:
    """The class whose calls return the same, by name."""

    def call(self: Any, *inputs: Any, **options: Any) -> Any:
        return checkpoint_name(cls.__call__(self, *inputs, **options), self._feature)  # type: ignore[operator]

    return type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})
