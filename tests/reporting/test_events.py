"""The ledger of events, and goodput computed from it."""

import datetime
import json
import random
import subprocess
import time

import pytest

from s2sjax.cli import run_command
from s2sjax.errors import UserError
from s2sjax.reporting import events, goodput
from tests.tiny import json_lines


def test_a_ledger_only_grows_and_ends_with_a_stop_that_says_why(tmp_path):
    path = tmp_path / events.NAME
    with events.Ledger(path, print) as ledger:
        ledger.start(1.23456)
        ledger.add("save", step=5, seconds=0.123456)
    with events.Ledger(path, print) as ledger:
        ledger.add("preempt", step=6, reason="SIGTERM")
    with pytest.raises(UserError), events.Ledger(path, print):
        raise UserError("a full disk, for instance")
    found = json_lines(path)
    assert [(e["event"], e.get("reason")) for e in found] == [
        ("start", None), ("save", None), ("stop", "done"), ("preempt", "SIGTERM"), ("stop", "preempted"),
        ("stop", "UserError: a full disk, for instance"),
    ]  # fmt: skip
    assert found[0]["seconds"] == 1.235 and found[1]["seconds"] == 0.123
    assert {"host", "processes", "devices", "hardware", "versions", "commit"} <= found[0].keys()
    now = datetime.datetime.now(datetime.UTC)
    assert all(0 <= (now - datetime.datetime.fromisoformat(e["time"])).total_seconds() < 60 for e in found)


def test_a_line_that_a_kill_cut_short_costs_only_itself(tmp_path):
    path = tmp_path / events.NAME
    path.write_bytes(b'{"time": "2026-01-01T00:00:00.000Z", "event": "start"}\n{"time": "2026-01-01T00:00:0')
    with events.Ledger(path, print):
        pass
    assert [e["event"] for e in events.read(path)] == ["start", "stop"]
    assert next(events.read(path))["time"] == datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()


def test_a_ledger_that_cannot_be_written_is_told_once_and_costs_nothing_else(tmp_path):
    said = []
    with events.Ledger(tmp_path / "missing" / events.NAME, said.append) as ledger:
        ledger.add("save", step=1)
    (warning,) = said
    assert "events.jsonl cannot be written (No such file or directory); the run goes on without" in warning


def history(*entries):
    """Entries `(time, event, step, seconds)`, as `events.read` gives them."""
    return [
        {"time": float(time), "event": event, "step": float(step), "seconds": float(seconds)}
        for time, event, step, seconds in entries
    ]


def test_goodput_itemises_all_of_the_time():
    """A start that is killed at step 60 after saving step 40, and one that goes on from there and rolls back once."""
    found = goodput.compute(
        history(
            (105, "start", 0, 5),  # began at 100
            (110, "train", 0, 0),
            (120, "compile", 0, 10),
            (142, "save", 40, 2),  # 20 s for 40 steps
            (152, "progress", 60, 0),  # 10 s for 20 more; killed some time after
            (202, "start", 0, 2),  # began at 200
            (205, "restore", 40, 3),
            (206, "train", 40, 0),
            (211, "skip", 48, 0),
            (216, "progress", 60, 0),  # 10 s for 20 steps
            (217, "rollback", 50, 0),  # 1 s more
            (220, "restore", 40, 2),
            (221, "train", 40, 0),
            (241, "validate", 100, 5),  # 15 s for 60 steps
            (242, "stop", 0, 0),  # 1 s more
        )
    )
    assert (found.began, found.total, found.down, found.starts, found.crashes) == (100, 94, 48, 2, 1)
    assert found.steps == {"counted": 40 + 60, "skipped": 0, "again": 20 + 20}
    expected = {
        "counted": 30 * 40 / 60 + 16, "skipped": 0, "again": 30 * 20 / 60 + 11, "compile": 10, "start": 10 + 3 + 2,
        "restore": 5, "save": 2, "validate": 5, "plot": 0,
    }  # fmt: skip
    assert found.seconds == pytest.approx(expected)
    assert found.share == pytest.approx(36 / 94)


def test_time_when_nobody_ran_is_no_part_of_goodput():
    """Any history is worth the same with days between its processes: killed, stopped, or done and gone on with."""
    rng = random.Random(0)
    for _ in range(50):
        now, near, far, gaps = 1000.0, [], [], 0.0
        for start in range(rng.randint(1, 4)):
            gap = 86_400.0 * rng.randint(1, 9) if start else 0.0
            gaps += gap
            kinds = [("start", 0, rng.uniform(0, 9)), ("train", 10 * start, 0)]
            kinds += [(rng.choice(("progress", "save", "validate")), 10 * start + 5, rng.uniform(0, 2))]
            kinds += [("stop", 0, 0)] if rng.random() < 0.5 else []
            now += 20.0
            for event, step, seconds in kinds:
                now += rng.uniform(1, 9)
                near.append((now, event, step, seconds))
                far.append((now + gaps, event, step, seconds))
        close, apart = goodput.compute(history(*near)), goodput.compute(history(*far))
        assert apart.seconds == pytest.approx(close.seconds) and apart.share == pytest.approx(close.share)
        assert apart.down == pytest.approx(close.down + gaps)
        assert goodput.line(apart) == goodput.line(close)
        assert ("not counted: " in goodput.table(apart)) == (apart.starts > 1)


