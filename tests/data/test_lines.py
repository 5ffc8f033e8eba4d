"""What a file of lines is taken for by its first bytes, and what is wrong with it."""

import codecs
import gzip
import io
import lzma
import os
import threading

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from s2sjax.data import lines
from s2sjax.data.lines import Lines, iterate_lines, open_bytes
from s2sjax.errors import UserError

# A zero byte is no text, and where it stands tells encodings apart.
TEXT = st.text(st.characters(exclude_characters="\0\r\n\ufeff", exclude_categories=["Cs"]), max_size=40)
LATIN = st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n"), min_size=1)
COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def streamed(path) -> list[str]:
    with open_bytes(path) as stream:
        return list(iterate_lines(stream, str(path)))


def indexed(path) -> list[str]:
    lines = Lines(path)
    return [lines[i] for i in range(len(lines))]


READERS = pytest.mark.parametrize("read", [streamed, indexed])


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("lines")


@READERS
@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("named", [True, False])
@given(texts=st.lists(TEXT), mark=st.booleans(), end=st.sampled_from(["\n", "\r\n"]), ended=st.booleans())
def test_every_reader_gives_the_same_lines_plain_or_compressed_whatever_the_name(
    directory, read, suffix, named, texts, mark, end, ended
):
    texts = texts if ended else [*texts, "last"]
    content = (codecs.BOM_UTF8 if mark else b"") + (end.join(texts) + (end if ended and texts else "")).encode()
    path = directory / ("file" + (suffix if named else ""))
    path.write_bytes(COMPRESSIONS[suffix](content))
    # A mark and nothing else is one line of nothing.
    assert read(path) == (texts or ([""] if mark else []))


@READERS
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@given(texts=st.lists(LATIN, min_size=1), mark=st.booleans())
def test_other_encodings_are_named_with_the_way_out_with_a_mark_and_without(directory, read, encoding, texts, mark):
    path = directory / "file"
    path.write_bytes((("\ufeff" if mark else "") + "\n".join(texts)).encode(encoding))
    expected = encoding[:6] if mark else encoding[:6] + encoding[7:]
    with pytest.raises(UserError, match=f"is text in {expected.upper()}.*iconv -f {expected} -t utf-8"):
        read(path)


UNITS = st.tuples(st.sampled_from("abc XYZ.,0é"), st.sampled_from("def ghi-\t9€")).map("".join)


