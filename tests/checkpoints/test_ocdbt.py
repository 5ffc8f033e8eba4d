"""The index of a database is measured before it is unpacked, and points to nothing but the files there are."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts

from s2sjax.checkpoints import ocdbt
from s2sjax.checkpoints.manifest import DamagedError, sizes
from tests.hostile import MANY_FILES, unpacked_zeros

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


VALUES = {f"params/layer_{i}/kernel/{j}": bytes([i % 251]) * (20 + 200 * j) for i in range(300) for j in range(2)}


@pytest.mark.parametrize("config", [{}, {"compression": None}, {"max_decoded_node_bytes": 3_000}])
def test_lengths_of_all_values_are_found_of_one_node_or_of_many(tmp_path, config):
    files = make(tmp_path, VALUES, **config)
    found = ocdbt.read_index(tmp_path, files, 10_000_000)
    assert found == {key: len(value) for key, value in VALUES.items()}


def test_a_database_without_a_value_has_none(tmp_path):
    store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{tmp_path}/"}).result()
    store["a"] = b"1"
    del store["a"]
    assert ocdbt.read_index(tmp_path, sizes(tmp_path), 1_000_000) == {}


def test_what_is_measured_is_never_less_than_what_is_unpacked(tmp_path):
    """By the same nodes, written without compression."""
    rng = np.random.default_rng(3)
    for number, share in enumerate((0.0, 0.5, 1.0)):
        values = {f"{i:05}": bytes(rng.integers(0, 256, 90) * (rng.random(90) < share)) for i in range(5_000)}
        measured = []
        for compression in ({"id": "zstd"}, None):
            directory = tmp_path / f"{number}-{compression is None}"
            make(directory, values, compression=compression)
            path, offset, length = root(directory)
            measured.append(ocdbt._unpacked(directory, str(path.relative_to(directory)), offset, length))
        assert measured[1] == length
        assert length <= measured[0] + 14 + 4 and measured[0] < length + 2 * ocdbt._BLOCK


def test_a_node_that_unpacks_to_more_than_it_may_is_not_unpacked(tmp_path, monkeypatch):
    files = make(tmp_path, VALUES)
    path, offset, length = root(tmp_path)
    replace(path, offset, length, unpacked_zeros(200, length, MANY_FILES))  # 26 MB
    dump, dumped = ts.ocdbt.dump, []
    monkeypatch.setattr(ts.ocdbt, "dump", lambda *arguments: dumped.append(arguments) or dump(*arguments))
    with pytest.raises(DamagedError, match="unpacked, the index is larger"):
        ocdbt.read_index(tmp_path, files, 10_000_000)
    assert len(dumped) == 1  # the manifest


def test_a_manifest_that_unpacks_to_more_than_it_may_is_not_unpacked(tmp_path):
    make(tmp_path, VALUES)
    (tmp_path / "manifest.ocdbt").write_bytes(unpacked_zeros(50, 300, MANY_FILES, MANIFEST))
    with pytest.raises(DamagedError, match=r"manifest.ocdbt: unpacked"):
        ocdbt.read_index(tmp_path, sizes(tmp_path), 10_000_000)
    (tmp_path / "manifest.ocdbt").write_bytes(bytes(2 << 20))
    with pytest.raises(DamagedError, match=r"manifest.ocdbt: 2,097,152 bytes"):
        ocdbt.read_index(tmp_path, sizes(tmp_path), 10_000_000)


@pytest.mark.parametrize("spelled", [b"\x80\0", b"\0\x81", b"\x01\1", b"\0\2"])
def test_a_version_that_is_spelled_otherwise_is_refused(tmp_path, spelled):
    """As b"\\x80\\0", a zero in two bytes, the second would be read as "not compressed"."""
    files = make(tmp_path, VALUES)
    path, offset, length = root(tmp_path)
    node = unpacked_zeros(200, length, MANY_FILES)
    replace(path, offset, length, node[:12] + spelled + node[14:])
    with pytest.raises(DamagedError, match="another version"):
        ocdbt.read_index(tmp_path, files, 10_000_000)


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
        ocdbt.read_index(tmp_path, files, 10_000_000)


def test_many_values_in_the_same_bytes_are_refused(tmp_path, monkeypatch):
    files = make(tmp_path, VALUES)
    name = max(files, key=files.get)
    dumping(monkeypatch, lambda before: f"value::{name}:0:{files[name]}")
    with pytest.raises(DamagedError, match="points to .* bytes, and its files have"):
        ocdbt.read_index(tmp_path, files, 10_000_000)


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
            ocdbt.read_index(tmp_path, files, 10_000_000)
        except (DamagedError, ValueError):
            refused += 1
        file.write_bytes(before)
    assert refused > len(places) // 2
    json.dumps(ocdbt.read_index(tmp_path, files, 10_000_000))
