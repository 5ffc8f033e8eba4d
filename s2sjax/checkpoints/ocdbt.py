"""The index of an OCDBT database, read before tensorstore reads what it points to.

An OCDBT database (tensorstore's, in which orbax keeps arrays) is a file `manifest.ocdbt` that points to a B+tree, whose
leaves hold small values and point to large ones: (file, offset, length). All of that may be a stranger's. The nodes are
compressed, so that some kilobytes may become gigabytes; a value may be said to lie in a file outside, or many values in
the same bytes. So each node is measured before it is unpacked, and what it points to is held to the files there are.

The format: https://google.github.io/tensorstore/kvstore/ocdbt/index.html#storage-format; of Zstandard: RFC 8878.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorstore as ts

from s2sjax.checkpoints.manifest import DamagedError
from s2sjax.files import rundir

MANIFEST = "manifest.ocdbt"
_LARGEST_MANIFEST = 1 << 20  # bytes; it has some hundred for each version that it keeps, of which there is one
_HEAD = 14  # bytes before what may be compressed: magic (4), length (8), version, and how it is compressed
_PLAIN, _PACKED = b"\0\0", b"\0\1"  # the last two of them
_CRC = 4
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK = 1 << 17  # bytes that a block of Zstandard unpacks to at most


def read_index(directory: Path, files: Mapping[str, int], most: int) -> dict[str, int]:
    """The bytes of every value in a database, by key. No value is read.

    Args:
        directory: of the database.
        files: the size of each file in it, by relative path: all that it may point to.
        most: bytes that the index may have when it is unpacked.

    Raises:
        DamagedError: it is damaged or larger, or points to what is not there, or to more bytes than there are.
        ValueError, OSError: it cannot be read.
    """
    if files.get(MANIFEST, 0) > _LARGEST_MANIFEST:
        raise DamagedError(f"file {MANIFEST}: {files[MANIFEST]:,} bytes, expected at most {_LARGEST_MANIFEST:,}")
    left = _LARGEST_MANIFEST - _unpacked(directory, MANIFEST, 0, files.get(MANIFEST, 0))
    if left < 0:
        raise DamagedError(f"file {MANIFEST}: unpacked, it has more than {_LARGEST_MANIFEST:,} bytes")
    base = ts.KvStore.open(f"file://{directory}/").result()
    versions = _dumped(base, MANIFEST).get("versions")
    if not versions:
        raise DamagedError(f"file {MANIFEST}: no version of the database in it")
    lengths: dict[str, int] = {}
    pointed, root = 0, versions[-1]["root"].get("location")
    nodes = [] if root is None else [(b"", root)]  # each with what its keys begin with
    while nodes:
        prefix, location = nodes.pop()
        name, offset, length = _place(location, files)
        most -= _unpacked(directory, name, offset, length)
        if most < 0:
            raise DamagedError(f"file {name}: unpacked, the index is larger than one of these arrays can be")
        pointed += length
        for entry in _dumped(base, name, location)["entries"]:
            if "location" in entry:
                nodes.append((prefix + entry["subtree_common_prefix"], entry["location"]))
                continue
            if "inline_value" in entry:
                length = len(entry["inline_value"])
            else:
                _, _, length = _place(entry["indirect_value"], files)
                pointed += length
            lengths[(prefix + entry["key"]).decode(errors="replace")] = length
    if pointed > sum(files.values()):
        raise DamagedError(f"its index points to {pointed:,} bytes, and its files have {sum(files.values()):,}")
    return lengths


def _dumped(base: ts.KvStore, name: str, location: str | None = None) -> dict[str, Any]:
    """What the manifest or a node says, which stands in the file `name`. Raises: DamagedError."""
    try:
        return ts.ocdbt.dump(base, location).result()
    except ValueError as error:  # of tensorstore, which speaks of bytes and not of files
        raise DamagedError(f"file {name}: damaged") from error


def _place(location: str, files: Mapping[str, int]) -> tuple[str, int, int]:
    """The file, the offset and the length that a location names: "btreenode:", "value:", then folder, file, numbers."""
    try:
        _, folder, name, offset, length = location.split(":")
        name, begin, size = folder + name, int(offset), int(length)
    except ValueError:
        raise DamagedError(f"its index points to {location[:200]!r}, which is no place in a file") from None
    if name not in files:
        raise DamagedError(f"its index points to the file {name[:200]!r}, which is not there")
    if begin + size > files[name]:
        raise DamagedError(f"its index points to {begin + size:,} bytes of {name}, which has {files[name]:,}")
    return name, begin, size


def _unpacked(directory: Path, name: str, offset: int, length: int) -> int:
    """The bytes that a manifest or a node has at most when it is unpacked, found without unpacking it."""
    with rundir.open_for_reading(directory, name) as handle:
        head = os.pread(handle, min(length, _HEAD), offset)
        if len(head) < _HEAD or head.endswith(_PLAIN):
            return length
        if not head.endswith(_PACKED):  # also other ways to spell these numbers, which would be read as something else
            raise DamagedError(f"file {name}: the index is of another version, or compressed in another way")
        end, at, found, last = offset + length - _CRC, offset + _HEAD, 0, False
        frame = os.pread(handle, min(18, end - at), at)
        at += _frame_head(frame, name)
        while not last:
            block = os.pread(handle, 3, at)
            if len(block) < 3 or at + 3 > end:
                raise DamagedError(f"file {name}: the index is cut off")
            kind, size = _block(block)
            last = bool(block[0] & 1)
            found += _BLOCK if kind == _COMPRESSED else min(size, _BLOCK)
            at += 3 + (1 if kind == _REPEATED else size)
        return found


_REPEATED, _COMPRESSED = 1, 2


def _block(head: bytes) -> tuple[int, int]:
    """How a block is stored, and its size."""
    number = int.from_bytes(head, "little")
    return number >> 1 & 3, number >> 3


def _frame_head(frame: bytes, name: str) -> int:
    """The length of a frame's header (RFC 8878, 3.1.1.1)."""
    if not frame.startswith(_ZSTD_MAGIC) or len(frame) < 5:
        raise DamagedError(f"file {name}: the index is not compressed as one is")
    flags = frame[4]
    single = flags >> 5 & 1
    return 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
