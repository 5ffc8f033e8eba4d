"""A directory of files sealed by checksums: what is in it, and a proof that it is still all there.

A manifest is the file `manifest.json` at the top of a directory. It names every other file with its size and SHA-256,
carries a body of the caller's own, and ends with the SHA-256 of all that. It is written last, so a directory without a
valid one was never finished. Checksums find accidents, not forgery: whoever can write files can write a manifest.

Nothing here follows a symbolic link, opens a path taken from a manifest, or unpickles anything: files are found by
walking the directory, and a manifest's paths are only compared with what was found.
"""

import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from s2sjax.errors import UserError, in_one_line
from s2sjax.files import jsontext, rundir
from s2sjax.plural import counted

NAME = "manifest.json"
FORMAT = "s2sjax-manifest"
VERSION = 1
LARGEST = jsontext.Bound(1 << 25, 2_000_000)
"""What a manifest may have. One of 100,000 arrays has 14 MB and 1.1 million separators."""


class DamagedError(Exception):
    """A directory is not what its manifest says; the message names the file and what is wrong with it."""


class DeniedError(DamagedError):
    """A file or folder may not be read: nothing is known of what is in it."""


def damage(what: str, error: Exception) -> DamagedError:
    """What is wrong with a file or folder (`what`) that cannot be read."""
    kind = DeniedError if isinstance(error, PermissionError) else DamagedError
    return kind(f"{what}: {in_one_line(error)}")


def seal(directory: Path, body: Mapping[str, Any]) -> None:
    """Flush every file of `directory` to the disk and write its manifest.

    Args:
        directory: a directory of regular files, which nobody changes any more.
        body: JSON values stored beside the checksums; `read` returns them.

    Raises:
        OSError: the disk is full, read-only or broken.
    """
    listed = {name: {"size": size, "sha256": _checksum(directory, name)} for name, size in sizes(directory).items()}
    document = {"format": FORMAT, "version": VERSION, "body": jsontext.with_nulls(dict(body)), "files": listed}
    with open(directory / NAME, "xb") as out:
        out.writelines(_serialised(document | {"sha256": _digest(document)}))
    flush(directory)


def read(directory: Path) -> dict[str, Any]:
    """The body of the directory's manifest, whose own checksum is verified and the files' are not.

    Raises:
        DamagedError: there is no manifest, or it is not the one that was written.
    """
    return _read(directory)["body"]


def verify(
    directory: Path, check: Callable[[dict[str, Any], Mapping[str, int]], None] = lambda body, files: None
) -> dict[str, Any]:
    """As `read`, after comparing every file with the manifest: names and sizes of all, then checksums.

    Args:
        check: is given the body, and the size of each file by its relative path, before the first of them is read; it
            may raise what it likes.

    Raises:
        DamagedError: for the first file that is missing, added, of another size or of another content.
    """
    document = _read(directory)
    try:
        listed, found = document["files"], sizes(directory)
    except OSError as error:  # may not be read, or somebody deletes it at this moment
        raise damage(f"{error.filename}", error) from error
    found.pop(NAME, None)
    for name in sorted(listed.keys() - found.keys()):
        raise DamagedError(f"file {name}: missing")
    for name in sorted(found.keys() - listed.keys()):
        raise DamagedError(f"file {name}: not in the manifest")
    for name, size in found.items():
        if size != listed[name]["size"]:
            raise DamagedError(f"file {name}: {counted(size, 'byte')} instead of {listed[name]['size']}")
    check(document["body"], found)
    for name in found:
        try:
            checksum = _checksum(directory, name)
        except OSError as error:
            raise damage(f"file {name}", error) from error
        if checksum != listed[name]["sha256"]:
            raise DamagedError(f"file {name}: checksum differs")
    return document["body"]


def files(directory: Path) -> dict[str, str]:
    """SHA-256 (hexadecimal) of every file by its relative path, as the directory's manifest has it.

    The paths stay inside the directory. Raises: DamagedError as `read`.
    """
    return {name: str(entry["sha256"]) for name, entry in _read(directory)["files"].items()}


def flush(directory: Path) -> None:
    """Make every file and folder of `directory` survive a power cut. Raises: OSError."""
    folders = {"."}
    for name in sizes(directory):
        with rundir.open_for_reading(directory, name) as handle:
            os.fsync(handle)
        folders.update(str(parent) for parent in PurePosixPath(name).parents)
    for folder in folders:
        flush_directory(directory, folder)


def flush_directory(directory: Path, name: str = "") -> None:
    """Make a directory's entries (names, renames) survive a power cut: its own, or those of a folder in it."""
    with rundir.open_folder(directory, name) as handle:
        os.fsync(handle)


def _read(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise DamagedError("not a directory")
    try:
        content = rundir.read(directory, NAME, most=LARGEST.size)
    except (OSError, UserError) as error:
        raise damage(f"file {NAME}", error) from error
    try:
        if not content.isascii():
            raise ValueError("a manifest has no other characters, which would take four times the memory")
        document = jsontext.parse(content, NAME, most=LARGEST)
        digest = document.pop("sha256")
        # Compared as bytes too: 1e-05 and 1E-05 are one flipped bit apart and mean the same.
        intact = digest == _digest(document) and _is_serialised(document | {"sha256": digest}, content)
    except (ValueError, KeyError) as error:
        raise DamagedError(f"file {NAME}: cannot be read as a manifest") from error
    if not intact:
        raise DamagedError(f"file {NAME}: checksum differs")
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise DamagedError(f"file {NAME}: not of format {FORMAT} version {VERSION}")
    if not isinstance(document.get("body"), dict) or not isinstance(document.get("files"), dict):
        raise DamagedError(f"file {NAME}: body or files missing")
    for name, entry in document["files"].items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name:
            raise DamagedError(f"file {NAME}: the path '{name}' leaves the directory")
        if not isinstance(entry, dict) or not {"size", "sha256"} <= entry.keys():
            raise DamagedError(f"file {NAME}: no size or checksum for {name}")
    return document


def sizes(directory: Path) -> dict[str, int]:
    """The bytes of every file below `directory` by its relative posix path, sorted. Raises: DamagedError for links and
    devices; OSError."""
    found = {}
    with rundir.open_folder(directory) as root:
        for folder, folders, files, handle in os.fwalk(".", onerror=_fail, dir_fd=root):
            for entry in (*folders, *files):
                name = PurePosixPath(folder, entry).as_posix()
                status = os.stat(entry, dir_fd=handle, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found[name] = status.st_size
                elif not stat.S_ISDIR(status.st_mode):
                    raise DamagedError(f"file {name}: a link or a device; only regular files are read")
    return dict(sorted(found.items()))


def _fail(error: OSError) -> None:
    """For `os.fwalk`, which passes over folders that it cannot read."""
    raise error


def _checksum(directory: Path, name: str) -> str:
    with rundir.open_for_reading(directory, name) as handle, open(handle, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(document: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for part in _serialised(document):
        digest.update(part)
    return digest.hexdigest()


def _is_serialised(document: Mapping[str, Any], content: bytes) -> bool:
    """Whether a file that says this has this very content."""
    end = 0
    for part in _serialised(document):
        if not content.startswith(part, end):
            return False
        end += len(part)
    return end == len(content)


def _serialised(document: Mapping[str, Any]) -> Iterator[bytes]:
    """What a file has that says this, in parts of some 100 kB."""
    pieces = itertools.chain(jsontext.pieces(document, indent=1, sort_keys=True), "\n")
    while part := "".join(itertools.islice(pieces, 10_000)):
        yield part.encode()
