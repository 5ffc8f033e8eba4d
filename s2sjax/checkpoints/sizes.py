"""The sizes of stored arrays, compared before anything is allocated for them.

What is read of a checkpoint takes as much memory as its files have bytes, and no more: s2sjax stores arrays
uncompressed. A manifest, the metadata of an array and its chunks could each ask for more (a few kilobytes of compressed
zeros become gigabytes), so all of them are held to the same shapes, types and sizes.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorstore as ts

from s2sjax import jsontext
from s2sjax.checkpoints.manifest import DamagedError
from s2sjax.errors import UserError

_LARGEST_DIMENSION = 2**40
_METADATA = 1 << 16  # bytes of what describes an array; orbax writes some 150
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


def check_sizes(directory: Path, arrays: Mapping[str, tuple[tuple[int, ...], str]], stored: int) -> None:
    """Compare what the manifest says with what is stored, without reading an array.

    Args:
        directory: of orbax: its OCDBT database of zarr arrays.
        arrays: what will be read, shapes and types by path; none of them empty.
        stored: bytes of all files.

    Raises:
        DamagedError: an array is missing, is of another shape or type, is compressed, or larger than all files are.
    """
    needed = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays.values())
    if needed > stored:
        raise DamagedError(f"its arrays would take {needed:,} bytes, and its files have {stored:,}")
    try:
        store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{directory}/"}).result()
        read = {name: store.read(f"{name}/.zarray") for name in arrays}
        found = {name: future.result().value for name, future in read.items()}
    except (ValueError, OSError) as error:
        raise DamagedError(f"its arrays cannot be read: {str(error)[:200]}") from error
    for name, (shape, dtype) in arrays.items():
        if len(found[name]) > _METADATA:
            raise DamagedError(f"array {name}: what describes it has {len(found[name]):,} bytes")
        _check_array(name, found[name], shape, np.dtype(dtype))


def _check_array(name: str, content: bytes, shape: tuple[int, ...], dtype: np.dtype) -> None:
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
