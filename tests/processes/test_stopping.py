"""Requests to stop that are no signals: notices of preemption."""

import http.server
import threading
import time

import pytest

from s2sjax.errors import UserError
from s2sjax.processes import stopping
from s2sjax.processes.stopping import NOTICE, Stopped, StopRequests

PATIENCE = 20


@pytest.fixture
def machine(monkeypatch):
    """What a machine's metadata server answers, one after the other; the last for good."""
    answers, asked = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers["Metadata-Flavor"])
            code, text = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(NOTICE, f"http://127.0.0.1:{server.server_port}/preempted")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setattr(stopping, "_ASK_EVERY", 0.05)
    yield answers, asked
    server.shutdown()
    server.server_close()


def wait(moment) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not moment() and time.monotonic() < deadline:
        time.sleep(0.01)
    return moment()


def test_a_notice_of_preemption_asks_to_stop_as_sigterm_does(machine, caplog):
    answers, asked = machine
    answers += [(200, b"FALSE"), (503, b""), (200, b"FALSE"), (200, b"TRUE\n")]
    with StopRequests() as requests:
        assert wait(lambda: len(asked) >= 3)
        assert wait(lambda: requests.name == "SIGTERM")
    assert set(asked) == {"Google"}
    assert caplog.text.count("cannot be asked") == 1
    assert "will be taken away" in caplog.text


def test_where_nothing_would_be_lost_a_notice_does_not_wait(machine):
    machine[0].append((200, b"TRUE"))
    with StopRequests() as requests, pytest.raises(Stopped), requests.raising():
        wait(lambda: False)


def test_without_a_notice_nothing_happens_and_nobody_asks_afterwards(machine):
    answers, asked = machine
    answers.append((200, b"FALSE"))
    with StopRequests() as requests:
        assert wait(lambda: len(asked) >= 3)
        assert requests.name is None
    before = len(asked)
    time.sleep(0.3)
    assert len(asked) == before


def test_no_url_is_the_users_error(monkeypatch):
    monkeypatch.setenv(NOTICE, "gce")
    with pytest.raises(UserError, match=f"{NOTICE} is 'gce', but a URL was expected"), StopRequests():
        pass