def test_skipped_steps_do_not_count():
    found = goodput.compute(
        history((0, "start", 0, 0), (0, "train", 0, 0), (3, "skip", 3, 0), (4, "skip", 4, 0), (10, "progress", 10, 0))
    )
    assert found.steps == {"counted": 8, "skipped": 2, "again": 0}
    assert found.seconds["counted"] == pytest.approx(8) and found.seconds["skipped"] == pytest.approx(2)


@pytest.mark.parametrize("entries", [[], [(1, "stop", 0, 0)]])
def test_a_ledger_without_a_start_has_no_goodput(entries):
    with pytest.raises(UserError, match="no start is recorded"):
        goodput.compute(history(*entries))


def test_numbers_that_no_run_has_cost_their_line_and_no_more(tmp_path):
    path = tmp_path / events.NAME
    honest = {"time": "2026-01-01T00:00:00Z", "event": "start", "seconds": 5}
    wrong = [{"seconds": 9e10}, {"seconds": 2e9}, {"seconds": -1}, {"step": 1e300}, {"time": "0001-01-01T00:00:00Z"}]
    path.write_text("".join(json.dumps(honest | change) + "\n" for change in (*wrong, {})))
    assert [entry["seconds"] for entry in events.read(path)] == [5.0]
    path.write_text("".join(json.dumps(honest | change) + "\n" for change in ({"seconds": 1.7e9}, *wrong)))
    assert goodput.table(goodput.compute(events.read(path))).startswith("goodput 0.0%")  # since 1972


def test_a_long_ledger_without_a_start_takes_no_longer_than_reading_it():
    entries = history(*[(100, "save", 1, 0)] * 300_000)
    began = time.process_time()
    with pytest.raises(UserError, match="no start is recorded"):
        goodput.compute(entries)
    assert time.process_time() - began < 2


def test_a_start_that_reached_no_step_and_clocks_that_went_back_are_borne():
    found = goodput.compute(
        history(
            (100, "start", 0, 10), (90, "train", 0, 0), (50, "stop", 0, 0), (60, "start", 0, 300), (70, "stop", 0, 0)
        )
    )
    assert all(seconds >= 0 for seconds in found.seconds.values()) and found.starts == 2
    assert found.total + found.down == 10 + 10 + 10  # the second start's line is 10 s after the line before it


def test_a_clock_that_is_set_back_costs_what_is_between_two_lines_and_no_more():
    """Hours or days, within a process or between two, once or often."""
    rng = random.Random(1)
    for _ in range(100):
        now, back, cost, right, wrong = 1e6, 0.0, 0.0, [], []
        for start in range(rng.randint(1, 3)):
            kinds = [("start", 0, 1.0), ("train", 10 * start, 0)]
            kinds += [(rng.choice(("progress", "save", "validate")), 10 * start + n, 0.5) for n in range(6)]
            for event, step, seconds in [*kinds, ("stop", 0, 0)]:
                passed = rng.uniform(2, 9)
                now += passed
                if right and rng.random() < 0.2:
                    back += rng.choice((60, 3600, 86_400))
                    cost += passed - seconds
                right.append((now, event, step, seconds))
                wrong.append((now - back, event, step, seconds))
        honest, found = goodput.compute(history(*right)), goodput.compute(history(*wrong))
        assert (found.steps, found.starts, found.crashes) == (honest.steps, honest.starts, honest.crashes)
        assert found.total + found.down == pytest.approx(honest.total + honest.down - cost)
        assert all(seconds >= 0 for seconds in found.seconds.values())


def test_the_command_prints_a_table_of_the_ledger(tmp_path, capsys, monkeypatch):
    from s2sjax.experiment import resolve, save
    from tests.tiny import base_config

    save(resolve(base_config()), tmp_path / "config.json")
    with pytest.raises(SystemExit) as ended:
        run_command(["goodput", f"--workdir={tmp_path}"])
    assert ended.value.code == 2 and "events.jsonl: No such file or directory" in capsys.readouterr().err
    path = tmp_path / events.NAME
    for second, event, step in ((0, "start", 0), (10, "train", 0), (50, "progress", 1000)):
        with path.open("a") as file:
            file.write(json.dumps({"time": f"2026-01-02T03:04:{second:02}Z", "event": event, "step": step}) + "\n")
    with pytest.raises(SystemExit) as ended:
        run_command(["goodput", f"--workdir={tmp_path}"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert said.startswith(
        "goodput 80.0% of the 0:00:50.0 that it ran, 1 with no stop after; since 2026-01-02 03:04:00 UTC\n"
    )
    assert "steps that count" in said and "80.0%  1,000 steps" in said and "20.0%" in said


def test_the_commit_is_that_of_this_checkout_and_of_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "__file__", str(tmp_path / "s2sjax" / "reporting" / "events.py"))
    assert events._commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert head.startswith(str(events._commit())) and len(str(events._commit())) == 12
