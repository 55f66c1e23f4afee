"""Devices: one mesh, arrays placed on it by name.

The engine is JAX's own: a program is written for the whole batch, `jax.jit` with `NamedSharding` cuts it over the
mesh, and the same source runs on a laptop's CPU and on a pod. The mesh has a data axis today; parameters are
replicated.
"""

from gendyn.distributed.mesh import DATA, check_divisible, data_mesh, place, replicated, split

__all__ = ["DATA", "check_divisible", "data_mesh", "place", "replicated", "split"]
