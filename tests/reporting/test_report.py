import errno
import io
import json
import os
import pty
import re
import subprocess
import sys
import tracemalloc

import pytest

from s2sjax.errors import UserError
from s2sjax.files import jsontext
from s2sjax.reporting import history, report
from s2sjax.reporting.display import align, progress
from s2sjax.reporting.pace import duration
from s2sjax.reporting.report import Reporter

METRICS = {
    "loss": 3.21,
    "perplexity": 24.78,
    "accuracy": 0.4,
    "tokens_per_second": 8312.4,
    "padding": 0.0412,
    "learning_rate": 8.9e-4,
    "gradient_norm": 1.02,
}


def make_reporter(workdir, **options):
    stream = io.StringIO()
    return Reporter(workdir, total_steps=1000, stream=stream, **options), stream


def records(workdir, name="metrics.jsonl"):
    """The records without what differs from one time to the next, which each of the metrics has."""
    read = [json.loads(line) for line in (workdir / name).read_text().splitlines()]
    if name == "metrics.jsonl":
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record.pop("time")) for record in read)
        assert all(record.pop("seconds") >= 0 for record in read)
    return read


def test_a_line_of_training_shows_the_columns_and_records_everything(tmp_path):
    reporter, stream = make_reporter(tmp_path)
    with reporter:
        reporter.step_line(50, METRICS)
    pattern = (
        r"step   50/1000 | loss  3.2100 | ppl    24.78 |   8,312 tok/s | pad  4.1% | lr 8.90e-04 | grad   1.020 | eta "
    )
    assert re.fullmatch(re.escape(pattern) + r"\d+:\d\d:\d\d\n", stream.getvalue())
    assert records(tmp_path) == [{"step": 50, "kind": "train", **METRICS}]


def test_lines_are_aligned_whatever_the_size_of_the_numbers(tmp_path):
    reporter, stream = make_reporter(tmp_path)
    with reporter:
        for step, scale in ((1, 1.0), (10, 1e-3), (1000, 12.0)):
            reporter.step_line(step, {name: value * scale for name, value in METRICS.items()})
    bars = [[i for i, c in enumerate(line) if c == "|"] for line in stream.getvalue().splitlines()]
    assert bars[0] == bars[1] == bars[2]


def test_the_eta_counts_from_where_the_run_was_resumed(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    reporter, stream = make_reporter(tmp_path, resumed_from=400)
    with reporter:
        now[0] += 60
        reporter.step_line(500, {})
    assert stream.getvalue() == "step  500/1000 | eta 0:05:00\n"


def test_the_eta_leaves_compiling_out_and_is_the_same_in_the_line_and_the_bar(tmp_path, monkeypatch):
    now, shown = [100.0], []
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    reporter, stream = make_reporter(tmp_path)
    reporter._display.move = lambda done, left: shown.append(duration(left))
    with reporter:
        now[0] += 40
        reporter.leave_out(40)  # compiling
        now[0] += 60
        reporter.step_line(100, {})
        reporter.advance(100)
        now[0] += 30
        reporter.advance(150)
    assert stream.getvalue() == "step  100/1000 | eta 0:09:00\n" and shown == ["0:09:00", "0:09:00", "0:08:30"]


def test_seconds_go_on_over_starts_and_count_only_what_stays(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    with make_reporter(tmp_path)[0] as reporter:
        for step in (1, 2, 3):
            now[0] += 10
            reporter.step_line(step, {})
    now[0] += 1000  # down
    with make_reporter(tmp_path, resumed_from=2)[0] as reporter:
        now[0] += 10
        reporter.step_line(3, {})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["seconds"]) for line in lines] == [(1, 10), (2, 20), (3, 30)]


