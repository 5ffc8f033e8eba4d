"""The sizes of stored arrays, compared before anything is allocated for them.

What is read of a checkpoint takes as much memory as its files have bytes, and no more: s2sjax stores arrays
uncompressed. A manifest, the metadata of an array and its chunks could each ask for more (a few kilobytes of compressed
zeros become gigabytes), so all of them are held to the same shapes, types and sizes. So is everything beside the
arrays: orbax's own JSON, and the index of the database that they are in.
"""

import errno
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import tensorstore as ts

from s2sjax.checkpoints import manifest
from s2sjax.checkpoints.manifest import DamagedError
from s2sjax.checkpoints.ocdbt import Most, read_index
from s2sjax.errors import UserError, in_one_line
from s2sjax.files import jsontext, rundir
from s2sjax.plural import counted

_LARGEST_DIMENSION = 2**40
_DESCRIPTION = 1 << 16  # bytes of what describes an array; orbax writes some 150
_METADATA, _PER_PROCESS = "_METADATA", "array_metadatas/"
"""What orbax reads besides, of the files that it writes: JSON, the latter a file for each process that wrote."""
_LEAST_DATA = 16
"""A checkpoint has at least this part of its bytes on the disk: the rest may be holes, which only zeros become (moments
of an optimizer that has just begun, say), and only on some file systems."""
_TYPES = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bfloat16", "float16", "float32"]
    + ["float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"]
)
"""Names of types that arrays have. NumPy reads a little language in other texts, which fails as it likes."""


