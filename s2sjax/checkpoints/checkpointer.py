"""Checkpoints, written: in the background, committed by one rename, never at the cost of the run or of an older one.

A checkpoint is put together in `DIRECTORY/tmp-STEP-N/` and renamed to `DIRECTORY/STEP/` when it is whole and on the
disk, so a kill at any moment leaves either a checkpoint or a `tmp-` directory, which the next run removes.
`damaged-STEP-N/` was set aside when a run went on from an older checkpoint. `lock` is held while a run trains.
`s2sjax.checkpoints.restore` says what a checkpoint holds and how it is believed.

A state of several processes is written by all of them, on a disk they share; process 0 seals, renames and removes.
A second copy is kept by process 0 (`s2sjax.checkpoints.copies`).
"""

import logging
import os
import re
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from s2sjax.checkpoints import manifest
from s2sjax.checkpoints.asked import Asked, PyTree, flatten
from s2sjax.checkpoints.copies import Copier, SecondCopy
from s2sjax.checkpoints.lock import RunLock
from s2sjax.checkpoints.quiet import quieten_orbax
from s2sjax.checkpoints.restore import CheckpointReader, Restored, passed_over
from s2sjax.checkpoints.retention import CheckpointConfig, staying
from s2sjax.checkpoints.saving import Save, open_again, remove
from s2sjax.errors import UserError, in_one_line
from s2sjax.files import rundir
from s2sjax.processes import distributed

_TEMPORARY = re.compile(r"tmp-[0-9]+-([0-9]+|old)")
# Beside the bytes of the arrays: metadata, indices, and a margin for the logs.
_SPARE_BYTES = 1 << 20
_LAST_SAVE = 60.0  # seconds that an error among several processes leaves the save in flight

_log = logging.getLogger(__name__)


