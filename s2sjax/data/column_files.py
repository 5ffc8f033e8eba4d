"""Columns on disk: a shard for some thousand examples, and whole columns that are mapped into memory."""

import functools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from s2sjax.data.cache import cache_errors, write
from s2sjax.data.columns import Column

_VALUES = "tokens"  # what caches of earlier versions call a column's values, whatever they are


def write_shard(path: Path, columns: Mapping[str, Column]) -> None:
    """Columns of some examples as one .npz file."""
    arrays = {f"{name}_{_VALUES}": column.values for name, column in columns.items()}
    arrays |= {f"{name}_lengths": column.lengths for name, column in columns.items()}
    write(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def is_whole(path: Path) -> bool:
    """Whether a shard is there and whole; one that a disk spoiled is made again."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (FileNotFoundError, EOFError, zipfile.BadZipFile):
        return False


def join_shards(directory: Path, shards: Sequence[Path], name: str) -> None:
    """A column of all shards, one after the other, as files that `load_column` reads. One shard is in memory at a time.

    Args: shards: at least one, in the order of their examples.
    """
    lengths = np.concatenate([_read(shard, f"{name}_lengths") for shard in shards])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    write(directory / f"{name}_{_VALUES}.npy", functools.partial(_join_values, shards, name, int(offsets[-1])))
    write(directory / f"{name}_offsets.npy", functools.partial(np.save, arr=offsets))


def load_column(directory: Path, name: str) -> Column:
    """A column, its values mapped into memory and read-only."""
    # As plain arrays: slicing an np.memmap makes a new np.memmap each time, which is several times slower.
    with cache_errors(directory):
        values, offsets = (
            np.asarray(np.load(directory / f"{name}_{array}.npy", mmap_mode="r", allow_pickle=False))
            for array in (_VALUES, "offsets")
        )
    return Column(values, offsets)


def _join_values(shards: Sequence[Path], name: str, total: int, file: IO[bytes]) -> None:
    """The values of every shard as one .npy file. All are of one type and width."""
    for number, shard in enumerate(shards):
        values = _read(shard, f"{name}_{_VALUES}")
        if not number:
            kind = values.dtype, values.shape[1:]
            header = {"descr": values.dtype.str, "fortran_order": False, "shape": (total, *values.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
        assert (values.dtype, values.shape[1:]) == kind, f"{shard} has {values.dtype} {values.shape}, not {kind}"
        file.write(values.tobytes())


def _read(shard: Path, array: str) -> np.ndarray:
    with cache_errors(shard.parent), np.load(shard, allow_pickle=False) as arrays:
        return arrays[array]