@READERS
@settings(max_examples=50)
@given(data=st.data(), length=st.integers(12, 60), encoding=st.sampled_from(["LE", "BE"]))
def test_a_few_zeros_do_not_make_another_encoding_of_utf8_wherever_they_stand(directory, read, data, length, encoding):
    """Also where each takes the place in which UTF-16 has them."""
    units = data.draw(st.lists(UNITS, min_size=length, max_size=length))
    whole = "".join(units).encode()
    units = [whole[i : i + 2] for i in range(0, len(whole) - 1, 2)]
    zeros = data.draw(st.sets(st.integers(3, len(units) - 1), max_size=len(units) // 3))
    for number in zeros:  # two of them at most in the first line
        if units[number].isascii():
            units[number] = units[number][:1] + b"\0" if encoding == "LE" else b"\0" + units[number][1:]
    content = b"".join(units[:5]) + b"\nx" + b"".join(units[5:]) + b"y\n"
    for seen in (content, content[: content.index(b"\n") + 1]):  # a stream is judged by its first line
        # Where a quarter is tabs and line ends it may as well be Devanagari, whose letters have "\t" in UTF-16.
        assume(4 * (seen.count(b"\t") + seen.count(b"\n")) < len(seen.replace(b"\0", b"")))
    path = directory / "file"
    path.write_bytes(content)
    try:
        expected = content.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        return  # a letter of two bytes was cut
    assert read(path) == expected


SCRIPTS = {
    "Latin": "Āabcde ", "Greek": "αβγδεζη ", "Cyrillic": "абвгдежз ", "Hebrew": "אבגדהוזח ", "Arabic": "ابتثجحخد ",
    "Devanagari": "अहिन्दी ", "Gurmukhi": "ਪੰਜਾਬੀ ", "Telugu": "తెలుగు ", "Malayalam": "മലയാളം ", "Thai": "ภาษาไทย ",
    "Georgian": "ქართული ", "Hangul": "한국어말 ", "Han": "日本語中文汉字 ",
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("script", SCRIPTS)
@settings(max_examples=20)
@given(data=st.data())
def test_lines_of_any_script_in_utf16_are_never_taken_for_utf8(directory, script, encoding, data):
    first, *letters = SCRIPTS[script]
    words = st.text(st.sampled_from(letters[:6]), min_size=3, max_size=9)
    lines = data.draw(st.lists(words, min_size=4, max_size=12))
    text = first + "\n".join(lines) + "\n"
    path = directory / "file"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match="is text in UTF-16|not valid UTF-8"):
        Lines(path)


@READERS
def test_a_mark_is_enough_for_text_without_latin_letters(tmp_path, read):
    (tmp_path / "file").write_bytes("日本語".encode("utf-16"))
    with pytest.raises(UserError, match="is text in UTF-16, .*iconv"):
        read(tmp_path / "file")


@READERS
def test_carriage_returns_alone_are_no_line_ends_and_said_to_be_so(tmp_path, read):
    path = tmp_path / "file"
    for content in (b"one\rtwo\rthree\r", b"one\rtwo", b"\r\r"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"carriage return alone, .*tr '\\r' '\\n'"):
            read(path)
    for content, expected in ((b"one\r", ["one"]), (b"a\rb\nc", ["a\rb", "c"]), (b"\r", [""])):
        path.write_bytes(content)
        assert read(path) == expected


@READERS
@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_damage_to_a_compressed_file_is_told(tmp_path, read, suffix):
    whole = COMPRESSIONS[suffix](os.urandom(5000).hex().encode() + b"\n")
    path = tmp_path / f"file{suffix}"
    for content in (whole[: len(whole) // 2], whole[:-1], whole[:100] + b"\0\0\0\0" + whole[104:], whole[:12]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"cannot read .*file{suffix}: the compressed data is damaged or cut off"):
            read(path)
    path.write_bytes(b"plain text\n")
    with pytest.raises(UserError, match="^cannot read [^:]*: it is not (gzip|xz), as its name says"):
        read(path)


@READERS
@given(content=st.binary(max_size=80))
def test_any_bytes_are_lines_or_a_message(directory, read, content):
    path = directory / "file"
    for prefix in (b"", b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"\xfd7zXZ\x00"):
        path.write_bytes(prefix + content)
        try:
            assert all(isinstance(line, str) for line in read(path))
        except UserError:
            continue


def test_what_cannot_be_opened_is_told(tmp_path):
    for path in (tmp_path / "absent", tmp_path, tmp_path / "zero\0byte", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot read"):
            streamed(path)


def test_a_pipe_is_read_decompressed_as_it_comes(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    compressed = gzip.compress(b"one\ntwo\n")
    writer = threading.Thread(target=lambda: pipe.write_bytes(compressed))
    writer.start()
    assert streamed(pipe) == ["one", "two"]
    writer.join()


def test_lines_that_hold_something_are_found(tmp_path):
    (tmp_path / "file").write_bytes(b"\na\r\n\r\n \nb\n\n\r\n")
    assert Lines(tmp_path / "file").filled().tolist() == [1, 3, 4]
    assert list(iterate_lines(io.BytesIO(b"\na\r\n\r\n"), "x")) == ["", "a", ""]


@given(texts=st.lists(TEXT), ended=st.booleans(), chunk=st.integers(1, 50))
def test_a_character_is_counted_in_each_line(directory, texts, ended, chunk):
    texts = texts if ended else [*texts, "la\tst\t"]
    (directory / "counted").write_text("\n".join(texts) + "\n" * bool(ended and texts), newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_CHUNK", chunk)
        assert Lines(directory / "counted").count("\t").tolist() == [text.count("\t") for text in texts]
