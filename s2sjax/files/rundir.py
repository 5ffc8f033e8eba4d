"""The files of a run directory, opened so that nothing in it leads elsewhere.

A run directory may come from a stranger, and the stranger may still be at work in it. So every file in it is opened
from the directory's own descriptor, one name after the other, and none of the names may be a link: there is no moment
between a check and a use in which the path could come to mean another file. What was opened must be a regular file: a
FIFO would wait for ever, a device may do anything. The run directory itself may be a link, because the user named it.

A file with a second name (a hard link) may be somebody else's. Files are replaced by a rename, which leaves the other
name as it is, and a file that is appended to is first made one of its own.

Names are relative to the run directory, such as "checkpoints/12/manifest.json".
"""

import contextlib
import errno
import os
import shlex
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from s2sjax.errors import UserError
from s2sjax.files import jsontext
from s2sjax.plural import counted

LARGEST = 1 << 26
"""Bytes of a file that is read as a whole: three times what a vocabulary of a million pieces has."""
LARGEST_RECORD = 1 << 30
"""Bytes of a file that grows. A million steps that are recorded one by one have some 300 MB."""
_PIECE = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ForeignError(UserError):
    """What stands in a run directory is a link, a FIFO or a device, or a file where a folder belongs."""


FILES = (
    "config.json", "home.json", "data.json", "skipped.json", "average.json", "metrics.jsonl", "samples.jsonl",
    "events.jsonl",
)  # fmt: skip
FOLDERS = ("checkpoints", "tokenizer", "plots", "tensorboard", "results", "logs")
"""What a run directory has at its top; what else stands there is the user's own, and is left alone."""


def check(workdir: Path) -> None:
    """Refuse a run directory in which one of `FILES` and `FOLDERS`, or what is in such a folder, is a link or a device.

    Each is opened safely when its time comes; this says so before anything has been done. What is in `checkpoints` is
    looked at as checkpoints are.

    Raises:
        ForeignError: for the first that is. UserError: such a folder cannot be read.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open_folder(workdir) as handle:
        for name in (*FILES, *FOLDERS):
            if _check_kind(workdir / name, handle, name) and name in FOLDERS and name != "checkpoints":
                with (
                    telling(workdir / name),
                    contextlib.suppress(FileNotFoundError),
                    open_folder(workdir, name) as folder,
                ):
                    for entry in os.listdir(folder):
                        _check_kind(workdir / name / entry, folder, entry)


def _check_kind(path: Path, folder: int, name: str) -> bool:
    """Whether it is a folder. Raises: ForeignError if it is neither that nor a file."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:  # or a picture that is being replaced
        return False
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise _foreign(path, mode, "the folder or the file")
    return stat.S_ISDIR(mode)


