"""Columns of tokens, numbers and vectors on disk: what is read is what was written, bit by bit."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2sjax.data.column_files import is_whole, join_shards, load_column, write_shard
from s2sjax.data.columns import Column

KINDS = {
    "tokens": (np.int32, ()),
    "numbers": (np.float32, ()),
    "vectors": (np.float32, (3,)),
    "half": (np.float16, (1,)),
}
NAMES = ("source", "target", "weight")


def column(rng: np.random.Generator, kind: str, lengths: list[int]) -> Column:
    """Random bits: every number there is, NaN and infinities among them."""
    dtype, width = KINDS[kind]
    rows = [rng.integers(0, 256, (n, *width, np.dtype(dtype).itemsize), np.uint8) for n in lengths]
    return Column.from_rows(
        [row.view(dtype).reshape(n, *width) for n, row in zip(lengths, rows, strict=True)], np.zeros((0, *width), dtype)
    )


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=4),
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_columns_come_back_from_shards_of_any_size(tmp_path, lengths, kinds, seed):
    rng = np.random.default_rng(seed)
    shards = [tmp_path / f"{number}.npz" for number in range(len(lengths))]
    names = dict(zip(NAMES, kinds, strict=False))
    written = [{name: column(rng, kind, of_shard) for name, kind in names.items()} for of_shard in lengths]
    for path, columns in zip(shards, written, strict=True):
        write_shard(path, columns)
        assert is_whole(path)
    for name, kind in names.items():
        join_shards(tmp_path, shards, name)
        found = load_column(tmp_path, name)
        rows = [columns[name][i] for columns in written for i in range(len(columns[name]))]
        assert len(found) == len(rows)
        assert found.values.dtype == KINDS[kind][0] and found.values.shape[1:] == KINDS[kind][1]
        assert not found.values.flags.writeable
        for i, row in enumerate(rows):
            assert found[i].tobytes() == row.tobytes()


def test_a_shard_that_a_disk_spoiled_or_that_is_not_there_is_not_whole(tmp_path):
    path = tmp_path / "0.npz"
    assert not is_whole(path)
    write_shard(path, {"source": column(np.random.default_rng(0), "vectors", [40, 2])})
    content = bytearray(path.read_bytes())
    assert is_whole(path)
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    assert not is_whole(path)
    path.write_bytes(content[: len(content) // 2])
    assert not is_whole(path)


def test_shards_of_different_kinds_are_not_joined(tmp_path):
    rng, shards = np.random.default_rng(0), [tmp_path / "0.npz", tmp_path / "1.npz"]
    for path, kind in zip(shards, ("vectors", "numbers"), strict=True):
        write_shard(path, {"source": column(rng, kind, [2, 1])})
    with pytest.raises(AssertionError, match="not"):
        join_shards(tmp_path, shards, "source")
    assert not (tmp_path / "source_tokens.npy").exists()
