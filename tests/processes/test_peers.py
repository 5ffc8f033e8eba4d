"""Peers, without JAX: their hub and their links in one process, and ends that are only noted down."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from s2sjax.processes import peers
from s2sjax.processes.peers import LOST, Hub, Link


@pytest.fixture
def ends(monkeypatch) -> Iterator[list[tuple[str, int, str]]]:
    """What was said by whom who ended: (thread, code, text)."""
    noted: list[tuple[str, int, str]] = []

    def leave(code: int, text: str) -> None:
        noted.append((threading.current_thread().name, code, text))
        threading.Event().wait()  # as if the process were gone

    monkeypatch.setattr(peers, "leave", leave)
    monkeypatch.setattr(peers, "_BEAT", 0.05)
    monkeypatch.setattr(peers, "_PATIENCE", 0.2)
    monkeypatch.setattr(peers, "_FAREWELL", 0.3)
    yield noted
    for link in _made:  # their threads live on, and must not end the tests
        link._ending = True
    _made.clear()


_made: list[Link] = []


def connect(index: int, port: int, token: str, *, timeout: float) -> Link:
    _made.append(Link(index, ("localhost", port), token, timeout=timeout))
    return _made[-1]


def joined(count: int, timeout: float = 30.0) -> tuple[Hub, list[Link]]:
    hub = Hub(count, timeout=timeout)
    links = [connect(n, hub.port, hub.token, timeout=timeout) for n in range(count)]
    await_(lambda: hub._joined == count)
    return hub, links


def await_(happened) -> None:
    end = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_all_stop_at_the_same_call_however_far_apart_they_are(ends):
    _, links = joined(3)
    stopped = {}

    def loop(number: int) -> None:
        for step in range(1, 10_000):
            if links[number].agree(step, stop=number == 1 and step >= 20):
                stopped[number] = step
                return
            time.sleep(0.002 * (number + 1))

    threads = [threading.Thread(target=loop, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(stopped) == 3 and len(set(stopped.values())) == 1, stopped
    assert all(link.agreed for link in links) and not ends


def test_a_stop_is_agreed_on_though_one_has_left(ends):
    hub, links = joined(2)
    links[1].close()
    links[1]._hub.connection.shutdown(2)
    await_(lambda: len(hub._peers) == 1)
    await_(lambda: links[0].agree(1, stop=True))
    assert not ends


def test_whoever_closes_without_a_word_has_died_and_the_others_hear_his_name(ends):
    _, links = joined(3)
    for number, link in enumerate(links):
        link.agree(7 + number, stop=False)
    links[2]._done.set()  # its own thread shall not speak
    links[2]._hub.connection.shutdown(2)
    await_(lambda: len(ends) == 2)
    assert {code for _, code, _ in ends} == {LOST}
    assert all(text.startswith("process 2 (") for *_, text in ends)
    said = {text.partition(") ")[2] for *_, text in ends}
    assert said == {f"has died; step {step} was the last begun here" for step in (7, 8)}


def test_whoever_says_nothing_for_the_time_out_is_named(ends, monkeypatch):
    hub = Hub(2, timeout=0.6)
    with monkeypatch.context() as patch:
        patch.setattr(Link, "_run", lambda self: None)
        mute = connect(1, hub.port, hub.token, timeout=0.6)
    connect(0, hub.port, hub.token, timeout=0.6)
    await_(lambda: ends)
    (_, code, text) = ends[0]
    assert code == LOST and text.startswith("process 1 (") and "has not answered for 0.6 s" in text
    mute.close()


def test_a_first_process_that_says_nothing_is_named_by_the_others(ends):
    with socket.create_server(("localhost", 0)) as mute:
        connect(1, mute.getsockname()[1], "token", timeout=0.6)
        connection, _ = mute.accept()
        with connection:
            connection.sendall(b'{"kind": "hello", "host": "there", "pid": 7}\n{"kind": "beat"}\n')
            await_(lambda: ends)
    assert ends[0][1:] == (LOST, "process 0 (there, pid 7) has not answered for 0.6 s; no step was begun here")


def test_a_mistake_of_one_is_said_by_the_first_with_its_name(ends):
    _, links = joined(3)
    code, text = links[2].end(2, "there is no file")
    assert (code, text) == (2, ""), "it is for process 0 to say"
    await_(lambda: len(ends) == 2)
    said = [text for *_, text in ends if text]
    assert len(said) == 1 and said[0].startswith("process 2 (") and said[0].endswith("): there is no file")
    assert {code for _, code, _ in ends} == {2}


def test_a_mistake_of_all_is_said_without_a_name(ends):
    _, links = joined(2)
    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(links[n].end(2, "no"))) for n in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(found) == [(2, ""), (2, "no")] and not ends


def test_an_error_that_is_the_echo_of_a_death_is_not_the_reason(ends):
    _, links = joined(2, timeout=1.0)
    links[1]._done.set()
    closing = threading.Timer(0.1, lambda: links[1]._hub.connection.shutdown(2))
    closing.start()
    code, text = links[0].end(1, "the connection was closed by a peer")
    assert code == LOST and "process 1 (" in text and "has died" in text


def test_strangers_are_not_listened_to(ends):
    hub, links = joined(1)
    for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"kind": "ended", "code": 3}\n', b"[1]\n", b'{"token": "guess"}\n'):
        with socket.create_connection(("localhost", hub.port)) as stranger:
            stranger.sendall(words)
            time.sleep(0.1)
    await_(lambda: links[0].agree(1, stop=True))
    assert not ends
