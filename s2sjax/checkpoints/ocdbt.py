"""The index of an OCDBT database, read before tensorstore reads what it points to.

An OCDBT database (tensorstore's, in which orbax keeps arrays) is a file `manifest.ocdbt` that points to a B+tree, whose
leaves hold small values and point to large ones: (file, offset, length). All of that may be a stranger's. The nodes are
compressed, so that some kilobytes may become gigabytes; so do keys, of which a node holds only what differs from the
key before; a value may be said to lie in a file outside, or many values in the same bytes. So each node is unpacked
within a bound, its keys are counted before they are spelled out, and what it points to is held to the files there are.

The format: https://google.github.io/tensorstore/kvstore/ocdbt/index.html#storage-format.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import zstandard

from s2sjax.checkpoints.manifest import DamagedError
from s2sjax.files import rundir
from s2sjax.plural import counted

MANIFEST = "manifest.ocdbt"
_LARGEST_MANIFEST = 1 << 13  # bytes; it has some hundred for each version that it keeps, of which there is one
_HEAD = 14  # bytes before what may be compressed: magic (4), length (8), version, and how it is compressed
_PLAIN, _PACKED = b"\0\0", b"\0\1"  # the last two of them
_CRC = 4
_WINDOW = 1 << 23  # bytes of what was unpacked that Zstandard looks back to; tensorstore's level has 2 MiB
_PART = 1 << 20  # bytes that are unpacked at a time
_WIDEST = 4  # bytes of a length: nothing in an index is 256 MiB long


@dataclass(frozen=True)
class Most:
    """What the index of a database may have.

    Attributes:
      entries: Keys, and nodes below nodes.
      size: Bytes, unpacked, all keys spelled out.
    """

    entries: int
    size: int


def read_index(directory: Path, files: Mapping[str, int], most: Most) -> dict[str, int]:
    """The bytes of every value in a database, by key. No value is read.

    Args:
        directory: of the database.
        files: the size of each file in it, by relative path: all that it may point to.
        most: what the index may have.

    Raises:
        DamagedError: it is damaged or larger, or points to what is not there, or to more bytes than there are.
        ValueError, OSError: it cannot be read.
    """
    if (size := files.get(MANIFEST, 0)) > _LARGEST_MANIFEST:
        raise DamagedError(f"file {MANIFEST}: {counted(size, 'byte')}, expected at most {_LARGEST_MANIFEST:,}")
    if _unpacked(directory, MANIFEST, 0, size, _LARGEST_MANIFEST) is None:
        raise DamagedError(f"file {MANIFEST}: unpacked, it has more than {counted(_LARGEST_MANIFEST, 'byte')}")
    base = ts.KvStore.open(f"file://{directory}/").result()
    versions = _dumped(base, MANIFEST).get("versions")
    if not versions:
        raise DamagedError(f"file {MANIFEST}: no version of the database in it")
    lengths: dict[str, int] = {}
    pointed, entries, left = 0, most.entries, most.size
    root = versions[-1]["root"].get("location")
    nodes = [] if root is None else [(b"", root)]  # each with what its keys begin with
    while nodes:
        prefix, location = nodes.pop()
        name, offset, length = _place(location, files)
        node = _unpacked(directory, name, offset, length, left)
        if node is not None:
            found, spelled_out = _counted(node, name)
            entries, left = entries - found, left - len(node) - spelled_out
        if node is None or entries < 0 or left < 0:
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
        raise DamagedError(
            f"its index points to {counted(pointed, 'byte')}, and its files have {sum(files.values()):,}"
        )
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
        raise DamagedError(f"its index points to {counted(begin + size, 'byte')} of {name}, which has {files[name]:,}")
    return name, begin, size


def _unpacked(directory: Path, name: str, offset: int, length: int, most: int) -> bytes | None:
    """What a manifest or a node holds between its head and its checksum; None if that is more than `most` bytes."""
    if length > most:
        return None
    with rundir.open_for_reading(directory, name) as handle:
        stored = os.pread(handle, length, offset)
    head, body = stored[:_HEAD], stored[_HEAD:-_CRC]
    if head.endswith(_PLAIN):
        return body
    if len(head) < _HEAD or not head.endswith(_PACKED):  # also other ways to spell these numbers
        raise DamagedError(f"file {name}: the index is of another version, or compressed in another way")
    try:
        unpacking = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        content, reader = bytearray(), unpacking.stream_reader(io.BytesIO(body), read_across_frames=True)
        while len(content) <= most and (part := reader.read(_PART)):
            content += part
    except zstandard.ZstdError as error:
        raise DamagedError(f"file {name}: the index is not compressed as one is ({error})") from error
    return None if len(content) > most else bytes(content)


def _counted(node: bytes, name: str) -> tuple[int, int]:
    """The entries of a node, and the bytes that its keys and the paths of its files have when they are spelled out."""
    content, at = np.frombuffer(node, np.uint8), 1  # after its height

    def lengths(count: int) -> int:
        """The sum of so many lengths, seven bits a byte, the low ones first, all but the last of a length marked."""
        nonlocal at
        window = content[at : at + _WIDEST * max(count, 0)]
        ends = np.flatnonzero(window < 128)[: max(count, 0)]
        begins = np.concatenate([[0], ends + 1])[: len(ends)]
        if len(ends) != count or (ends - begins >= _WIDEST).any():
            raise DamagedError(f"file {name}: the index is cut off, or a length in it is too large")
        at += int(ends[-1]) + 1 if count else 0
        places = [np.where(begins + k <= ends, window[np.minimum(begins + k, ends)], 0) for k in range(_WIDEST)]
        return sum(int(((place & 127).astype(np.int64) << 7 * k).sum()) for k, place in enumerate(places))

    files = lengths(1)
    shared = lengths(max(files - 1, 0))
    written = lengths(files)
    lengths(files)  # how much of each path is a folder
    at += written
    entries = lengths(1)
    return entries, shared + written + lengths(max(entries - 1, 0)) + lengths(entries)