@pytest.mark.parametrize("line", ['{"step": 1}', '{"step": 1, "seconds": null}', '{"step": 1, "seconds": 1e999}', "?"])
def test_a_metrics_file_without_seconds_is_gone_on_with(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    with make_reporter(tmp_path, resumed_from=1)[0] as reporter:
        reporter.step_line(2, {})
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2 and 0 <= last["seconds"] < 100


def test_a_smoothed_loss_is_called_so(tmp_path):
    reporter, stream = make_reporter(tmp_path, smoothed=True)
    with reporter:
        reporter.step_line(1, {"loss": 2.0})
    assert "| smoothed loss  2.0000 |" in stream.getvalue() and records(tmp_path)[0]["loss"] == 2.0


def test_nan_and_infinity_are_recorded_as_null(tmp_path):
    reporter, _ = make_reporter(tmp_path)
    with reporter:
        reporter.step_line(1, {"loss": float("nan"), "perplexity": float("inf"), "padding": 0.5})
    assert records(tmp_path) == [{"step": 1, "kind": "train", "loss": None, "perplexity": None, "padding": 0.5}]


def test_validation_and_samples_are_printed_and_recorded(tmp_path):
    reporter, stream = make_reporter(tmp_path)
    with reporter:
        reporter.validation(100, {"loss": 2.5, "bleu": 31.234}, seconds=3.21)
        reporter.samples(100, [("A dog.", "Ein Hund.", "Ein \x1b[31mHund\u2028 狗")])
    assert "step  100/1000 | validation | loss 2.5000 | bleu 31.23 | 3.2 s\n" in stream.getvalue()
    assert (
        "    source      A dog.\n    reference   Ein Hund.\n    hypothesis  Ein \ufffd[31mHund\ufffd 狗\n"
        in stream.getvalue()
    )
    assert records(tmp_path) == [{"step": 100, "kind": "validation", "loss": 2.5, "bleu": 31.234}]
    (line,) = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(line)["hypothesis"] == "Ein \x1b[31mHund\u2028 狗"


def test_later_lines_of_a_sample_stand_below_its_first(tmp_path):
    reporter, stream = make_reporter(tmp_path)
    with reporter:
        reporter.samples(1, [("two\nlines", "zwei\n\nZeilen", "x")])
    block = stream.getvalue()[stream.getvalue().index("    source") :].splitlines()[:6]
    assert [line.rstrip() for line in block] == [
        "    source      two", "                lines", "    reference   zwei", "", "                Zeilen",
        "    hypothesis  x",
    ]  # fmt: skip


def test_a_resumed_run_records_as_if_it_had_never_been_interrupted(tmp_path):
    def run(workdir, first, last, resumed_from):
        reporter, _ = make_reporter(workdir, resumed_from=resumed_from, tensorboard=False)
        with reporter:
            for step in range(first, last + 1):
                reporter.step_line(step, {"loss": step / 7})
                if step % 4 == 0:
                    reporter.validation(step, {"loss": step / 9})
                    reporter.samples(step, [("s", "r", f"h{step}")])

    alone, interrupted = tmp_path / "alone", tmp_path / "interrupted"
    for workdir in (alone, interrupted):
        workdir.mkdir()
    run(alone, 1, 12, 0)
    run(interrupted, 1, 7, 0)
    with open(interrupted / "metrics.jsonl", "a") as out:
        out.write('{"step": 8, "ki')  # a kill in the middle of a line
    run(interrupted, 4 + 1, 12, 4)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert records(interrupted, name) == records(alone, name)
    run(interrupted, 1, 12, 0)  # begun anew: no checkpoint had been written
    assert records(interrupted) == records(alone)


@pytest.mark.parametrize("longest", [1 << 16, 7])
def test_lines_longer_than_any_of_ours_are_passed_over_piece_by_piece(tmp_path, monkeypatch, longest):
    """The hole in the file takes no room on the disk, and should take none in memory."""
    monkeypatch.setattr(history, "_LONGEST_KEPT", jsontext.Bound(longest, 10))
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "kind": "train", "loss": 1.0}).encode() + b"\n" for step in (1, 2, 3)]
    hole = 64 << 20 if longest > 1000 else 21
    with open(path, "wb") as file:
        file.write(lines[0])
        file.truncate(len(lines[0]) + hole)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + lines[1] + lines[2] + b"x" * 2 * longest)
    tracemalloc.start()
    try:
        with make_reporter(tmp_path, resumed_from=2, tensorboard=False)[0]:
            pass
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    whole = lines[0] + bytes(hole) + b"\n" + lines[1]
    # Lines of seven bytes are none of ours, so that none has a step, and only the torn one goes.
    assert path.read_bytes() == (whole if longest > 1000 else whole + lines[2])


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_records_larger_than_any_of_ours_are_left_as_they_are_and_the_run_goes_on(tmp_path, name):
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, 10**12)
    reporter, stream = make_reporter(tmp_path, tensorboard=False)
    with reporter:
        reporter.step_line(1, METRICS)
        reporter.samples(1, [("a", "b", "c")])
    said = f"warning: {name} cannot be written (it has 1,000,000,000,000 bytes, expected at most 1,073,741,824; move"
    assert said in stream.getvalue()
    assert (tmp_path / name).stat().st_size == 10**12
    (other,) = {"metrics.jsonl", "samples.jsonl"} - {name}
    assert len(records(tmp_path, other)) == 1


