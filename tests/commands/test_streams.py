"""Lines in and out: none is lost, joined or waited for, and files that cannot be read or written are one sentence."""

import gzip
import io
import json
import lzma
import os
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2sjax.cli import run_command
from s2sjax.commands.streams import WINDOW, count_lines, one_line, read_lines, reading, windows, writing
from s2sjax.errors import UserError
from s2sjax.files import jsontext


def lines_of(content: bytes) -> list[str]:
    return list(read_lines(io.BytesIO(content), "file"))


@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\n\r\ufeff\0", exclude_categories=["Cs"])), max_size=20)
)
def test_only_line_feeds_end_lines_whatever_else_unicode_calls_an_end(lines):
    for end in ("\n", "\r\n"):
        assert lines_of("".join(line + end for line in lines).encode()) == lines
    assert lines_of("\n".join([*lines, "x"]).encode()) == [*lines, "x"], "the last line may lack its end"


def test_a_byte_order_mark_is_no_text_at_the_beginning_and_is_text_elsewhere():
    assert lines_of("\ufeffa\n\ufeffb\n".encode()) == ["a", "\ufeffb"]


def test_lines_are_counted_as_they_are_read_and_a_pipe_is_not(tmp_path):
    for content in (b"", b"a", b"a\n", b"a\n\n\r\nb\x0bc"):
        (tmp_path / "file").write_bytes(content)
        assert count_lines(str(tmp_path / "file")) == len(lines_of(content))
    os.mkfifo(tmp_path / "pipe")
    assert count_lines(str(tmp_path / "pipe")) is count_lines("-") is None


@settings(deadline=None)
@given(count=st.sampled_from([0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 5]))
def test_windows_hold_every_line_once_in_order_and_never_too_many(count):
    found = list(windows(map(str, range(count))))
    assert [line for window in found for line in window] == list(map(str, range(count)))
    assert all(0 < len(window) <= WINDOW for window in found)


def test_a_line_is_handed_on_before_the_next_one_comes():
    answered = threading.Event()

    def typed():
        yield "first"
        assert answered.wait(30), "the first line was kept until the second came"
        yield "second"

    found = windows(typed())
    assert next(found) == ["first"]
    answered.set()
    assert list(found) == [["second"]]


def test_what_goes_wrong_while_reading_is_told_after_the_lines_before_it():
    found = windows(read_lines(io.BytesIO(b"good\nb\xe9d\n"), "file"))
    assert next(found) == ["good"]
    with pytest.raises(UserError, match="file, line 2: byte 1 is not valid UTF-8"):
        next(found)


def test_a_file_that_is_read_is_not_written_to_by_whatever_name(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for path, read in (("file", "link"), ("link", "file"), ("./file", "file")):
        with pytest.raises(UserError, match="cannot be written to at the same time"):  # noqa: SIM117
            with writing(f"{tmp_path}/{path}", "-", f"{tmp_path}/{read}"):
                pass
    assert (tmp_path / "file").read_text() == "kept"


def test_what_is_written_is_utf8_with_line_feeds(tmp_path):
    with writing(str(tmp_path / "file")) as stream:
        stream.write("ü\n")
    assert (tmp_path / "file").read_bytes() == b"\xc3\xbc\n"


def test_a_place_that_is_not_there_or_is_full_is_named(tmp_path):
    for opened in (reading(str(tmp_path / "none" / "file")), writing(str(tmp_path / "none" / "file"))):
        with pytest.raises(UserError, match="cannot (read|write) .*none/file: No such file"), opened:
            pass
    if os.path.exists("/dev/full"):
        with pytest.raises(UserError, match="cannot write /dev/full: No space left"), writing("/dev/full") as stream:
            stream.write("text")


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20))
def test_a_text_is_one_line_to_every_reader(texts):
    lines = [one_line(text) for text in texts]
    written = "".join(f"{line}\n" for line in lines)
    assert written.splitlines() == written.split("\n")[:-1] == lines
    assert list(io.StringIO(written, newline=None)) == [f"{line}\n" for line in lines], "universal newlines"
    assert [len(line) for line in lines] == [len(text) for text in texts], "a space for each line end, and no more"


@given(text=st.text(st.characters()))
def test_a_record_of_json_is_one_line_to_every_reader_and_keeps_its_text(text):
    line = jsontext.printed_line({"text": text, text: [text]})
    assert line.splitlines() == [line[:-1]] and list(io.StringIO(line, newline=None)) == [line]
    assert json.loads(line) == {"text": text} | {text: [text]} and line.encode()


def test_what_is_no_line_end_stays_as_it_is():
    assert one_line("a\tb\u00a0c\u200bd\x1ff") == "a\tb\u00a0c\u200bd\x1ff"


@pytest.mark.parametrize("name, opener", [("o.gz", gzip.open), ("o.xz", lzma.open), ("o.txt", open)])
def test_an_output_is_compressed_as_its_name_says(tmp_path, name, opener):
    with writing(str(tmp_path / name)) as output:
        output.writelines(["ü\n", "b\n"])
        output.flush()
        output.write("c\n")
    with opener(tmp_path / name, "rb") as file:
        assert file.read() == "ü\nb\nc\n".encode()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("write", [print, lambda text: sys.stdout.write(text)], ids=["print", "write"])
def test_a_full_disk_behind_standard_output_is_a_sentence(monkeypatch, capsys, write):
    """Of every command, whether it prints, or leaves what it wrote to the end."""

    class Command:
        @staticmethod
        def run(values):
            write("text " * int(values["workdir"]))
            return 0

    monkeypatch.setitem(sys.modules, "s2sjax.commands.goodput", Command)
    for length in ("1", "100000"):
        with open("/dev/full", "w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            with pytest.raises(SystemExit) as stopped:
                run_command(["goodput", f"--workdir={length}"])
        assert stopped.value.code == 2
        assert capsys.readouterr().err == "s2sjax: cannot write standard output: No space left on device\n"


def test_standard_streams_that_are_closed_are_a_sentence(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stdout", None)
    for opened in (reading("-"), writing("-")):
        with pytest.raises(UserError, match="standard (in|out)put is closed"), opened:
            pass


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
def test_what_is_read_is_decompressed_whatever_it_is_called_and_wherever_it_comes_from(tmp_path, compress, monkeypatch):
    content, path = compress("ü\nb\r\nc".encode()), tmp_path / "in"
    path.write_bytes(content)
    with reading(str(path)) as stream:
        assert list(read_lines(stream, str(path))) == ["ü", "b", "c"] and count_lines(str(path)) == 3
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with reading("-") as stream:
        assert list(read_lines(stream, "-")) == ["ü", "b", "c"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("a b c\n".encode("utf-16"), "is text in UTF-16.*iconv -f utf-16"),
        (b"a b\rc d\r", "carriage return alone"),
        (gzip.compress(bytes(9999))[:-9], "damaged or cut off"),
        (b"a\nb\xe9d\n", "line 2: byte 1 is not valid UTF-8"),
    ],
    ids=["utf-16", "old line ends", "cut off", "latin1"],
)
@pytest.mark.parametrize("name", ["file", "-"])
def test_what_is_no_text_is_named_as_what_it_is(tmp_path, monkeypatch, name, content, message):
    (tmp_path / "file").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    path = name if name == "-" else str(tmp_path / name)
    with pytest.raises(UserError, match=message) as raised, reading(path) as stream:
        list(read_lines(stream, path))
    assert ("standard input" if name == "-" else path) in str(raised.value)
