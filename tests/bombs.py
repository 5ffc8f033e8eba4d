"""Small files and settings that ask for very much: single ones, and families of them that are drawn from a seed.

A family takes what bounds one kind of thing, and makes it larger, deeper or emptier by some powers of two: below the
bound it is read, above it is refused, and in between nothing else may happen. Some are spoiled besides.
"""

import functools
import gzip
import io
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import sentencepiece
import tensorstore as ts
import zstandard

from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.data.pieces import SentencePieceTokenizer
from s2sjax.data.splits import open_split
from s2sjax.reporting import events
from s2sjax.reporting.history import read_history
from s2sjax.runs import workdir
from s2sjax.runs.loading import load
from s2sjax.training import skipped
from tests.hostile import reseal, spoil_bytes, spoil_file, unhashed_reseal
from tests.tiny import tiny

Act = Callable[[], object]
"""What reads a case."""


def bomb(content: bytes, count: int = 5_000_000) -> bytes:
    """A JSON object, and in it as many empty lists, which take 64 bytes each when they are parsed."""
    return content.rstrip().removesuffix(b"}") + b', "x": [' + b"[]," * count + b"0]}"


def unpacked_zeros(blocks: int, length: int, first: bytes, magic: int = 0x0CDB20DE) -> bytes:
    """What stands at a place of a database's index (a node; by another `magic`, a manifest), and unpacks to `first` and
    `blocks` times 128 KiB of zeros, each of which takes four bytes (Zstandard, RFC 8878)."""
    head = lambda size, kind, last: (size << 3 | kind << 1 | last).to_bytes(3, "little")  # noqa: E731
    frame = b"\x28\xb5\x2f\xfd\x00\x58" + head(len(first), 0, False) + first
    frame += b"".join(head(1 << 17, 1, i == blocks - 1) + b"\0" for i in range(blocks))
    content = magic.to_bytes(4, "big") + length.to_bytes(8, "little") + b"\0\1" + frame
    return content.ljust(length, b"\0")


def long_keys(prefix: int, count: int, length: int) -> bytes:
    """A node of so many bytes that has `count` keys, all of which begin with the same `prefix` bytes: it holds these
    once."""

    def number(n: int) -> bytes:
        return bytes([n & 127]) if n < 128 else bytes([n & 127 | 128]) + number(n >> 7)

    body = b"\0" + number(0) + number(count) + number(prefix) * (count - 1)
    body += number(prefix + 3) + number(3) * (count - 1) + b"a" * prefix
    body += b"".join(i.to_bytes(3, "big") for i in range(count))
    body += bytes(2 * count)  # values of no bytes, in the node
    content = (0x0CDB20DE).to_bytes(4, "big") + length.to_bytes(8, "little") + b"\0\1"
    content += zstandard.ZstdCompressor().compress(body)
    frame = content + bytes(4)  # in place of its checksum
    # What is left of the place is a frame that is skipped (RFC 8878, 3.1.2).
    left = length - len(frame) - 8
    skipped = b"\x50\x2a\x4d\x18" + left.to_bytes(4, "little") + bytes(left)
    return content + skipped + bytes(4)


MANY_FILES = b"\0" + b"\x80\x80\x80\x80\x20"
"""How a node begins that says that the tree lies in 2**33 files, whose names' lengths follow."""


PACK = """
import json, sys
import numpy as np, tensorstore as ts
shape, large = json.loads(sys.argv[3]), [100_000, 1_500]
metadata = {"shape": large if sys.argv[4] else shape, "chunks": large}
metadata |= {"dtype": "<f4", "compressor": {"id": "zstd", "level": 1}}
store = {"driver": "ocdbt", "base": f"file://{sys.argv[1]}/state/"}
spec = {"driver": "zarr", "kvstore": store, "path": sys.argv[2], "metadata": metadata}
array = ts.open(spec, create=True, delete_existing=True).result()
array[:1, :1].write(np.ones((1, 1), np.float32)).result()
"""


def matrix(body: dict) -> str:
    return next(n for n, entry in body["arrays"].items() if n.startswith("params/") and len(entry["shape"]) == 2)


