"""Where the processes of a run meet before jax connects them, so that a missing one can be named.

jax's own start-up ends a process from C++ when another does not come, without saying which. So process 0 listens on
the coordinator's port first, the others report there, and when all have come (or the time is over, and who is missing
is told to everyone) the port is left to jax.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

GO, LATE, WRONG = "go", "late", "wrong"
"""The first word of what process 0 tells the others; the rest of the line is the sentence."""
PATIENCE = 0.2  # seconds between attempts to reach the coordinator


def meet(coordinator: str, count: int, index: int, timeout: float) -> None:
    """Return in every process once all `count` have called this with the same coordinator, "HOST:PORT".

    Raises:
        TimeoutError: some did not come within `timeout` seconds, or the coordinator could not be reached; every process
            that did come says which are missing.
        ValueError: the coordinator is not written as HOST:PORT, or two processes have the same index.
        OSError: process 0 cannot listen on the port.
    """
    host, port = _address(coordinator)
    kind, _, sentence = (
        _await_others(port, count, timeout) if index == 0 else _report(host, port, count, index, timeout)
    ).partition(" ")
    if kind != GO:
        raise {LATE: TimeoutError, WRONG: ValueError}[kind](sentence)


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"the coordinator is written as HOST:PORT, for example 10.0.0.2:8476; got {coordinator!r}.")
    return host.strip("[]"), int(port)


def _await_others(port: int, count: int, timeout: float) -> str:
    """Process 0: the verdict, once it was told to all that came."""
    try:
        server = socket.create_server(("", port))
    except OSError as error:
        raise OSError(f"process 0 cannot listen on port {port} ({error.strerror}); choose another port.") from None
    connections: list[socket.socket] = []
    with server:
        verdict = _gathered(server, connections, count, timeout)
    for connection in connections:
        _tell(connection, verdict)
    return verdict


def _gathered(server: socket.socket, connections: list[socket.socket], count: int, timeout: float) -> str:
    """The verdict; `connections` grows by those of the processes that came."""
    came: set[int] = set()
    deadline = time.monotonic() + timeout
    while len(came) < count - 1:
        server.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            connection, _ = server.accept()
        except TimeoutError:
            return f"{LATE} {missing(set(range(1, count)) - came, count, timeout)}."
        who = _line(connection, 5.0)
        if not who.isdigit():  # a port scanner, or a process that died at once
            connection.close()
            continue
        connections.append(connection)
        if int(who) in came or not 0 < int(who) < count:
            return f"{WRONG} a process came as number {who} of {count}, which is taken or out of range."
        came.add(int(who))
    return GO


def _report(host: str, port: int, count: int, index: int, timeout: float) -> str:
    """Any other process: the verdict, as process 0 tells it."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.1))
            break
        except OSError as error:
            if time.monotonic() + PATIENCE > deadline:
                reason = error.strerror or str(error)
                raise TimeoutError(
                    f"process {index} of {count} could not reach process 0 at {host}:{port} within {timeout:g} s "
                    f"({reason}); see whether it runs, and whether the address is right on every process."
                ) from None
            time.sleep(PATIENCE)
    with connection:
        connection.sendall(f"{index}\n".encode())
        verdict = _line(connection, max(deadline - time.monotonic(), 0.0) + 10.0)
    return verdict or f"{LATE} process 0 at {host}:{port} went away before all {count} processes had come."


def missing(absent: Iterable[int], count: int, timeout: float) -> str:
    """The sentence about processes that did not come."""
    names = ", ".join(map(str, sorted(absent)))
    return f"process {names} of {count} did not come within {timeout:g} s; see their logs, and start all again"


def _line(connection: socket.socket, timeout: float) -> str:
    """One line, or "" when none comes."""
    connection.settimeout(max(timeout, 0.01))
    received = b""
    try:
        while not received.endswith(b"\n") and len(received) < 4096:
            piece = connection.recv(256)
            if not piece:
                break
            received += piece
    except OSError:
        return ""
    return received.decode(errors="replace").strip()


def _tell(connection: socket.socket, verdict: str) -> None:
    """Say it, and let the other side close first, so that the port is free at once."""
    with connection:
        try:
            connection.sendall(f"{verdict}\n".encode())
            connection.settimeout(2.0)
            connection.recv(1)
        except OSError:  # it is gone, which jax will notice
            pass
