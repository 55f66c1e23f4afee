"""Processes: how they find each other at the start, and what they agree on.

    start(...)                    before any device is used: detect the cluster, meet, connect through jax.distributed
    together("open the run", f)   every process calls f; if it raises in one, it raises in all
    first("write", f)             process 0 calls f, and the others hear whether it went well

With one process all of it is nothing.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax

from gendyn.distributed.rendezvous import meet, missing

T = TypeVar("T")
TIMEOUT = 300.0
"""Seconds that processes wait for each other."""
DAY = 86400.0
_calls = itertools.count()  # makes the keys of `together` unique; every process counts alike


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Which processes a run has: what SLURM, Open MPI, Kubernetes or Cloud TPU say unless given; else one process."""

    coordinator: str | None = None
    """Of a run of several processes: HOST:PORT of process 0, as the others reach it. SLURM, Open MPI, Kubernetes and
    Cloud TPU are asked unless given."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    start_timeout: float = TIMEOUT
    """Seconds to wait for the other processes."""
    heartbeat: int = 100
    """Seconds without a sign of life after which a process counts as dead and all others end."""

    def start(self) -> None:
        """Connect this process with the others, before anything uses a device.

        Raises:
            ValueError: given in part, numbers that do not fit, or devices that were used before.
            TimeoutError: a process did not come; the message names it.
        """
        names = ("coordinator", "num_processes", "process_id")
        given = {name: getattr(self, name) for name in names}
        absent = [name for name, value in given.items() if value is None]
        if 0 < len(absent) < len(given):
            raise ValueError(
                f"a run of several processes is given by coordinator, num_processes and process_id together; "
                f"{' and '.join(absent)} is missing. Leave all three out for what the cluster says."
            )
        options: dict[str, Any] = {"heartbeat_timeout_seconds": self.heartbeat}
        options["initialization_timeout"] = max(int(self.start_timeout), 1)
        if self.coordinator is None:
            found = detected(self.start_timeout)
            if found is None:
                return
            meet(*found, self.start_timeout)
        else:
            count, index = self.num_processes or 0, self.process_id or 0
            if not 0 <= index < count:
                raise ValueError(f"process_id must lie in 0..{count - 1} for {count} processes; got {index}.")
            if count == 1:
                return
            meet(self.coordinator, count, index, self.start_timeout)
            options |= {"coordinator_address": self.coordinator, "num_processes": count, "process_id": index}
            options["cluster_detection_method"] = "deactivate"
        try:
            jax.distributed.initialize(**options)
        except RuntimeError as error:
            raise ValueError(
                f"the processes could not be connected ({str(error).splitlines()[0]}); start them once, before "
                "anything uses a device."
            ) from None


def detected(timeout: float = TIMEOUT) -> tuple[str, int, int] | None:
    """(coordinator, processes, process) as jax reads them off the environment; None for a single process."""
    from jax._src.clusters import ClusterEnv  # jax has no public way to ask before connecting

    address, count, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, max(int(timeout), 1)
    )
    return (address, count, index) if address and count is not None and count > 1 and index is not None else None


def together(what: str, function: Callable[[], T], *, timeout: float = TIMEOUT) -> T:
    """Call a function in every process and return what it gave in this one; raise in all if it does in one.

    Without it a process that cannot open its data would end, and the others wait for it in a collective for ever.

    Args:
        what: a verb phrase, for the message.
        timeout: seconds to wait for the others, counted from when this process is done.

    Raises:
        ValueError: the sentence of the process in which it failed; what the function raised, in that process.
        TimeoutError: naming the processes that did not come.
    """
    return _together(what, function, lambda value: None, timeout)[0]


def first(what: str, function: Callable[[], T], *, timeout: float = TIMEOUT) -> T:
    """Call a function in process 0 alone; all get what it gave there (JSON values), or its error. See `together`."""
    called: Callable[[], Any] = function if jax.process_index() == 0 else lambda: None
    return _together(what, called, lambda value: value, timeout)[1]


def _together(what: str, function: Callable[[], T], sent: Callable[[T], Any], timeout: float) -> tuple[T, Any]:
    """(own value, what process 0 sent of its); through the coordination service, so that no device is needed."""
    count, own = jax.process_count(), jax.process_index()
    if count == 1:
        value = function()
        return value, value
    client, key = _client(), f"gendyn/{next(_calls)}"

    def say(value: Any, problem: str | None) -> None:
        client.key_value_set(f"{key}/{own}", json.dumps({"value": value, "problem": problem}))

    try:
        value = function()
    except Exception as error:
        say(None, f"{type(error).__name__}: {error}")
        raise
    say(sent(value), None)
    answers, deadline = {}, time.monotonic() + timeout
    for index in range(count):
        left = int(1000 * min(max(deadline - time.monotonic(), 1e-3), DAY))
        try:
            answers[index] = json.loads(client.blocking_key_value_get(f"{key}/{index}", left))
        except jax.errors.JaxRuntimeError:
            continue
    for index, answer in answers.items():
        if answer["problem"] is not None:
            raise ValueError(f"process {index} could not {what} ({answer['problem']})")
    if absent := set(range(count)) - answers.keys():
        raise TimeoutError(f"{what}: {missing(absent, count, timeout)}.")
    return value, answers[0]["value"]


def _client() -> Any:
    """The coordination service's key-value store; orbax and jax's own multihost_utils reach for it the same way."""
    from jax._src import distributed

    return distributed.global_state.client