def read(workdir: Path, name: str, *, most: int = LARGEST) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none. OSError: it cannot be read.
        ForeignError: it is a link or no file, or a folder on the way is. UserError: it has more than `most` bytes.
    """
    with open_for_reading(workdir, name) as handle:
        size = check_size(workdir / name, handle, most)
        with open(handle, "rb", closefd=False) as file:
            return file.read(size)


def check_size(path: Path, handle: int, most: int) -> int:
    """The bytes of an open file. Raises: UserError if they are more than `most`."""
    if (size := os.fstat(handle).st_size) > most:
        raise UserError(f"{path} has {counted(size, 'byte')}, expected at most {most:,}")
    return size


def read_json(workdir: Path, name: str, *, most: jsontext.Bound = jsontext.SMALL) -> dict[str, Any]:
    """The object in a JSON file. Raises: as `read` and `jsontext.parse`."""
    return jsontext.parse(read(workdir, name, most=most.size), workdir / name, most=most)


@contextlib.contextmanager
def open_for_reading(workdir: Path, name: str) -> Iterator[int]:
    """The descriptor of a file that is there. Raises: as `read`."""
    with _parent(workdir, name) as (folder, last):
        handle = _open_file(workdir / name, folder, last, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def write(workdir: Path, name: str, content: bytes) -> None:
    """Put a file in place of what has this name, whole or not at all; its folder is made.

    Raises:
        OSError: it cannot be written. ForeignError: a folder on the way is a link or none, or the name is a folder's.
    """
    with _parent(workdir, name, make=True) as (folder, last):
        _check(workdir / name, folder, last)
        _replace(folder, last, [content])


def write_json(workdir: Path, name: str, value: Any, *, indent: int | None = 2, sort_keys: bool = False) -> None:
    """As `write`, of a value as JSON (`jsontext.dumps`) with a line end. Raises: as `write`."""
    write(workdir, name, (jsontext.dumps(value, indent=indent, sort_keys=sort_keys) + "\n").encode())


def open_for_appending(workdir: Path, name: str) -> int:
    """A descriptor to read and append with, of a file that is made if there is none; its folder is too.

    Raises:
        OSError: it cannot be written. ForeignError: it is a link or no file, or a folder on the way is.
        UserError: it has a second name, and more than `LARGEST_RECORD` bytes to copy.
    """
    with _parent(workdir, name, make=True) as (folder, last):
        handle = _open_file(workdir / name, folder, last, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        status = os.fstat(handle)
        if status.st_nlink == 1:
            return handle
        with open(handle, "rb") as file:
            if status.st_size > LARGEST_RECORD:
                raise UserError(
                    f"{workdir / name} has a second name (a hard link) and {counted(status.st_size, 'byte')}, "
                    f"expected at most {LARGEST_RECORD:,} to make a copy of; put a copy there, or move it away"
                )
            starts = range(0, status.st_size, _PIECE)
            _replace(folder, last, (file.read(min(_PIECE, status.st_size - start)) for start in starts))
        return _open_file(workdir / name, folder, last, os.O_RDWR | os.O_APPEND)


def remove(workdir: Path, name: str) -> None:
    """Delete a file, or a folder with all in it, without following links. Raises: OSError, ForeignError as `read`."""
    with _parent(workdir, name) as (folder, last):
        if stat.S_ISDIR(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
            shutil.rmtree(last, dir_fd=folder)
        else:
            os.unlink(last, dir_fd=folder)


def exists(workdir: Path, name: str) -> bool:
    """Whether there is a file. Raises: ForeignError if it is a link or no file, or a folder on the way is."""
    try:
        with _parent(workdir, name) as (folder, last):
            return _check(workdir / name, folder, last)
    except (FileNotFoundError, NotADirectoryError):
        return False


def names(workdir: Path, folder: str = "") -> list[str]:
    """What is in a folder, ascending; nothing if there is none. Raises: OSError; ForeignError if it is a link."""
    try:
        with open_folder(workdir, folder) as handle:
            return sorted(os.listdir(handle))
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def open_folder(workdir: Path, name: str = "", *, make: bool = False) -> Iterator[int]:
    """As `folder_descriptor`, for the time of a `with` statement."""
    handle = folder_descriptor(workdir, name, make=make)
    try:
        yield handle
    finally:
        os.close(handle)


def folder_descriptor(workdir: Path, name: str = "", *, make: bool = False) -> int:
    """The descriptor of a folder, which `make` makes if there is none; the caller closes it.

    Raises:
        FileNotFoundError: there is none. OSError: it cannot be opened or made.
        ForeignError: it is a link or no folder, or one on the way is.
    """
    handle = os.open(workdir, _FOLDER)
    try:
        path = workdir
        for part in _parts(name):
            path = path / part
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=handle)
            inner = _open_folder(path, handle, part)
            os.close(handle)
            handle = inner
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """For commands that only read: a file or folder that cannot be read is a mistake of the user's, who may change it.

    Raises: UserError in place of OSError.
    """
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UserError:
    """What to tell of a file or folder that cannot be read."""
    return UserError(f"cannot read {path}: {error.strerror or error}{way_in(path, error)}")


def way_in(path: Path, error: BaseException | None) -> str:
    """How a file or folder becomes readable, to end a message with; empty unless `error` is that it may not be read."""
    if not isinstance(error, PermissionError):
        return ""
    # A folder on the way may be the one that lets nobody through.
    closed = next((p for p in reversed(path.absolute().parents) if not os.access(p, os.X_OK)), path)
    return f"; if that is yours, `chmod -R u+rX {shlex.quote(str(closed))}` lets you read it, else ask its owner"


def path_of(handle: int, path: Path) -> Path:
    """A path for libraries that want one: it leads to what was opened, whatever has its name by now.

    Only Linux has such paths; elsewhere it is `path`, which was no link when it was opened.
    """
    through = Path(f"/proc/self/fd/{handle}")
    return through if through.exists() else path


def in_the_users_words(text: str, through: Path, path: Path) -> str:
    """A message in which files that were found `through` a descriptor (`path_of`) are called as the user knows them."""
    return text.replace(f"{through}/", f"{path}/")


def check_file_name(name: str, what: str) -> str:
    """`name`, which becomes part of a file's name in a run directory.

    Raises:
        UserError: it would leave its folder, hide the file, or cannot be part of a name.
    """
    if not name or name.startswith(".") or "/" in name or not name.isprintable() or len(name.encode()) > 100:
        raise UserError(
            f"{what} is {name[:100]!r}, and names a file in the run directory: expected up to 100 bytes without "
            "slashes, line ends and a dot at the beginning"
        )
    return name


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    assert not path.is_absolute() and ".." not in path.parts, name
    return path.parts


@contextlib.contextmanager
def _parent(workdir: Path, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """The descriptor of the folder that a file is in, and the file's own name."""
    *folders, last = _parts(name)
    with open_folder(workdir, "/".join(folders), make=make) as handle:
        yield handle, last


def _open_folder(path: Path, folder: int, name: str) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):  # which of the two a link gives, systems differ in
            raise _foreign(path, os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode, "a folder") from None
        raise


def _check(path: Path, folder: int, name: str) -> bool:
    """Whether there is a file of this name, which is no link, FIFO, device or folder."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise _foreign(path, mode, "a file")
    return True


def _open_file(path: Path, folder: int, name: str, flags: int) -> int:
    _check(path, folder, name)  # to open a device may be too much already; the descriptor is what is believed
    try:
        handle = os.open(name, flags | _SAFE, 0o644, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # changed since: a link, a FIFO or socket, a folder
            raise ForeignError(f"{path} is no file; put the file itself there") from None
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise _foreign(path, mode, "a file")
    return handle


def _replace(folder: int, name: str, pieces: Iterable[bytes]) -> None:
    temporary = f".{name}.{os.getpid()}.tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)  # of a process with this number that was killed
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o644, dir_fd=folder), "wb") as file:
            file.writelines(pieces)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _foreign(path: Path, mode: int, expected: str) -> ForeignError:
    if stat.S_ISLNK(mode):
        return ForeignError(
            f"{path} is a link, and a run directory is not followed outside: put {expected} itself there. To keep a "
            "run on another disk, give that as --workdir (which may be a link itself), or mount it here"
        )
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return ForeignError(f"{path} is {kinds.get(stat.S_IFMT(mode), 'a device')}, expected {expected}; move it away")
