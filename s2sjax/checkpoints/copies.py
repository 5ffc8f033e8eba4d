"""A second copy of a run in another directory or bucket: kept in the background, asked when the first is damaged.

`URL/NAME/`, NAME being the run directory's own, is laid out as that is: `config.json`, `data.json`, `tokenizer/` and
`checkpoints/STEP/`. So with whatever tool it is fetched, it is a run directory. It goes through fsspec, which knows
paths, s3://, gs:// and many more once their drivers are installed.

A bucket renames nothing. What commits a checkpoint here is its manifest, sent last, after every other file was sent,
read back and found to have the checksum that the manifest has for it.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from s2sjax.checkpoints import manifest
from s2sjax.checkpoints.restore import STEP
from s2sjax.errors import UserError, in_one_line
from s2sjax.files import rundir

_RECORDS = ("config.json", "data.json")
_ROLLED_BACK = "skipped.json"
"""What roll-backs left out. A checkpoint is only worth something beside the record that it was made under."""


class SecondCopy:
    """The place, and one run's directory in it.

    Args:
        url: a directory or bucket that several runs may share.
        workdir: the run directory, which has its config, data record and tokenizer by now.
        check: is given what of `config.json` and `data.json` is there, and raises a `UserError` if they are another
            run's. Called once, as soon as the place answers; nothing is written to it before.

    Raises:
        UserError: fsspec does not know the URL, its driver is not installed, or the copy would lie in the run itself.
    """

    def __init__(self, url: str, workdir: Path, check: Callable[[Mapping[str, bytes]], None]) -> None:
        self._workdir, self._check, self._checked = workdir.absolute(), check, False
        self.checkpoints = self._workdir / "checkpoints"
        """Of the first place."""
        self._folders: set[str] = set()
        try:
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except Exception as error:  # whatever a driver raises: there are dozens, and some connect at once
            reason = in_one_line(error)
            raise UserError(f"config.checkpoint.copy_to is '{url}', which cannot be reached: {reason}") from error
        self._root = f"{root.rstrip('/')}/{self._workdir.name}"
        self.url = f"{url.rstrip('/')}/{self._workdir.name}"
        inside = Path(self._root).resolve().is_relative_to(self._workdir.resolve())
        if isinstance(self._files, LocalFileSystem) and inside:
            raise UserError(f"config.checkpoint.copy_to is '{url}', which holds {workdir} itself; choose another place")

    def open(self) -> None:
        """Check, once, that this run may be copied here. Raises: UserError if not; what the driver raises."""
        if self._checked:
            return
        records = {name: content for name in _RECORDS if (content := self._content(name)) is not None}
        if records:
            self._check(records)
        elif self._names(""):
            raise UserError(
                f"{self.url} is not empty and has no config.json, so it is no copy of a run; choose another "
                "config.checkpoint.copy_to"
            )
        self._checked = True

    def recover_record(self) -> None:
        """Give back `skipped.json` to a run directory that was lost and goes on from here: one without checkpoints."""
        self.open()
        content = self._content(_ROLLED_BACK)
        if content is not None and not rundir.exists(self._workdir, _ROLLED_BACK) and not self.has_first():
            rundir.write(self._workdir, _ROLLED_BACK, content)

    def has_first(self) -> bool:
        """Whether the run directory has checkpoints, or what is named like them."""
        return any(map(STEP.fullmatch, rundir.names(self._workdir, self.checkpoints.name)))

    def useful_steps(self) -> list[int]:
        """What the run could go on from: nothing if the copy is from before a roll-back."""
        return self.steps() if self._same_record() else []

    def steps(self) -> list[int]:
        """What is named like a checkpoint, ascending, whole or not."""
        self.open()
        return sorted(int(name) for name in self._names("checkpoints") if STEP.fullmatch(name))

    def holds(self, step: int) -> bool:
        """Whether the run directory's checkpoint was copied here, and not another of that step."""
        self.open()
        sealed = rundir.read(self._workdir, f"{self.checkpoints.name}/{step}/{manifest.NAME}")
        return self._content(f"checkpoints/{step}/{manifest.NAME}") == sealed

    def send_records(self) -> None:
        """Copy the small files that make a run directory of a directory of checkpoints, where they differ.

        A new record of roll-backs comes when the checkpoints that were given up are gone.
        """
        self.open()
        if not self._same_record():
            for step in self.steps():
                if not (self.checkpoints / str(step)).exists() or not self.holds(step):
                    self.remove(step)
            content = self._record()
            if content is not None:
                self._files.pipe_file(self._place(_ROLLED_BACK), content)
            else:
                self._files.rm_file(f"{self._root}/{_ROLLED_BACK}")
        for name in (*_RECORDS, *(f"tokenizer/{name}" for name in rundir.names(self._workdir, "tokenizer"))):
            content = rundir.read(self._workdir, name)
            if self._content(name) != content:
                self._files.pipe_file(self._place(name), content)

    def send(self, step: int) -> None:
        """Copy a checkpoint in place of what is there of this step.

        Raises:
            DamagedError: what came back is not what the manifest says. Besides, what the driver raises.
        """
        self.open()
        with rundir.open_folder(self._workdir, f"{self.checkpoints.name}/{step}") as handle:
            self._send(step, rundir.path_of(handle, self.checkpoints / str(step)))

    def _send(self, step: int, source: Path) -> None:
        sealed, listed = rundir.read(source, manifest.NAME), manifest.files(source)
        self.remove(step)
        for name, checksum in listed.items():
            place = self._place(f"checkpoints/{step}/{name}")
            with rundir.open_for_reading(source, name) as handle:
                self._files.put_file(str(rundir.path_of(handle, source / name)), place)
            with self._files.open(place, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != checksum:
                    raise manifest.DamagedError(f"file {name}: what was read back differs from what was saved")
        self._files.pipe_file(self._place(f"checkpoints/{step}/{manifest.NAME}"), sealed)

    def fetch(self, step: int, directory: Path) -> None:
        """Copy a checkpoint back into `directory`, which is new.

        Raises:
            DamagedError: it is missing, incomplete or damaged. Besides, what the driver raises.
        """
        self.open()
        sealed = self._content(f"checkpoints/{step}/{manifest.NAME}")
        if not self._same_record():
            raise manifest.DamagedError("it is from before a roll-back")
        if sealed is None:
            raise manifest.DamagedError("there is none")
        directory.mkdir()
        (directory / manifest.NAME).write_bytes(sealed)
        for name in manifest.files(directory):
            place, path = f"{self._root}/checkpoints/{step}/{name}", directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._files.get_file(place, str(path))
            except FileNotFoundError as error:
                raise manifest.DamagedError(f"file {name}: missing") from error
        if manifest.verify(directory).get("step") != step:
            raise manifest.DamagedError("it was saved as another step")
        manifest.flush(directory)

    def remove(self, step: int) -> None:
        """Delete a checkpoint, its manifest first, if there is anything of it."""
        self.open()
        directory = f"{self._root}/checkpoints/{step}"
        if self._content(f"checkpoints/{step}/{manifest.NAME}") is not None:
            self._files.rm_file(f"{directory}/{manifest.NAME}")
        if self._names(f"checkpoints/{step}"):
            self._files.rm(directory, recursive=True)

    def _record(self) -> bytes | None:
        return rundir.read(self._workdir, _ROLLED_BACK) if rundir.exists(self._workdir, _ROLLED_BACK) else None

    def _same_record(self) -> bool:
        self.open()
        return self._content(_ROLLED_BACK) == self._record()

    def _content(self, name: str) -> bytes | None:
        try:
            return self._files.cat_file(f"{self._root}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _names(self, folder: str) -> list[str]:
        """The names in a folder; a bucket knows only folders that something is in."""
        try:
            paths = self._files.ls(f"{self._root}/{folder}".rstrip("/"), detail=False)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]

    def _place(self, name: str) -> str:
        """The full path of a file that is about to be written, in a folder that exists."""
        folder, _, _ = (place := f"{self._root}/{name}").rpartition("/")
        self._files.makedirs(folder, exist_ok=True)
        return place


class Copier:
    """A thread that makes the second copy hold what it is told to; whatever goes wrong there is reported, not raised.

    Args:
        report: takes a sentence for the user, from any thread.
    """

    def __init__(self, copy: SecondCopy, report: Callable[[str], None]) -> None:
        self._copy, self._report = copy, report
        self._wanted: Sequence[int] = ()
        self._closing = False
        self._changed = threading.Condition()
        self.busy: int | None = None
        """The checkpoint that is being copied, and so must stay for as long."""
        # A process that has to end at once does not wait for a bucket.
        self._thread = threading.Thread(target=self._work, name="second copy", daemon=True)
        self._thread.start()

    def keep(self, steps: Sequence[int]) -> None:
        """Have these copied, the newest first, and others that are older than the newest of them deleted."""
        with self._changed:
            self._wanted = steps
            self._changed.notify()

    def close(self) -> None:
        """Return when all is copied, or has failed to be."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closing)
                wanted, self._wanted = self._wanted, ()
            if not wanted:
                return
            try:
                self._mirror(wanted)
            except Exception as error:  # drivers raise what they like, and none of it may end a run
                self._report(f"the second copy in {self._copy.url} is not up to date: {in_one_line(error)}")
            finally:
                self.busy = None

    def _mirror(self, wanted: Sequence[int]) -> None:
        self._copy.send_records()
        for step in sorted(wanted, reverse=True):
            if self._wanted:  # a newer one is there, and comes first
                return
            self.busy = step
            try:
                if not self._copy.holds(step):
                    self._copy.send(step)
            except FileNotFoundError:
                if (self._copy.checkpoints / str(step)).exists():  # else it was deleted in the meantime
                    raise
        for step in self._copy.steps():
            # A newer one is what another life of this run got to. It may yet be wanted, and goes when this one is past.
            if step < max(wanted) and step not in wanted:
                self._copy.remove(step)
