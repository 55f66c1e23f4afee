"""Processes that meet, and those that do not: the sentence names who is missing, in every process that came."""

import socket
import threading
import time

import pytest

from gendyn.distributed import Cluster, first, together
from gendyn.distributed.rendezvous import meet


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def gathered(coordinator, count, indices, timeout, late=()):
    """Which process -> what `meet` raised there, or None; `late` ones come half a second after the others."""
    found = {}

    def run(place, index):
        time.sleep(0.5 * (index in late))
        try:
            meet(coordinator, count, index, timeout)
            found[place] = None
        except (OSError, ValueError) as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(indices)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("late", [(), (0,), (2,)])
def test_all_go_on_once_all_have_come(late):
    found = gathered(f"127.0.0.1:{free_port()}", 4, range(4), 20.0, late)
    assert found == dict.fromkeys(range(4))


def test_the_port_is_free_for_jax_afterwards():
    port = free_port()
    assert gathered(f"127.0.0.1:{port}", 2, range(2), 20.0) == {0: None, 1: None}
    with socket.create_server(("127.0.0.1", port)) as server:
        assert server.getsockname()[1] == port


def test_everyone_who_came_names_the_missing():
    found = gathered(f"127.0.0.1:{free_port()}", 4, (0, 2), 1.0)
    for error in found.values():
        assert isinstance(error, TimeoutError)
        assert str(error) == "process 1, 3 of 4 did not come within 1 s; see their logs, and start all again."


def test_without_process_0_the_address_is_named():
    port = free_port()
    error = gathered(f"127.0.0.1:{port}", 2, (1,), 0.5)[0]
    assert isinstance(error, TimeoutError)
    assert f"process 1 of 2 could not reach process 0 at 127.0.0.1:{port} within 0.5 s" in str(error)


def test_two_of_one_number_are_refused_everywhere():
    found = gathered(f"127.0.0.1:{free_port()}", 3, (0, 1, 1), 20.0)
    assert all("came as number 1 of 3, which is taken" in str(error) for error in found.values()), found


def test_a_stranger_at_the_port_is_no_process():
    port = free_port()
    waiting = threading.Thread(target=gathered, args=(f"127.0.0.1:{port}", 2, (0, 1), 20.0, (1,)))
    waiting.start()
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    waiting.join(timeout=15)
    assert not waiting.is_alive()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coordinator": "host:1"}, "num_processes and process_id is missing"),
        ({"num_processes": 2, "process_id": 0}, "coordinator is missing"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "written as HOST:PORT"),
        ({"coordinator": "host:99999", "num_processes": 2, "process_id": 0}, "written as HOST:PORT"),
        (
            {"coordinator": "host:1", "num_processes": 2, "process_id": 2},
            r"process_id must lie in 0\.\.1 for 2 processes; got 2",
        ),
    ],
)
def test_clusters_given_in_part_or_wrongly_are_refused_before_anything_starts(fields, message):
    with pytest.raises(ValueError, match=message):
        Cluster(**fields).start()


def test_one_process_needs_nobody():
    Cluster().start()
    Cluster(coordinator="nowhere:1", num_processes=1, process_id=0).start()
    assert together("count", lambda: 3) == 3
    assert first("count", lambda: 4) == 4
    with pytest.raises(KeyError):
        together("fail", lambda: {}["x"])