def parse_arrays(entries: Mapping[str, Mapping]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes and types by path, from a manifest. Raises: ValueError, KeyError or TypeError if they are none."""
    found = {}
    for name, entry in entries.items():
        shape, dtype = tuple(entry["shape"]), entry["dtype"]
        if not all(type(size) is int and 0 <= size < _LARGEST_DIMENSION for size in shape):
            raise ValueError(f"{name} has the shape {shape}")
        if dtype not in _TYPES:
            raise ValueError(f"{name} has the type {dtype}")
        found[name] = (shape, dtype)
    return found


Arrays = Mapping[str, tuple[tuple[int, ...], str]]
"""Shapes and types by path."""


def bytes_of(arrays: Arrays) -> int:
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays.values())


def check_files(directory: Path, arrays: Arrays, files: Mapping[str, int]) -> None:
    """Compare the files of a checkpoint with the arrays that its manifest lists, before anything of them is read.

    Files have the arrays' bytes and what describes them: twice the arrays, 64 KiB an array and 64 MiB are plenty.

    Args:
        files: bytes by path.

    Raises:
        DamagedError: they are larger, or sparse. OSError.
    """
    stored, most = sum(files.values()), 2 * bytes_of(arrays) + (len(arrays) << 16) + (1 << 26)
    if stored > most:
        raise DamagedError(f"its files have {counted(stored, 'byte')}, expected at most {most:,} for its arrays")
    needed, data = stored // _LEAST_DATA, 0
    for name in sorted(files, key=lambda name: -files[name]):
        if data >= needed:
            return
        with rundir.open_for_reading(directory, name) as handle:
            data += _data(handle, files[name], needed - data)
    if data < needed:
        raise DamagedError(
            f"its files have {counted(stored, 'byte')}, of which {data:,} are on the disk; the rest are holes"
        )


def _data(handle: int, size: int, enough: int) -> int:
    """The bytes of a file that are no holes, or as many of them as are enough. A file system that knows no holes says
    that all is data."""
    found = at = 0
    while found < enough and at < size:
        try:
            begin = os.lseek(handle, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                break
            if error.errno == errno.EINVAL:
                return size
            raise
        at = os.lseek(handle, begin, os.SEEK_HOLE)
        found += at - begin
    return found


def check_sizes(directory: Path, saved: Arrays, wanted: Collection[str]) -> None:
    """Compare what the manifest says with what is stored, without reading an array.

    Args:
        directory: of the checkpoint. In `state` orbax has its OCDBT database of zarr arrays.
        saved: all arrays of the manifest.
        wanted: names of those that will be read; none of them empty.

    Raises:
        DamagedError: an array is missing, is of another shape or type, is compressed, or larger than all files are; or
            what stands beside the arrays is larger than they can need, or not what s2sjax writes.
    """
    try:
        found = manifest.sizes(directory)
        arrays = {name: saved[name] for name in wanted}
        if (needed := bytes_of(arrays)) > (stored := sum(found.values())):
            raise DamagedError(f"its arrays would take {counted(needed, 'byte')}, and its files have {stored:,}")
        _check_metadata(directory, saved, found)
        state = directory / "state"
        files = {name.removeprefix("state/"): size for name, size in found.items() if name.startswith("state/")}
        lengths = read_index(state, files, _most_of_index(saved))
        for name in arrays:
            if (size := lengths.get(f"{name}/.zarray", 0)) > _DESCRIPTION:
                raise DamagedError(f"array {name}: what describes it has {counted(size, 'byte')}")
        store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{state}/"}).result()
        read = {name: store.read(f"{name}/.zarray") for name in arrays}
        descriptions = {name: future.result().value for name, future in read.items()}
    except (ValueError, OSError) as error:
        raise DamagedError(in_one_line(error)) from error
    chunks = {
        name: _check_array(name, descriptions[name], shape, np.dtype(dtype)) for name, (shape, dtype) in arrays.items()
    }
    for key, size in lengths.items():
        name, _, last = key.rpartition("/")
        if name in chunks and last != ".zarray" and size != chunks[name]:
            raise DamagedError(f"array {name}: chunk {last} has {counted(size, 'byte')}, expected {chunks[name]:,}")


def _most_of_index(saved: Arrays) -> Most:
    """An entry for each chunk and each description. A chunk of many devices has a kilobyte on the average, and one of
    up to a kilobyte stands in the index itself (orbax's setting)."""
    entries = (1 << 14) + (len(saved) << 6) + (bytes_of(saved) >> 10)
    return Most(entries, entries * 1536)


def _check_metadata(directory: Path, saved: Arrays, files: Mapping[str, int]) -> None:
    """Hold the JSON that orbax parses to a size: a list of empty lists takes twenty times its bytes.

    A description of an array has some 200 bytes and its path twice, with a separator in ten bytes or more.
    """
    size = (1 << 16) + (len(saved) << 11)
    # A process of many describes what it wrote, so there are more of these files the larger a run is.
    left = size + min(bytes_of(saved) >> 6, 1 << 26)
    for name in files:
        if (inner := name.removeprefix("state/")) == _METADATA:
            most = jsontext.Bound(size, size // 6)
            document = jsontext.parse(rundir.read(directory, name, most=size), f"file {name}", most=most)
            # Both change which files are read, and how.
            if document.get("use_zarr3") or not document.get("use_ocdbt", True):
                raise DamagedError(f"file {name}: it speaks of another format than s2sjax writes")
        elif inner.startswith(_PER_PROCESS):
            content = rundir.read(directory, name, most=left)
            jsontext.check(content, f"file {name}", jsontext.Bound(left, left // 6))
            left -= len(content)


def _check_array(name: str, content: bytes, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """The bytes of a chunk of an array. Raises: DamagedError if it is not stored as the manifest says."""
    try:
        stored = jsontext.parse(content, f"array {name}")
    except UserError as error:
        raise DamagedError(str(error)) from error
    chunks = stored.get("chunks")
    if stored.get("shape") != list(shape) or not isinstance(chunks, list) or len(chunks) != len(shape):
        raise DamagedError(f"array {name}: stored as {stored.get('shape')}, and {list(shape)} in the manifest")
    if not all(type(chunk) is int and 0 < chunk <= size for chunk, size in zip(chunks, shape, strict=True)):
        raise DamagedError(f"array {name}: stored in chunks of {chunks}, larger than {list(shape)}")
    if stored.get("compressor") is not None or stored.get("filters"):
        raise DamagedError(f"array {name}: compressed, which s2sjax writes none")
    # zarr spells bfloat16 by its name and the others as NumPy does, byte order first.
    if stored.get("dtype") not in (dtype.name, dtype.str):
        raise DamagedError(f"array {name}: stored as {stored.get('dtype')}, and {dtype.name} in the manifest")
    return math.prod(chunks) * dtype.itemsize
