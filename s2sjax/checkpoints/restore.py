"""Checkpoints, read: found by their manifests, verified before they are believed, restored bit for bit.

`DIRECTORY/STEP/` is a committed checkpoint: `state/`, written by orbax, and `manifest.json` with the step, the metrics,
the shape and type of every array, and a checksum of every file (`s2sjax.checkpoints.manifest`). Orbax detects no
flipped bit, casts to another type in silence, and believes names of directories: all three are looked after here.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from s2sjax.checkpoints import manifest
from s2sjax.checkpoints.asked import Asked, PyTree
from s2sjax.checkpoints.manifest import DamagedError
from s2sjax.checkpoints.quiet import quieten_orbax
from s2sjax.checkpoints.sizes import check_files, check_sizes, parse_arrays
from s2sjax.errors import UserError, in_one_line, listed
from s2sjax.files import rundir
from s2sjax.metrics.names import sign_of
from s2sjax.plural import counted

Read = TypeVar("Read")

_CHOICES = 20
"""How often another checkpoint is chosen when the one that was chosen has gone."""
_MOST_TOLD = 10
"""Damaged checkpoints of which it is said what is wrong with them."""
STEP = re.compile(r"[1-9][0-9]{0,17}|0")
"""What the directory of a checkpoint is called."""


def replaces_best(metric: str, value: float, best: float) -> bool:
    """Whether a newer checkpoint is the best one from now on. Of equals it is: the newest is the best.

    `CheckpointReader.ranked` has the same order.

    Args:
        value: its value of a metric. NaN is never the best.
        best: the value of the best one before it; NaN: there is none.
    """
    sign = sign_of(metric)
    return not math.isnan(value) and (math.isnan(best) or sign * value <= sign * best)


class GoneError(UserError):
    """A checkpoint is not there, or not any more: a training keeps a few only."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state read back, and what was passed over to get it."""

    step: int
    state: PyTree
    metrics: dict[str, float]
    messages: tuple[str, ...]
    """For the user: each newer checkpoint that was passed over, with the file and what is wrong; what was cast."""