def packed(run: Path, outside: Path, larger: str = "") -> None:
    """600 MB of zeros in a few kilobytes, in place of a chunk of an array of each checkpoint."""
    for step in (2, 4):
        checkpoint = run / "checkpoints" / str(step)
        body = json.loads((checkpoint / "manifest.json").read_text())["body"]
        name = matrix(body)
        # In a process of its own: to make it takes the memory too.
        shape = json.dumps(body["arrays"][name]["shape"])
        subprocess.run([sys.executable, "-c", PACK, checkpoint, f"{name}/", shape, larger], check=True)
        reseal(checkpoint)  # which still says what the array was


def packed_and_declared(run: Path, outside: Path) -> None:
    """The same, and the manifest says so too."""
    packed(run, outside, "larger")

    def change(body):
        name = matrix(body)
        body["arrays"][name]["shape"] = [100_000, 1_500]
        return body

    for step in (2, 4):
        reseal(run / "checkpoints" / str(step), change)


def bomb_of_an_index(run: Path, outside: Path) -> None:
    """400 MB of zeros in place of the node that says where arrays are, which become several gigabytes."""
    in_place_of_nodes(run, lambda length: unpacked_zeros(3_000, length, MANY_FILES))


def keys_of_an_index(run: Path, outside: Path) -> None:
    """A thousand keys that have three million bytes in common, in some kilobytes."""
    in_place_of_nodes(run, lambda length: long_keys(3_000_000, 1_000, length))


def in_place_of_nodes(run: Path, make: Callable[[int], bytes]) -> None:
    for step in (2, 4):
        path, length = top_of_index(run / "checkpoints" / str(step) / "state")
        path.write_bytes(make(length) + path.read_bytes()[length:])
        reseal(run / "checkpoints" / str(step))


def top_of_index(state: Path) -> tuple[Path, int]:
    """The file that begins with a database's node at the top, and how many bytes that has."""
    versions = ts.ocdbt.dump(ts.KvStore.open(f"file://{state}/").result()).result()["versions"]
    _, folder, name, offset, length = versions[-1]["root"]["location"].split(":")
    assert offset == "0"
    return state / folder / name, int(length)


NAMES = (
    "config.json", "data.json", "home.json", "skipped.json", "tokenizer/tokenizer.json", "checkpoints/4/manifest.json",
    "checkpoints/4/state/_METADATA", "metrics.jsonl", "events.jsonl",
)  # fmt: skip
"""Files of a run that hold JSON."""


def power(rng: random.Random, least: int, most: int) -> int:
    """A number between two powers of two, as often near one of them as near the other."""
    return int(2 ** rng.uniform(least, most))