class Checkpointer(CheckpointReader):
    """The checkpoints of the run that trains in this directory; a context manager. Everybody else reads.

    Args:
        copy: where a second copy of each checkpoint that stays is kept. `poll` tells its failures; none ends a run.
        going_back: steps that the run may want to go back: one checkpoint that is older than that stays too.

    One save is in flight at most. A save that fails never ends a run: its reason is returned by the next `poll`, what
    it wrote is removed, and the next save is tried afresh. Only if the *last* save failed does `close` raise.

    Raises:
        UserError: the directory cannot be written, or another process is training in it.
    """

    _trains = True

    def __init__(
        self, directory: Path | str, config: CheckpointConfig, copy: SecondCopy | None = None, *, going_back: int = 0
    ) -> None:
        super().__init__(directory, config.metric)
        self._config, self._going_back = config, going_back
        self._copy = copy
        self._copier: Copier | None = None
        self._writer: threading.Thread | None = None
        self._saves = 0
        self._problems: list[str] = []
        self._problems_mutex = threading.Lock()
        self._last_failure: str | None = None
        self._lock: RunLock | None = None
        self._failed: list[Save] = []
        self._handle = -1
        try:
            self._open()
        except BaseException as error:
            self._let_go()
            if not isinstance(error, OSError):
                raise
            raise UserError(
                f"cannot write checkpoints to {self.directory}: {in_one_line(error)}; choose another workdir"
            ) from error
        if copy is not None and jax.process_index() == 0:
            self._copier = Copier(copy, self._report)
        quieten_orbax()
        distributed.barrier("checkpoint-open")

    def _open(self) -> None:
        if not self.directory.parent.exists():
            self.directory.parent.mkdir(parents=True, exist_ok=True)
        self._handle = rundir.folder_descriptor(self.directory.parent, self.directory.name, make=True)
        self._place = rundir.path_of(self._handle, self.directory)
        if jax.process_index() == 0:
            self._lock = RunLock(self._place, self.directory)
            if self._lock.problem is not None:
                self._report(
                    f"{self.directory} cannot be locked ({in_one_line(self._lock.problem)}): see that one run at a "
                    "time uses it"
                )
            for path in self._place.iterdir():  # of dead runs: a living one would hold the lock
                if _TEMPORARY.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                    self._remove(path)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._copier = None  # whatever went wrong does not wait for a bucket; the next run copies what is left
        if error is not None and jax.process_count() > 1:
            if self._writer is not None:  # where this one would wait, the others may never come
                self._writer.join(timeout=_LAST_SAVE)
            if self._writer is None or not self._writer.is_alive():
                self._let_go()
            return
        try:
            self.close()
        except UserError as failed:
            if error is None:
                raise
            _log.error("%s", failed)  # the error under way matters more, and this one must not be lost

    def save(self, step: int, state: PyTree, metrics: Mapping[str, float] | None = None) -> None:
        """Begin to save `state`, whose buffers may be donated as soon as this returns.

        Waits for the save before. A step that is there already is left as it is, unless it lacks metrics and there are
        some now. On a CPU nothing is copied: the next donation of a buffer that is still being written gets fresh
        memory instead.

        Args:
            state: a pytree of `jax.Array`, sharded or not; random keys as their data (`jax.random.key_data`).
            metrics: of the validation at this step, if there was one. NaN and infinities are kept as NaN.

        Raises:
            TypeError: a leaf is not a `jax.Array`. Trouble with the disk is not raised: see `poll` and `close`.
        """
        self.wait()
        if self._is_committed(step) and (self.metrics(step) or not metrics):
            return
        arrays = flatten(state)
        for name, array in arrays.items():
            if not isinstance(array, jax.Array) or jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
                raise TypeError(f"state leaf {name} is a {type(array).__name__}, not a jax.Array of numbers")
        body = {
            "step": step,
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
            "arrays": {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in arrays.items()},
        }
        saving = Save(step, self._temporary(step))
        # A new one each time, so that a failure leaves nothing behind. Compression would save 8 % and cost a core.
        writer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_compression=False))
        try:
            open_again(self._handle, self.directory)
            self._check_space(arrays)
            saving.open()
            filled = {name: array for name, array in arrays.items() if array.size}  # orbax refuses the empty ones
            writer.save(saving.through / "state", args=ocp.args.PyTreeSave(filled))
        except Exception as error:  # tensorstore and orbax raise what they like, and all of it is a failed save
            self._fail(saving, error)
            return
        self._writer = threading.Thread(target=self._finish, args=(saving, writer, body), name="checkpoint")
        self._writer.start()

    def restore(
        self,
        abstract_state: PyTree,
        step: int | None = None,
        *,
        partial: bool = False,
        cast: bool = False,
        set_aside: bool = False,
    ) -> Restored | None:
        """As `CheckpointReader.restore`, after the save in flight, looking at the second copy too for the checkpoints
        that are damaged here, or for any if there is no good one.

        Args:
            cast: as there, or `CheckpointConfig.cast`.
            set_aside: rename the damaged checkpoints that were passed over to `damaged-STEP-N`: for a run that goes on
                from an older one, and will come by their steps again.
        """
        self.wait()
        cast = cast or self._config.cast
        if step is not None:
            return super().restore(abstract_state, step, partial=partial, cast=cast)
        asked = Asked(abstract_state, partial, cast)
        newest, messages = self._agree(asked)
        if newest is None:
            return None
        restored = self._read(asked, newest, messages)
        if set_aside:
            distributed.barrier("checkpoint-restored")  # nobody still reads what is renamed now
            for candidate in self._candidates():
                if candidate > restored.step and jax.process_index() == 0:
                    self._set_aside(candidate)
            distributed.barrier("checkpoint-set-aside")  # and nobody looks at what is still about to be
        if self._copier is not None:
            self._copier.keep(self.steps())
        return restored

    def poll(self) -> list[str]:
        """What went wrong since the last call, for the user to read; never waits."""
        with self._problems_mutex:
            problems, self._problems = self._problems, []
        return problems

    def wait(self) -> None:
        """Return when no save is in flight."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
            distributed.barrier("checkpoint-saved")

    def close(self) -> None:
        """Wait for the save in flight and let go of the directory.

        Raises:
            UserError: the last save failed. The checkpoints before it are untouched.
        """
        self.wait()
        if self._copier is not None:
            self._copier.close()
            self._copier = None
        self._let_go()
        failure, self._last_failure = self._last_failure, None
        for problem in self.poll():  # since the last step, after which nobody asked
            if problem != failure:
                _log.warning("%s", problem)
        if failure is not None:
            raise UserError(f"{failure} Once that is mended, the same command goes on from the newest one.")

    def _let_go(self) -> None:
        """Close every descriptor. May be called again."""
        if self._lock is not None:
            self._lock.release()
        for saving in self._failed:
            saving.close()
        self._failed.clear()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _finish(self, saving: Save, writer: ocp.AsyncCheckpointer, body: Mapping[str, Any]) -> None:
        """In the background: wait for orbax, seal, commit, tidy up."""
        try:
            writer.close()
            if jax.process_index() == 0:
                manifest.seal(saving.through, body)
                self._commit(saving.step, saving.temporary)
        except Exception as error:  # as in save: whatever it is, the run goes on
            self._fail(saving, error)
            return
        saving.close()
        self._last_failure = None
        try:
            if jax.process_index() == 0:
                self._retain()
        except (OSError, UserError) as error:
            self._report(f"old checkpoints in {self.directory} could not be removed: {in_one_line(error)}")

    def _agree(self, asked: Asked) -> tuple[int | None, tuple[str, ...]]:
        """`_choose`, by process 0 for all: two that read a failing disk may see different things."""
        if jax.process_count() == 1:
            return self._choose(asked)
        none, failed = -1, -2
        chosen = failed
        messages: tuple[str, ...] = ()
        error: UserError | None = None
        if jax.process_index() == 0:
            try:
                newest, messages = self._choose(asked)
                chosen = none if newest is None else newest
            except UserError as raised:
                error = raised
        chosen = int(multihost_utils.broadcast_one_to_all(np.int64(chosen)))
        if chosen == failed:
            raise error or UserError(f"process 0 found no good checkpoint in {self.directory}; it says why")
        return (None if chosen == none else chosen), messages

    def _choose(self, asked: Asked) -> tuple[int | None, tuple[str, ...]]:
        """The step to go on from, fetched from the second copy if need be, and what the user should know of it."""
        newest, damaged = self._newest(asked)
        fetched: int | None = None
        failures: tuple[str, ...] = ()
        if self._copy is not None and (damaged or newest is None):
            fetched, failures = self._fetch(self._copy, newest, damaged)
        if fetched is not None:
            instead = f"the second copy of checkpoint {fetched}"
            newer = {step: damage for step, damage in damaged.items() if step >= fetched}
            nothing = () if newer else (f"no good checkpoint in {self.directory}; going on from {instead}",)
            return fetched, (*passed_over(newer, instead), *nothing, *failures)
        if newest is None and (damaged or failures):
            raise self._all_damaged(damaged, failures)
        return newest, (*passed_over(damaged, f"checkpoint {newest}"), *failures)

    def _fetch(
        self, copy: SecondCopy, newest: int | None, damaged: Mapping[int, str]
    ) -> tuple[int | None, tuple[str, ...]]:
        """The newest of the damaged checkpoints, or of all if there is no good one, that the second copy could give
        back, which is committed here; and what is wrong with those that it could not.

        Raises:
            UserError: the second copy is needed and cannot be read. To begin anew would overwrite it in the end.
        """
        wanted = set(damaged)
        if newest is None:
            try:
                wanted.update(copy.useful_steps())
            except UserError:
                raise
            except Exception as error:  # drivers raise what they like
                raise UserError(
                    f"there is no good checkpoint in {self.directory}, and the second copy in {copy.url} cannot be "
                    f"read: {in_one_line(error)}. Run the same command when it can, or give up what is there with "
                    "config.checkpoint.copy_to=''"
                ) from error
        failures = []
        for step in sorted(wanted, reverse=True):
            temporary = self._temporary(step)
            try:
                copy.fetch(step, temporary)
                if os.path.lexists(self._place / str(step)):
                    self._set_aside(step)
                self._commit(step, temporary)
            except Exception as error:
                self._remove(temporary)
                failures.append(f"the second copy of checkpoint {step} in {copy.url}: {in_one_line(error)}")
            else:
                return step, tuple(failures)
        return None, tuple(failures)

    def _temporary(self, step: int) -> Path:
        self._saves += 1
        return self._place / f"tmp-{step}-{self._saves}"

    def _commit(self, step: int, temporary: Path) -> None:
        """Give a sealed directory its name."""
        if self._is_committed(step):
            self._delete(step)  # this one has the metrics that it lacks
        elif os.path.lexists(self._place / str(step)):
            self._set_aside(step)
        temporary.rename(self._place / str(step))
        manifest.flush_directory(self._place)

    def _retain(self) -> None:
        """Delete all but the last and the best; each is renamed first, so a kill leaves no half checkpoint."""
        steps = self.steps()
        kept = staying(self._config, steps, self.ranked(steps), going_back=self._going_back)
        if self._copier is not None:
            self._copier.keep(sorted(kept))
        for step in steps:
            if step not in kept and not (self._copier is not None and step == self._copier.busy):
                self._delete(step)

    def _delete(self, step: int) -> None:
        doomed = self._place / f"tmp-{step}-old"
        (self._place / str(step)).rename(doomed)
        self._remove(doomed)

    def _remove(self, path: Path) -> None:
        remove(path, self.directory / path.name)

    def _fail(self, saving: Save, error: Exception) -> None:
        step = saving.step
        _log.debug("checkpoint %d failed", step, exc_info=error)
        reason = rundir.in_the_users_words(in_one_line(error), saving.through, saving.temporary)
        reason = rundir.in_the_users_words(reason, self._place, self.directory)
        if saving.temporary.exists():
            self._remove(saving.temporary)
        # Threads of the failed save may still write, and must not do so through a descriptor that means another file.
        if saving.is_open:
            self._failed.append(saving)
        if len(self._failed) > 2:
            self._failed.pop(0).close()
        before = self.steps()
        kept = f"Those of steps {', '.join(map(str, before))} are untouched." if before else "There is none before it."
        self._last_failure = f"checkpoint {step} could not be saved in {self.directory}: {reason}. {kept}"
        self._report(self._last_failure)

    def _report(self, problem: str) -> None:
        with self._problems_mutex:
            self._problems.append(problem)

    def _check_space(self, arrays: Mapping[str, jax.Array]) -> None:
        """A full disk found before it is written to: a clearer message, and room left for the logs."""
        needed = sum(array.nbytes for array in arrays.values()) + _SPARE_BYTES
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(f"No space left on device ({needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free)")

    def _set_aside(self, step: int) -> None:
        number = 1
        while os.path.lexists(self._place / f"damaged-{step}-{number}"):
            number += 1
        (self._place / str(step)).rename(self._place / f"damaged-{step}-{number}")
