"""Where the processes of a run meet before jax connects them, so that a missing one can be named.

jax's own start-up ends a process from C++ when another does not come, without saying which. So process 0 listens on
the coordinator's port first, the others report there, and when all have come (or the time is over, and who is missing
is told to everyone) the port is left to jax.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

GO = "go"
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
    (_await_others if index == 0 else _report)(host, port, count, index, time.monotonic() + timeout, timeout)


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"the coordinator is written as HOST:PORT, for example 10.0.0.2:8476; got {coordinator!r}.")
    return host.strip("[]"), int(port)


def _await_others(host: str, port: int, count: int, index: int, deadline: float, timeout: float) -> None:
    came: dict[int, socket.socket] = {}
    verdict = GO
    try:
        with socket.create_server(("", port)) as server:
            while len(came) < count - 1 and verdict == GO:
                server.settimeout(max(deadline - time.monotonic(), 0.01))
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    verdict = missing({*range(1, count)} - came.keys(), count, timeout)
                    break
                who = _line(connection, 5.0)
                if not who.isdigit():  # a port scanner, or a process that died at once
                    connection.close()
                elif int(who) in came or not 0 < int(who) < count:
                    verdict = f"a process came as number {who} of {count}, which is taken or out of range"
                    came[-1] = connection
                else:
                    came[int(who)] = connection
    except OSError as error:
        if error.filename is None and not came:
            raise OSError(f"process 0 cannot listen on port {port} ({error.strerror}); choose another port.") from None
        raise
    finally:
        for connection in came.values():
            _tell(connection, verdict)
    _raise(verdict)


def _report(host: str, port: int, count: int, index: int, deadline: float, timeout: float) -> None:
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
    _raise(verdict or f"process 0 at {host}:{port} went away before all {count} processes had come")


def missing(absent: Iterable[int], count: int, timeout: float) -> str:
    """The sentence about processes that did not come."""
    names = ", ".join(map(str, sorted(absent)))
    return f"process {names} of {count} did not come within {timeout:g} s; see their logs, and start all again"


def _raise(verdict: str) -> None:
    if verdict != GO:
        kind = TimeoutError if "did not come" in verdict or "went away" in verdict else ValueError
        raise kind(f"{verdict}.")


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