def test_tensorboard_gets_the_numbers_and_forgets_what_a_resumed_run_does_again(tmp_path):
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import masked_crc32c

    reporter, _ = make_reporter(tmp_path, resumed_from=40)
    with reporter:
        reporter.step_line(50, {"loss": 0.5})
        reporter.validation(50, {"bleu": 12.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert "tfevents" in path.name
    content, events = path.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        assert int.from_bytes(content[8:12], "little") == masked_crc32c(content[:8])
        assert int.from_bytes(content[12 + size : 16 + size], "little") == masked_crc32c(content[12 : 12 + size])
        events.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (41, SessionLog.START)
    scalars = [(e.step, v.tag, v.simple_value) for e in events[2:] for v in e.summary.value]
    assert scalars == [(50, "train/loss", 0.5), (50, "validation/bleu", 12.5)]


def test_a_full_disk_costs_lines_and_one_warning_and_leaves_no_torn_line(tmp_path, monkeypatch):
    reporter, stream = make_reporter(tmp_path)
    with reporter:
        reporter.step_line(1, {"loss": 1.0})
        file = reporter._files["metrics.jsonl"]._file

        class Full:
            """Room for seven more bytes."""

            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, data):
                return file.write(data[:7])

        reporter._files["metrics.jsonl"]._file = Full()
        reporter.step_line(2, {"loss": 2.0})
        reporter.step_line(3, {"loss": 3.0})
        reporter._files["metrics.jsonl"]._file = file
        reporter.step_line(4, {"loss": 4.0})
        with reporter.losing("plots/curve.png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    warnings = [line for line in stream.getvalue().splitlines() if "warning" in line]
    assert warnings == [
        "warning: metrics.jsonl cannot be written (No space left on device); the run goes on without",
        "warning: metrics.jsonl: 2 writes lost (No space left on device)",
        "warning: plots/curve.png: 1 write lost (No space left on device)",
    ]
    assert [record["step"] for record in records(tmp_path)] == [1, 4]


def test_what_is_made_of_a_file_that_is_not_as_it_should_be_does_not_end_the_run(tmp_path):
    reporter, stream = make_reporter(tmp_path)
    with reporter, reporter.losing("plots/curve.png"):
        raise UserError("metrics.jsonl has 2 bytes, expected at most 1")
    assert "warning: plots/curve.png cannot be written (metrics.jsonl has 2 bytes, expected at m" in stream.getvalue()


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    stream = open("/dev/full", "w")  # noqa: SIM115
    with Reporter(tmp_path, total_steps=10, stream=stream) as reporter:
        reporter.step_line(1, {"loss": 1.0})
    assert records(tmp_path)[0]["step"] == 1
    with pytest.raises(OSError):
        stream.close()


def test_a_row_of_a_table_is_one_line_and_steers_no_terminal():
    rows = [["\x1b]0;owned\x07", "a\nFAKE"], ["\u202ex\x9b", "a\u00a0\u3000b 名"]]
    assert align(rows) == ["  \ufffd]0;owned\ufffd  a\ufffdFAKE", "  \ufffdx\ufffd         a\u00a0\u3000b 名"]


def test_tables_are_aligned_and_wide_characters_counted():
    rows = [("metric", "value"), ("bleu", 31.2), ("精度", 7), ("tokens", 12345.678)]
    assert align(rows) == ["  metric  value", "  bleu        31.20", "  精度            7", "  tokens  12,345.68"]


def test_other_work_prints_a_line_every_few_seconds_with_what_is_left(monkeypatch):
    now, stream = [0.0], io.StringIO()
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    with progress("preparing", stream=stream) as bar:
        for done in range(0, 101, 10):
            bar("tokenising train", done, 100)
            now[0] += 2
        bar("tokenising validation", 1, 2)
    assert stream.getvalue().splitlines() == [
        "tokenising train: 30 of 100 (30%), 0:00:14 left",
        "tokenising train: 60 of 100 (60%), 0:00:08 left",
        "tokenising train: 90 of 100 (90%), 0:00:02 left",
    ]


def test_advance_adds_up(monkeypatch):
    now, stream = [0.0], io.StringIO()
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    with progress("decoding", 200, stream=stream) as bar:
        bar.advance(64)
        now[0] += 60
        bar(36)
    assert stream.getvalue() == "decoding: 100 of 200 (50%), 0:01:00 left\n"


def test_a_terminal_gets_a_bar_below_the_lines_and_stdout_is_left_alone(tmp_path):
    script = """
import sys, time
from s2sjax.reporting.display import progress
from s2sjax.reporting.report import Reporter
with Reporter(sys.argv[1], total_steps=10) as reporter:
    for step in range(1, 11):
        time.sleep(0.03)
        reporter.advance(step)
    reporter.message("a [bold]line[/bold] above")
with progress("decoding", 3) as bar:
    print("to the pipe", flush=True)
    bar.advance(2)
    time.sleep(0.6)
"""
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    run = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, stderr=child, env=environment
    )
    os.close(child)
    shown = b""
    while True:
        try:
            data = os.read(parent, 4096)
        except OSError:  # Linux's end of file of a terminal
            break
        if not data:
            break
        shown += data
    os.close(parent)
    assert run.communicate()[0] == b"to the pipe\n" and run.returncode == 0
    text = shown.decode()
    assert "a [bold]line[/bold] above" in text and "training" in text and "10/10" in text and "2/3" in text