class CheckpointReader:
    """The checkpoints of a directory, which is only looked at: no lock, no writing, also while a run trains in it.

    Args:
        directory: need not exist.
        metric: what `best_step` goes by, as `checkpoint.metric` has it.
    """

    _trains = False
    """A run that trains passes over what it may not read, and says so, as over what is damaged."""

    def __init__(self, directory: Path | str, metric: str = "loss") -> None:
        self.directory = Path(os.path.abspath(directory))
        self._metric = metric

    def steps(self) -> list[int]:
        """The committed steps, ascending: those with an intact manifest. Files are read by `restore` and `verify`."""
        return [step for step in self._candidates() if self._is_committed(step)]

    def latest_step(self) -> int | None:
        """The newest committed step."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The committed step with the best metric, the newer of equals; None if none has it."""
        return self.chosen("best")

    def chosen(self, choice: str, steps: list[int] | None = None) -> int | None:
        """The step that a `decode.checkpoint` asks for, there or not; None stands for the newest: for "last", and for
        "best" where none has the metric.

        Args:
            steps: the committed ones, which are looked for if None.
        """
        if choice.isdecimal():
            return int(choice)
        ranked = self.ranked(self.steps() if steps is None else steps) if choice == "best" else []
        return ranked[0] if ranked else None

    def ranked(self, steps: list[int]) -> list[int]:
        """Those of `steps` that have the metric, best first, newer before older."""
        sign = sign_of(self._metric)
        values = {}
        for step in steps:
            with contextlib.suppress(DamagedError):  # deleted in this moment, by a training that goes on
                values[step] = _metrics(self._body(step)).get(self._metric, math.nan)
        return sorted((s for s in values if not math.isnan(values[s])), key=lambda s: (sign * values[s], -s))

    def arrays(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of every array of `step`, by path: what `restore` needs to read some, without a model.

        Raises:
            UserError: there is no such checkpoint, or its manifest is damaged.
        """
        found = parse_arrays(self._intact(step)["arrays"])
        return {name: jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for name, (shape, dtype) in found.items()}

    def unreadable(self) -> list[int]:
        """What is named like a step and is no checkpoint, because its manifest is missing or damaged; ascending."""
        return [step for step in self._candidates() if not self._is_committed(step) and self._is_there(step)]

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics that `step` was saved with. Raises: UserError if there is no such checkpoint."""
        return _metrics(self._intact(step))

    def written(self, step: int) -> tuple[float, int]:
        """When `step` was sealed, in seconds since 1970, and the bytes of all its files.

        Raises: UserError as `metrics`, and if there is anything but files in it.
        """
        try:
            with self._inside(step) as directory, rundir.open_for_reading(directory, manifest.NAME) as handle:
                return os.fstat(handle).st_mtime, sum(manifest.sizes(directory).values())
        except (DamagedError, OSError, rundir.ForeignError) as error:
            self._check_there(step)
            raise UserError(
                f"checkpoint {step} in {self.directory}: {in_one_line(error)}; {self._others(step)}"
            ) from error

    def verify(self, step: int, asked: Asked | None = None) -> str | None:
        """Read every byte of a checkpoint: what is wrong ("file X: checksum differs"), or None if nothing is.

        Args:
            asked: what will be read of it.

        Raises:
            UserError: by its manifest it is of another model than asked for, so that none of its files is read.
        """
        try:
            self._body(step, whole=True, asked=asked)
        except DamagedError as damage:
            return str(damage)
        return None

    def restore(
        self, abstract_state: PyTree, step: int | None = None, *, partial: bool = False, cast: bool = False
    ) -> Restored | None:
        """Read a checkpoint back, bit for bit, onto the shardings of `abstract_state`: of whatever mesh, over however
        many devices and processes.

        Args:
            abstract_state: a pytree of `jax.ShapeDtypeStruct`; without a sharding an array goes to the first device.
            step: None for the newest that is undamaged.
            partial: `abstract_state` may lack some of what was saved, which is then not read.
            cast: floating-point arrays may have been saved in another floating-point type, from which they are
                rounded to the nearest value.

        Returns:
            None if `step` is None and there is no checkpoint at all.

        Raises:
            GoneError: the step does not exist, perhaps since a moment ago.
            UserError: the step is damaged, all are damaged, or the checkpoint is of another model.
        """
        asked = Asked(abstract_state, partial, cast)
        if step is not None:
            damage = self.verify(step, asked)
            if damage is not None:
                self._check_there(step)
                raise UserError(f"checkpoint {step} in {self.directory} is damaged: {damage}; {self._others(step)}")
            return self._read(asked, step, ())

        def read_newest() -> Restored | None:
            newest, damaged = self._newest(asked)
            if newest is not None:
                return self._read(asked, newest, passed_over(damaged, f"checkpoint {newest}"))
            if damaged:
                raise self._all_damaged(damaged)
            return None

        return self.choosing_again(read_newest)

    def restore_chosen(
        self, abstract_state: PyTree, choice: str, *, partial: bool = False, cast: bool = False
    ) -> Restored | None:
        """As `restore`, of the step that a `decode.checkpoint` asks for. What may have been better is told."""
        if choice != "best":
            return self.restore(abstract_state, self.chosen(choice), partial=partial, cast=cast)

        def read_best() -> Restored | None:
            step = self.chosen(choice)
            restored = self.restore(abstract_state, step, partial=partial, cast=cast)
            if restored is None or step is None:
                return restored
            damaged = {other: damage for other in self.unreadable() if (damage := self.verify(other))}
            told = passed_over(damaged, f"checkpoint {step}")
            return dataclasses.replace(restored, messages=(*told, *restored.messages))

        return self.choosing_again(read_best)

    def choosing_again(self, read: Callable[[], Read]) -> Read:
        """What `read` returns, which chooses checkpoints and reads them: once more if what it chose has gone.

        Raises:
            UserError: what it chose had gone every time.
        """
        for _ in range(_CHOICES):
            with contextlib.suppress(GoneError):
                return read()
        raise UserError(f"checkpoints in {self.directory} are deleted faster than they can be read; try again")

    def _newest(self, asked: Asked) -> tuple[int | None, dict[int, str]]:
        """The newest undamaged step, every byte of which was read, and by step what is wrong with the newer ones."""
        damaged: dict[int, str] = {}
        for candidate in reversed(self._candidates()):
            damage = self.verify(candidate, asked)
            if damage is None:
                return candidate, damaged
            if self._is_there(candidate):
                damaged[candidate] = damage
        return None, damaged

    def _is_there(self, step: int) -> bool:
        return os.path.lexists(self.directory / str(step))

    def _check_there(self, step: int) -> None:
        """Raise a GoneError unless there is something of this step, whole or not."""
        if not self._is_there(step):
            raise GoneError(f"there is no checkpoint {step} in {self.directory}; {self._others(step)}")

    def _all_damaged(self, damaged: Mapping[int, str], failures: tuple[str, ...] = ()) -> UserError:
        listing = "; ".join((*_told(damaged), *failures))
        return UserError(
            f"every checkpoint in {self.directory} is damaged: {listing}. "
            "Move them away to begin anew, or choose another workdir."
        )

    def _read(self, asked: Asked, step: int, messages: tuple[str, ...]) -> Restored:
        try:
            body = self._body(step, asked=asked)
        except DamagedError as damage:
            raise self._unreadable(step, str(damage)) from damage
        saved, expected = parse_arrays(body["arrays"]), asked.arrays
        casts = asked.casts(saved)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        placed = {
            name: jax.ShapeDtypeStruct(leaf.shape, casts.get(name, leaf.dtype), sharding=leaf.sharding or here)
            for name, leaf in expected.items()
        }
        filled = {name: leaf for name, leaf in placed.items() if leaf.size}
        quieten_orbax()
        try:
            with self._inside(step) as directory, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                check_sizes(directory, saved, filled)
                restore_args = ocp.checkpoint_utils.construct_restore_args(filled)
                restored = ocp.args.PyTreeRestore(item=filled, restore_args=restore_args, partial_restore=asked.partial)
                try:
                    arrays = reader.restore(directory / "state", args=restored)
                except Exception as error:  # orbax and tensorstore raise what they like for files that are not theirs
                    raise DamagedError(in_one_line(error)) from error
        except DamagedError as damage:
            raise self._unreadable(step, str(damage)) from damage
        for name in placed.keys() - filled.keys():
            arrays[name] = jax.device_put(np.zeros(placed[name].shape, placed[name].dtype), placed[name].sharding)
        for name in casts:
            arrays[name] = arrays[name].astype(expected[name].dtype)
        if casts:
            kinds = Counter(f"from {was} to {expected[name].dtype.name}" for name, was in casts.items())
            listing = " and ".join(f"{count} {kind}" for kind, count in kinds.items())
            messages = (*messages, f"checkpoint {step}: arrays cast, as config.checkpoint.cast asks: {listing}")
        state = jax.tree.unflatten(jax.tree.structure(asked.state), [arrays[name] for name in placed])
        return Restored(step=step, state=jax.block_until_ready(state), metrics=_metrics(body), messages=messages)

    def _unreadable(self, step: int, reason: str) -> UserError:
        """Why a checkpoint could not be read: it may have gone in this moment."""
        if not self._is_there(step):
            return GoneError(f"checkpoint {step} in {self.directory} was deleted while it was read; read another")
        return UserError(f"checkpoint {step} in {self.directory} cannot be read: {reason}; {self._others(step)}")

    def _candidates(self) -> list[int]:
        """Whatever is named like a step, ascending, checkpoint or not. Raises: UserError if the folder is not to be
        read."""
        with rundir.telling(self.directory), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted(map(int, filter(STEP.fullmatch, rundir.names(self.directory.parent, self.directory.name))))
        return []

    @contextlib.contextmanager
    def _inside(self, step: int) -> Iterator[Path]:
        """A path that leads to the checkpoint of a step as long as it is open. Raises: DamagedError if it is none."""
        with contextlib.ExitStack() as stack:
            try:
                name = f"{self.directory.name}/{step}"
                handle = stack.enter_context(rundir.open_folder(self.directory.parent, name))
            except rundir.ForeignError as error:
                raise DamagedError(in_one_line(error)) from error
            except OSError as error:
                raise manifest.damage(f"folder {step}", error) from error
            path = self.directory / str(step)
            through = rundir.path_of(handle, path)
            try:
                yield through
            except DamagedError as damage:
                raise type(damage)(rundir.in_the_users_words(str(damage), through, path)) from damage

    def _body(self, step: int, *, whole: bool = False, asked: Asked | None = None) -> dict[str, Any]:
        """What the manifest says, after verifying it, or every file if `whole`.

        Raises:
            DamagedError: something is wrong with it.
            UserError: it is of another model than asked for, or may not be read: to pass over it would be to read
                another in silence.
        """

        def check(body: dict[str, Any], files: Mapping[str, int] | None = None) -> None:
            try:
                saved, saved_as = parse_arrays(body["arrays"]), body["step"]
                _metrics(body)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise DamagedError(f"file {manifest.NAME}: incomplete") from error
            if saved_as != step:
                raise DamagedError(f"it was saved as step {saved_as}")
            if asked is not None and (problem := asked.problem(saved)):
                raise UserError(f"checkpoint {step} in {self.directory} {problem}")
            if files is not None:
                try:
                    check_files(directory, saved, files)
                except OSError as error:  # somebody deletes it at this moment
                    raise manifest.damage(f"{error.filename}", error) from error

        try:
            with self._inside(step) as directory:
                if whole:
                    return manifest.verify(directory, check)
                check(body := manifest.read(directory))
                return body
        except manifest.DeniedError as denied:
            if self._trains:
                raise
            way_in = rundir.way_in(self.directory / str(step), PermissionError())
            raise UserError(f"cannot read checkpoint {step} in {self.directory}: {denied}{way_in}") from denied

    def _intact(self, step: int) -> dict[str, Any]:
        """As `_body`. Raises: UserError in place of DamagedError."""
        try:
            return self._body(step)
        except DamagedError as damage:
            self._check_there(step)
            raise UserError(f"checkpoint {step} in {self.directory}: {damage}; {self._others(step)}") from damage

    def _is_committed(self, step: int) -> bool:
        try:
            self._body(step)
        except DamagedError:
            return False
        return True

    def _others(self, step: int) -> str:
        others = [str(other) for other in self.steps() if other != step]
        return f"there are: {listed(others)}" if others else "there is no other"


def passed_over(damaged: Mapping[int, str], instead: str) -> tuple[str, ...]:
    """A sentence for each damaged checkpoint, and what the run goes on from; of very many, the first ones."""
    return tuple(f"{each}; going on from {instead}" for each in _told(damaged))


def _told(damaged: Mapping[int, str]) -> list[str]:
    """What is wrong with each; a stranger's run may have very many."""
    told = [f"checkpoint {step}: {damage}" for step, damage in itertools.islice(damaged.items(), _MOST_TOLD)]
    if more := len(damaged) - len(told):
        told.append(f"{counted(more, 'more checkpoint')}: damaged too")
    return told


def _metrics(body: Mapping[str, Any]) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in body["metrics"].items()}
