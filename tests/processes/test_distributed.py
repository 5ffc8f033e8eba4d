"""How what the environment says of several processes is read; what they do together, test_processes.py has."""

import pytest

from s2sjax.errors import UserError
from s2sjax.processes import distributed


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e400", "1e9", "4.9", "-60", "60s", "soon"])
def test_a_time_out_that_is_none_is_told_before_anything_starts(monkeypatch, value):
    for name, number in (("COORDINATOR", "127.0.0.1:1"), ("PROCESSES", "2"), ("PROCESS", "0")):
        monkeypatch.setenv(f"S2SJAX_{name}", number)
    monkeypatch.setattr("jax.distributed.initialize", lambda **given: pytest.fail(f"started: {given}"))
    monkeypatch.setenv("S2SJAX_PEER_TIMEOUT", value)
    with pytest.raises(
        UserError, match=f"S2SJAX_PEER_TIMEOUT is '{value}', expected a number of seconds from 5 to 1000000"
    ):
        distributed.start()


@pytest.mark.parametrize("value, seconds", [("", 60), ("5", 5), ("7.5", 7.5), ("1e6", 1e6)])
def test_a_time_out_is_seconds(monkeypatch, value, seconds):
    monkeypatch.setenv("S2SJAX_PEER_TIMEOUT", value)
    assert distributed._timeout() == seconds
