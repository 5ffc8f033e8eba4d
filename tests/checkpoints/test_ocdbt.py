"""The index of a database is measured before it is unpacked, and points to nothing but the files there are."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts

from s2sjax.checkpoints import ocdbt
from s2sjax.checkpoints.manifest import DamagedError, sizes
from tests.bombs import MANY_FILES, long_keys, unpacked_zeros

MANIFEST = 0x0CDB3A2A


def make(directory: Path, values: dict[str, bytes], **config) -> dict[str, int]:
    """A database, and the sizes of its files."""
    spec = {"driver": "ocdbt", "base": f"file://{directory}/", "config": {"max_inline_value_bytes": 100, **config}}
    store = ts.KvStore.open(spec).result()
    with ts.Transaction() as transaction:
        for key, value in values.items():
            store.with_transaction(transaction).write(key, value).result()
    return sizes(directory)


def root(directory: Path) -> tuple[Path, int, int]:
    """File, offset and length of the node at the top."""
    dumped = ts.ocdbt.dump(ts.KvStore.open(f"file://{directory}/").result()).result()
    _, _, name, offset, length = dumped["versions"][-1]["root"]["location"].split(":")
    return directory / name, int(offset), int(length)


def replace(path: Path, offset: int, length: int, content: bytes) -> None:
    assert len(content) <= length
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(bytes(data))


MOST = ocdbt.Most(100_000, 10_000_000)
VALUES = {f"params/layer_{i}/kernel/{j}": bytes([i % 251]) * (20 + 200 * j) for i in range(300) for j in range(2)}


@pytest.mark.parametrize("config", [{}, {"compression": None}, {"max_decoded_node_bytes": 3_000}])
def test_lengths_of_all_values_are_found_of_one_node_or_of_many(tmp_path, config):
    files = make(tmp_path, VALUES, **config)
    found = ocdbt.read_index(tmp_path, files, MOST)
    assert found == {key: len(value) for key, value in VALUES.items()}


def test_a_database_without_a_value_has_none(tmp_path):
    store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{tmp_path}/"}).result()
    store["a"] = b"1"
    del store["a"]
    assert ocdbt.read_index(tmp_path, sizes(tmp_path), MOST) == {}


def read_root(directory: Path, most: int = MOST.size) -> bytes | None:
    path, offset, length = root(directory)
    return ocdbt._unpacked(directory, str(path.relative_to(directory)), offset, length, most)


@pytest.mark.parametrize("compression", [{"id": "zstd"}, None])
def test_a_node_is_unpacked_if_it_has_no_more_bytes_than_it_may(tmp_path, compression):
    make(tmp_path, VALUES, compression=compression)
    node, (path, offset, length) = read_root(tmp_path), root(tmp_path)
    stored = path.read_bytes()[offset : offset + length]
    assert (node == stored[14:-4]) == (compression is None)
    needed = max(len(node), length)
    assert read_root(tmp_path, needed) == node and read_root(tmp_path, needed - 1) is None


@pytest.mark.parametrize("seed", range(5))
def test_keys_are_counted_as_tensorstore_spells_them_out(tmp_path, seed):
    """Keys that have much or nothing in common; of one node, so that each is whole."""
    rng = np.random.default_rng(seed)
    values = {
        "/".join("ab"[letter] * int(rng.integers(1, 300)) for letter in rng.integers(0, 2, 4)): b"x"
        for _ in range(int(rng.integers(1, 300)))
    }
    make(tmp_path, values)
    path, offset, length = root(tmp_path)
    base = ts.KvStore.open(f"file://{tmp_path}/").result()
    node = ts.ocdbt.dump(base, f"btreenode::{path.relative_to(tmp_path)}:{offset}:{length}").result()
    keys = [entry["key"] for entry in node["entries"]]
    entries, size = ocdbt._counted(read_root(tmp_path), "it")
    assert entries == len(keys) == len(values)
    assert size == sum(map(len, keys))  # nothing lies outside of this node, so it names no file


def test_keys_that_would_become_gigabytes_are_not_spelled_out(tmp_path, monkeypatch):
    """Some kilobytes, which tensorstore makes 3 GB of; where it is allowed to, the same node with fewer is read."""
    rng = np.random.default_rng(3)
    files = make(tmp_path, {str(i): rng.bytes(90) for i in range(200)})
    path, offset, length = root(tmp_path)
    replace(path, offset, length, long_keys(1_000, 50, length))
    assert ocdbt._counted(read_root(tmp_path), "it") == (50, 50 * 1_003)
    replace(path, offset, length, long_keys(3_000_000, 1_000, length))
    dump, dumped = ts.ocdbt.dump, []
    monkeypatch.setattr(ts.ocdbt, "dump", lambda *arguments: dumped.append(arguments) or dump(*arguments))
    with pytest.raises(DamagedError, match="unpacked, the index is larger"):
        ocdbt.read_index(tmp_path, files, MOST)
    assert len(dumped) == 1  # the manifest


def test_an_index_of_more_entries_than_it_may_have_is_refused(tmp_path):
    files = make(tmp_path, VALUES)
    assert ocdbt.read_index(tmp_path, files, ocdbt.Most(len(VALUES), MOST.size))
    with pytest.raises(DamagedError, match="unpacked, the index is larger"):
        ocdbt.read_index(tmp_path, files, ocdbt.Most(len(VALUES) - 1, MOST.size))


def test_a_node_that_unpacks_to_more_than_it_may_is_not_unpacked(tmp_path, monkeypatch):
    files = make(tmp_path, VALUES)
    path, offset, length = root(tmp_path)
    replace(path, offset, length, unpacked_zeros(200, length, MANY_FILES))  # 26 MB
    dump, dumped = ts.ocdbt.dump, []
    monkeypatch.setattr(ts.ocdbt, "dump", lambda *arguments: dumped.append(arguments) or dump(*arguments))
    with pytest.raises(DamagedError, match="unpacked, the index is larger"):
        ocdbt.read_index(tmp_path, files, MOST)
    assert len(dumped) == 1  # the manifest


def test_a_manifest_that_unpacks_to_more_than_it_may_is_not_unpacked(tmp_path):
    make(tmp_path, VALUES)
    (tmp_path / "manifest.ocdbt").write_bytes(unpacked_zeros(50, 300, MANY_FILES, MANIFEST))
    with pytest.raises(DamagedError, match=r"manifest.ocdbt: unpacked"):
        ocdbt.read_index(tmp_path, sizes(tmp_path), MOST)
    (tmp_path / "manifest.ocdbt").write_bytes(bytes(9_000))
    with pytest.raises(DamagedError, match=r"manifest.ocdbt: 9,000 bytes"):
        ocdbt.read_index(tmp_path, sizes(tmp_path), MOST)


@pytest.mark.parametrize("spelled", [b"\x80\0", b"\0\x81", b"\x01\1", b"\0\2"])
def test_a_version_that_is_spelled_otherwise_is_refused(tmp_path, spelled):
    """As b"\\x80\\0", a zero in two bytes, the second would be read as "not compressed"."""
    files = make(tmp_path, VALUES)
    path, offset, length = root(tmp_path)
    node = unpacked_zeros(200, length, MANY_FILES)
    replace(path, offset, length, node[:12] + spelled + node[14:])
    with pytest.raises(DamagedError, match="another version"):
        ocdbt.read_index(tmp_path, files, MOST)


def dumping(monkeypatch, change) -> None:
    """Let nodes say something else: to write one by hand would take the whole format."""
    dump = ts.ocdbt.dump

    def changed(base, *node):
        found = dump(base, *node).result()
        for entry in found.get("entries", []):
            if "indirect_value" in entry:
                entry["indirect_value"] = change(entry["indirect_value"])
        return type("Future", (), {"result": staticmethod(lambda: found)})

    monkeypatch.setattr(ts.ocdbt, "dump", changed)


@pytest.mark.parametrize(
    "place, said",
    [
        ("value::../../secret:0:10", "which is not there"),
        ("value:../../:secret:0:10", "which is not there"),
        ("value:/etc/:passwd:0:10", "which is not there"),
        ("value::d/x:0", "no place"),
        ("value::{file}:0:99999999", "which has"),
        ("value::{file}:99999999:1", "which has"),
    ],
)
def test_a_value_that_lies_outside_is_refused(tmp_path, monkeypatch, place, said):
    files = make(tmp_path, VALUES)
    name = next(name for name in files if name.startswith("d/"))
    dumping(monkeypatch, lambda before: place.replace("{file}", name))
    with pytest.raises(DamagedError, match=said):
        ocdbt.read_index(tmp_path, files, MOST)


def test_many_values_in_the_same_bytes_are_refused(tmp_path, monkeypatch):
    files = make(tmp_path, VALUES)
    name = max(files, key=files.get)
    dumping(monkeypatch, lambda before: f"value::{name}:0:{files[name]}")
    with pytest.raises(DamagedError, match="points to .* bytes, and its files have"):
        ocdbt.read_index(tmp_path, files, MOST)


def test_spoiled_databases_are_damage_or_are_read(tmp_path):
    """Every byte of the manifest, and many of a node, changed."""
    rng = np.random.default_rng(7)
    files = make(tmp_path, {key: VALUES[key] for key in list(VALUES)[:20]})
    path, offset, length = root(tmp_path)
    places = [(tmp_path / "manifest.ocdbt", at) for at in range(files["manifest.ocdbt"])]
    places += [(path, offset + int(at)) for at in rng.integers(0, length, 100)]
    refused = 0
    for file, at in places:
        before = file.read_bytes()
        changed = bytearray(before)
        changed[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(changed))
        try:
            ocdbt.read_index(tmp_path, files, MOST)
        except (DamagedError, ValueError):
            refused += 1
        file.write_bytes(before)
    assert refused > len(places) // 2
    json.dumps(ocdbt.read_index(tmp_path, files, MOST))