def larger_json(rng: random.Random, content: bytes) -> bytes:
    """A JSON object with one more key, whose value is deep, wide, long or a number of many digits; it may lack its
    end."""
    n = power(rng, 17, 25)
    wide = [b"[" + each * (n // len(each)) + b"0]" for each in (b"[],", b"{},", b'"",')]
    value = rng.choice((
        *wide, *wide, b"{" + b",".join(b'"%d":0' % i for i in range(n // 12)) + b"}", b"[" * n + b"]" * n, b"[" * n,
        b'{"a":' * (n // 5) + b"1" + b"}" * (n // 5), b'"' + b"x" * n + b'"', b'"' + b"\\u0000" * (n // 6) + b'"',
        b"-" + b"7" * n, b"1e" + b"9" * n, b"0." + b"3" * n,
    ))  # fmt: skip
    comma = b", " if content.rstrip()[-2:-1] not in (b"{", b"") else b""
    return content.rstrip().removesuffix(b"}") + comma + b'"x": ' + value + b"}" * (rng.random() < 0.9)


def json_texts(rng: random.Random, run: Path, place: Path) -> Act:
    name = rng.choice(NAMES)
    path = run / name
    if name.endswith(".jsonl"):
        with open(path, "ab") as file:
            file.write(larger_json(rng, b'{"step": 3, "kind": "train"}') + b"\n" * (rng.random() < 0.5))
        return (lambda: read_history(path)) if name == "metrics.jsonl" else (lambda: [*events.read(path)])
    path.write_bytes(larger_json(rng, path.read_bytes() if path.exists() else b"{}"))
    if name.endswith("_METADATA"):
        reseal(run / "checkpoints" / "4")
    return lambda: (load(run), workdir._recorded_data(run), skipped.read_skipped(run))


def only_checkpoint(run: Path) -> Path:
    """The last checkpoint of a run, without the others, which would be read in its place."""
    shutil.rmtree(run / "checkpoints" / "2")
    return run / "checkpoints" / "4"


def holes(rng: random.Random, run: Path, place: Path) -> Act:
    """A file of a run that has up to 8 TiB, none of which is on the disk."""
    state = only_checkpoint(run) / "state"
    files = [path for path in sorted((state if rng.random() < 0.5 else run).rglob("*")) if path.is_file()]
    path = rng.choice([path for path in files if path.name != "lock"])
    os.truncate(path, path.stat().st_size + power(rng, 12, 43))
    if path.is_relative_to(state) and rng.random() < 0.8:
        unhashed_reseal(state.parent)
    if path.name == "metrics.jsonl":
        return lambda: read_history(path)
    return (lambda: [*events.read(path)]) if path.name == "events.jsonl" else (lambda: load(run))


@functools.cache
def prepared(run: Path, make: Callable[[Path, Path], None]) -> Path:
    """A copy of a run in which arrays or their index would unpack to very much: to make it takes seconds."""
    copy = shutil.copytree(run, run.parent / make.__name__, ignore=shutil.ignore_patterns("plots"))
    make(copy, run.parent)
    return copy


def arrays(rng: random.Random, run: Path, place: Path) -> Act:
    """Compressed chunks, or an index, in a checkpoint whose files are spoiled besides, as often as not."""
    made = prepared(place.parent / "run", rng.choice((packed, packed_and_declared, bomb_of_an_index, keys_of_an_index)))
    shutil.rmtree(run)
    shutil.copytree(made, run)
    checkpoint = only_checkpoint(run)
    if rng.random() < 0.5:
        spoil_file(rng, rng.choice([path for path in sorted((checkpoint / "state").rglob("*")) if path.is_file()]))
        reseal(checkpoint)
    return lambda: load(run)


def index(rng: random.Random, run: Path, place: Path) -> Act:
    """Zeros or long keys in place of a database's manifest or of its node at the top, up to gigabytes of them; some are
    spoiled."""
    state = only_checkpoint(run) / "state"
    path, length = top_of_index(state)
    first = rng.choice((MANY_FILES, b"\0", b""))
    match rng.randrange(4):
        case 0:
            path = state / "manifest.ocdbt"
            length = path.stat().st_size
            content = unpacked_zeros(power(rng, 0, 14), 0, first, 0x0CDB3A2A)
        case 1:
            content = unpacked_zeros(power(rng, 0, 14), length, first)
        case _:
            content = long_keys(power(rng, 10, 23), power(rng, 5, 10), length)
    content = spoil_bytes(rng, content) if rng.random() < 0.3 else content
    path.write_bytes(content + path.read_bytes()[length:])
    reseal(state.parent)
    return lambda: (CheckpointReader(run / "checkpoints").verify(4), load(run))


@functools.cache
def model() -> bytes:
    """An honest SentencePiece model, of four special pieces and some more."""
    made, lines = io.BytesIO(), iter(["ab ba cab", "abc cab", "bad cab"] * 20)
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=lines, model_writer=made, vocab_size=16, model_type="bpe", minloglevel=2, pad_id=0, unk_id=1,
        bos_id=2, eos_id=3,
    )  # fmt: skip
    return made.getvalue()


def field(rng: random.Random, content: bytes) -> bytes:
    """A field of a protocol buffer with bytes in it; its length is right, for the most part."""
    size, head = len(content) if rng.random() < 0.8 else power(rng, 1, 62), bytes([rng.randrange(1, 16) << 3 | 2])
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + content


def pieces(rng: random.Random, run: Path, place: Path) -> Act:
    """A model with very many pieces or other fields of some bytes, or fields in fields."""
    n = power(rng, 22, 25)
    added = rng.choice((
        lambda: b"\x0a\x00" * (n // 2), lambda: b"\x0a\x03\x0a\x01x" * (n // 5), lambda: field(rng, b"") * (n // 2),
        lambda: field(rng, b"\x00" * n), lambda: functools.reduce(lambda inner, _: field(rng, inner), range(60), b""),
        lambda: bytes([rng.randrange(1, 16) << 3 | 3]) * n, lambda: field(rng, field(rng, b"") * (n // 2)),
    ))()  # fmt: skip
    content = model() + added if rng.random() < 0.7 else added + model()
    content = spoil_bytes(rng, content) if rng.random() < 0.3 else content
    return lambda: SentencePieceTokenizer(content).encode(["ab cab"])


def records(rng: random.Random, run: Path, place: Path) -> Act:
    """Data that becomes a thousand times as large when it is read: few and long lines, many, of zeros, or of text."""
    line = rng.choice((b"\0", b"a", b"a\n", b"\n", b"\xff", b"{}\n", b'"', b"[", b"\r"))
    pack, suffix = rng.choice(((gzip.compress, "gz"), (functools.partial(lzma.compress, preset=0), "xz")))
    content = pack(line * power(rng, 10, 22)) * rng.choice((1, 1, 3))
    if rng.random() < 0.3:
        content = spoil_bytes(rng, content)
    kind = rng.choice(("text", "jsonl", "csv"))
    name = "test.src" if kind == "text" else f"test.{kind}"
    (place / f"{name}.{suffix}").write_bytes(content)
    fields = {"data__source": "", "data__target": "{split}.src"}
    if kind != "text":
        fields = {"data__file": f"{{split}}.{kind}", "data__source": "a", "data__target": "a"}
    family, bad = "causal_lm" if kind == "text" else "transformer", rng.choice((0, 3))
    config = tiny(place, family, data__format=kind, data__max_bad_records=bad, **fields).data

    def act() -> None:
        source = open_split(config, "test")
        for number in range(0, len(source), max(1, len(source) // 50)):
            source[number]

    return act


PATTERNS = ("(?:[a-f]|[a-f])*!", "(a+)+b", "(" * 200 + ")" * 200, "a{65535}{9999}", "(?:a{9999}){9999}", "[" * 99)
"""Regular expressions that take for ever, to match or to compile, or that cannot be."""


COSTLY = (
    ("model", "encoder_layers"), ("model", "decoder_layers"), ("model", "width"), ("model", "relative_distance"),
    ("decode", "beam_size"), ("decode", "max_length_offset"), ("decode", "no_repeat_ngram"), ("data", "prompt"),
)  # fmt: skip


def settings(rng: random.Random, run: Path, place: Path) -> Act:
    """Huge numbers, long texts and lists, and endless patterns in the config of a run that was made elsewhere."""
    values = json.loads((run / "config.json").read_text())
    for _ in range(rng.choice((1, 1, 2, 4))):
        section = rng.choice(("model", "decode", "data", "evaluate", "train", "tokenizer", "mesh"))
        section, key = rng.choice((*COSTLY, (section, rng.choice(sorted(values[section])))))
        old = values[section][key]
        if key in ("symbol_pattern", "unwritten"):
            values[section][key] = rng.choice(PATTERNS)
        elif type(old) is int:
            values[section][key] = power(rng, 0, 33)
        elif type(old) is float:
            values[section][key] = 10.0 ** rng.uniform(-2, 60)
        elif isinstance(old, list):
            values[section][key] = [rng.choice((7, "en-de", "bleu"))] * power(rng, 2, 17)
        elif isinstance(old, str):
            values[section][key] = rng.choice((old, "x")) * power(rng, 2, 17)
    (run / "config.json").write_text(json.dumps(values))
    if rng.random() < 0.5:
        (run / "data.json").unlink()
    return lambda: load(run)


FAMILIES: dict[str, Callable[[random.Random, Path, Path], Act]] = {
    "bombs of JSON": json_texts, "holes": holes, "packed arrays": arrays, "bombs of an index": index,
    "bombs of pieces": pieces, "bombs of records": records, "bombs of settings": settings,
}  # fmt: skip
"""Each makes one case: it puts something into the run, or into a folder of its own, and returns what reads it."""
