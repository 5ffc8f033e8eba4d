"""Checkpoints, written: in the background, committed by one rename, never at the cost of the run or of an older one.

A checkpoint is put together in `DIRECTORY/tmp-STEP-N/` and renamed to `DIRECTORY/STEP/` when it is whole and on the
disk, so a kill at any moment leaves either a checkpoint or a `tmp-` directory, which the next run removes.
`damaged-STEP-N/` was set aside when a run went on from an older checkpoint. `lock` is held while a run trains.
`s2sjax.restore` says what a checkpoint holds and how it is believed.

A state of several processes is written by all of them, on a disk they share; process 0 seals, renames and removes.
Tested with one process only (and several devices).
"""

import dataclasses
import fcntl
import functools
import logging
import math
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from s2sjax import manifest
from s2sjax.errors import UserError
from s2sjax.restore import METRIC_SIGNS, CheckpointReader, PyTree, Restored, flatten

_TEMPORARY = re.compile(r"tmp-[0-9]+-([0-9]+|old)")
# Beside the bytes of the arrays: metadata, indices, and a margin for the logs.
_SPARE_BYTES = 1 << 20

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When a checkpoint is written, and which ones stay."""

    every_steps: int = 1000
    keep_last: int = 3
    keep_best: int = 1
    """Besides the last ones, this many of the best by `metric`."""
    metric: str = "loss"
    """A validation metric: 'loss' (lower is better), 'bleu', 'chrf' or 'exact_match' (higher is better)."""

    def __post_init__(self) -> None:
        if self.metric not in METRIC_SIGNS:
            raise UserError(f"checkpoint.metric '{self.metric}' is not one of {', '.join(METRIC_SIGNS)}")
        for name, least in (("every_steps", 1), ("keep_last", 1), ("keep_best", 0)):
            if getattr(self, name) < least:
                raise UserError(f"checkpoint.{name} {getattr(self, name)} is too small: at least {least}")


class Checkpointer(CheckpointReader):
    """The checkpoints of the run that trains in this directory; a context manager. Everybody else reads.

    One save is in flight at most. A save that fails never ends a run: its reason is returned by the next `poll`, what
    it wrote is removed, and the next save is tried afresh. Only if the *last* save failed does `close` raise.

    Raises:
        UserError: the directory cannot be written, or another process is training in it.
    """

    def __init__(self, directory: Path | str, config: CheckpointConfig) -> None:
        super().__init__(directory, config.metric)
        self._config = config
        self._writer: threading.Thread | None = None
        self._saves = 0
        self._problems: list[str] = []
        self._problems_mutex = threading.Lock()
        self._last_failure: str | None = None
        self._lock_file: int | None = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                self._lock()
                for path in self.directory.iterdir():  # of dead runs: a living one would hold the lock
                    if _TEMPORARY.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                        _remove(path)
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {self.directory}: {_reason(error)}; choose another workdir"
            ) from error
        _quieten()
        _barrier("checkpoint-open")

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except UserError as failed:
            if error is None:
                raise
            _log.error("%s", failed)  # the error under way matters more, and this one must not be lost

    def save(self, step: int, state: PyTree, metrics: Mapping[str, float] | None = None) -> None:
        """Begin to save `state`, whose buffers may be donated as soon as this returns.

        Waits for the save before. A step that is there already is left as it is. On a CPU nothing is copied: the next
        donation of a buffer that is still being written gets fresh memory instead.

        Args:
            state: a pytree of `jax.Array`, sharded or not; random keys as their data (`jax.random.key_data`).
            metrics: of the validation at this step, if there was one. NaN and infinities are kept as NaN.

        Raises:
            TypeError: a leaf is not a `jax.Array`. Trouble with the disk is not raised: see `poll` and `close`.
        """
        self.wait()
        if self._is_committed(step):
            return
        arrays = flatten(state)
        for name, array in arrays.items():
            if not isinstance(array, jax.Array) or jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
                raise TypeError(f"state leaf {name} is a {type(array).__name__}, not a jax.Array of numbers")
        body = {
            "step": step,
            # JSON has no NaN and no infinities.
            "metrics": {k: float(v) if math.isfinite(v) else None for k, v in (metrics or {}).items()},
            "arrays": {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in arrays.items()},
        }
        self._saves += 1
        temporary = self.directory / f"tmp-{step}-{self._saves}"
        # A new one each time, so that a failure leaves nothing behind. Compression would save 8 % and cost a core.
        writer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_compression=False))
        try:
            self._check_space(arrays)
            temporary.mkdir(exist_ok=True)
            filled = {name: array for name, array in arrays.items() if array.size}  # orbax refuses the empty ones
            writer.save(temporary / "state", args=ocp.args.PyTreeSave(filled))
        except Exception as error:  # tensorstore and orbax raise what they like, and all of it is a failed save
            self._fail(step, temporary, error)
            return
        self._writer = threading.Thread(target=self._finish, args=(step, temporary, writer, body), name="checkpoint")
        self._writer.start()

    def restore(
        self, abstract_state: PyTree, step: int | None = None, *, partial: bool = False, set_aside: bool = False
    ) -> Restored | None:
        """As `CheckpointReader.restore`, after the save in flight.

        Args:
            set_aside: rename the damaged checkpoints that were passed over to `damaged-STEP-N`: for a run that goes on
                from an older one, and will come by their steps again.
        """
        self.wait()
        restored = super().restore(abstract_state, step, partial=partial)
        if set_aside and step is None and restored is not None:
            _barrier("checkpoint-restored")  # nobody still reads what is renamed now
            for candidate in self._candidates():
                if candidate > restored.step and jax.process_index() == 0:
                    self._set_aside(candidate)
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
            _barrier("checkpoint-saved")

    def close(self) -> None:
        """Wait for the save in flight and let go of the directory.

        Raises:
            UserError: the last save failed. The checkpoints before it are untouched.
        """
        self.wait()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None
        failure, self._last_failure = self._last_failure, None
        if failure is not None:
            raise UserError(f"{failure} Once that is mended, the same command goes on from the newest one.")

    def _finish(self, step: int, temporary: Path, writer: ocp.AsyncCheckpointer, body: Mapping[str, Any]) -> None:
        """In the background: wait for orbax, seal, commit, tidy up."""
        try:
            writer.close()
            if jax.process_index() == 0:
                manifest.seal(temporary, body)
                if os.path.lexists(self.directory / str(step)):
                    self._set_aside(step)  # not a checkpoint, or save would have left it alone
                temporary.rename(self.directory / str(step))
                manifest.flush_directory(self.directory)
        except Exception as error:  # as in save: whatever it is, the run goes on
            self._fail(step, temporary, error)
            return
        self._last_failure = None
        try:
            if jax.process_index() == 0:
                self._retain()
        except (OSError, UserError) as error:
            self._report(f"old checkpoints in {self.directory} could not be removed: {_reason(error)}")

    def _retain(self) -> None:
        """Delete all but the last and the best; each is renamed first, so a kill leaves no half checkpoint."""
        steps = self.steps()
        kept = {*steps[-self._config.keep_last :], *self.ranked(steps)[: self._config.keep_best]}
        for step in steps:
            if step not in kept:
                doomed = self.directory / f"tmp-{step}-old"
                (self.directory / str(step)).rename(doomed)
                _remove(doomed)

    def _fail(self, step: int, temporary: Path, error: Exception) -> None:
        _log.debug("checkpoint %d failed", step, exc_info=error)
        if temporary.exists():
            _remove(temporary)
        before = self.steps()
        kept = f"Those of steps {', '.join(map(str, before))} are untouched." if before else "There is none before it."
        self._last_failure = f"checkpoint {step} could not be saved in {self.directory}: {_reason(error)}. {kept}"
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
        while os.path.lexists(self.directory / f"damaged-{step}-{number}"):
            number += 1
        (self.directory / str(step)).rename(self.directory / f"damaged-{step}-{number}")

    def _lock(self) -> None:
        """Hold `lock` until `close` or death. A record lock, since child processes do not inherit it."""
        self._lock_file = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.lockf(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            os.close(self._lock_file)
            raise UserError(
                f"another process is training in {self.directory}; wait for it, stop it, or choose another workdir"
            ) from error
        except OSError as error:  # a file system without locks
            self._report(f"{self.directory} cannot be locked ({_reason(error)}): see that one run at a time uses it")


@functools.cache
def _quieten() -> None:
    """Of a failed write, orbax and what is under it print dozens of tracebacks; `Checkpointer` reports a sentence.

    For good: the other writes of the same array notice last, and report to an event loop that orbax has closed.
    """
    hook = sys.unraisablehook

    def hook_without_stragglers(unraisable: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            hook(unraisable)

    def not_of_orbax(record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in f"{record.pathname} {record.getMessage()}")

    sys.unraisablehook = hook_without_stragglers
    logging.getLogger("absl").addFilter(not_of_orbax)
    logging.getLogger("asyncio").addFilter(not_of_orbax)


def _reason(error: Exception) -> str:
    """One line: the operating system's words where there are any."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


def _remove(directory: Path) -> None:
    """Delete a `tmp-` directory, into which threads of a failed save may still write for a moment."""
    for pause in (0.0, 0.1, 0.5):
        time.sleep(pause)
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
    _log.warning("%s could not be removed; the next run will try again", directory)


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
