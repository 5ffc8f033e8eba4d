"""The run directory: claimed for one config and one data set, which it then holds, and checked when a run resumes;
and the place of its second copy, held to the same."""

import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import jax

from s2sjax import experiment as experiments
from s2sjax.checkpoints.copies import SecondCopy
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.config import differences, shown_value
from s2sjax.data import tokenizer as tokenizers_lib
from s2sjax.data.prepare import Prepared
from s2sjax.errors import UserError, in_one_line
from s2sjax.experiment import Experiment
from s2sjax.files import jsontext, rundir
from s2sjax.processes import distributed
from s2sjax.runs import home
from s2sjax.runs.average import check_trainable
from s2sjax.runs.depth import check_depth

CHANGEABLE = (
    "train.steps",
    "train.log_every",
    "train.accumulate",
    "train.loss_chunk",
    "evaluate.",
    "decode.",
    "checkpoint.",
    "faults.",
    "mesh.",
    "model.remat",
    "data.dir",
    "data.cache_dir",
    "data.max_bad_records",
    # Only where the models are may change: `tokenizer.check_given` holds their content to the run's own copies.
    "tokenizer.source_model",
    "tokenizer.target_model",
)
"""Config keys that may differ when a run is resumed; all others decide what is computed, as long as no step is bad."""

_DIRECTORY_OF_A_SET = re.compile(r"data\.mixture\.[^.]+\.dir")
"""As `data.dir`, it may change."""

LOGS = "logs"
"""Where launch scripts write what processes print: in the run directory, before there is a run."""

_BEGUN = re.compile(rf"{LOGS}|plots|config\.tmp|\.config\.json\.[0-9]+\.tmp")
"""What may stand in a run directory before its config does: a kill in that moment is no reason to refuse it."""


def check_workdir(experiment: Experiment, workdir: Path) -> Experiment | None:
    """The config that `workdir` holds; None if it is new. Writes nothing.

    Raises: UserError if it holds a run of a config that decides something else, or is no run directory.
    """
    path = workdir / "config.json"
    with rundir.telling(workdir):
        there = workdir.is_dir()
    if there:
        rundir.check(workdir)  # also where there is no config yet
        check_trainable(workdir)
    if there and rundir.exists(workdir, path.name):
        held = experiments.load(path)
        if changed := _changed(held, experiment):
            raise UserError(f"{workdir} holds a run of another config: {changed}. Use these values, or another workdir")
        tokenizers_lib.check_moved(experiment.tokenizer, held.tokenizer)
        check_depth(CheckpointReader(workdir / "checkpoints"), "last", experiment.model)
        return held
    if workdir.exists() and not (there and all(map(_BEGUN.fullmatch, rundir.names(workdir)))):
        raise UserError(f"{workdir} is not empty and has no config.json, so it is no run; use another workdir")
    return None


def own_tokenizers(workdir: Path) -> tokenizers_lib.TokenizerPair | None:
    """Those of a run that has begun, which need neither training nor the files that they came from."""
    return tokenizers_lib.load(workdir / "tokenizer") if _has_begun(workdir) else None


def _has_begun(workdir: Path) -> bool:
    return workdir.is_dir() and rundir.exists(workdir, "data.json")


def _changed(old: Experiment, new: Experiment) -> str:
    """What decides the result and differs, for a message."""
    values = (experiments.config_dict(each).to_dict() for each in (old, new))
    found = {
        key: value for key, value in differences(*values).items()
        if not (key.startswith(CHANGEABLE) or _DIRECTORY_OF_A_SET.fullmatch(key))
    }  # fmt: skip
    return "; ".join(f"config.{key} was {shown_value(a)} and is {shown_value(b)}" for key, (a, b) in found.items())


_VISIBLE = 30.0  # seconds until a file of one host is believed not to be there on another


def open_copy(experiment: Experiment, workdir: Path) -> SecondCopy | None:
    """The place of the second copy that the config asks for, of a run directory that was claimed.

    Raises:
        UserError: it cannot be used at all, or holds a run of another config or of other data.
    """
    url = experiment.checkpoint.copy_to
    if not url:
        return None

    def check(records: Mapping[str, bytes]) -> None:
        here = f"{copy.url}, where config.checkpoint.copy_to puts the second copy,"
        try:
            found = {
                name: jsontext.parse(content, f"{copy.url}/{name}", most=experiments.LARGEST)
                for name, content in records.items()
            }
            changed = ""
            if (held := found.get("config.json")) is not None:
                changed = _changed(experiments.from_json(held, f"{copy.url}/config.json"), experiment)
            fingerprint = found.get("data.json", {}).get("train")
        except ValueError as error:
            raise UserError(f"{here} has records that cannot be read ({error}); move it away") from error
        if changed:
            raise UserError(f"{here} holds a run of another config: {changed}. Choose another place")
        if fingerprint not in (None, _recorded_data(workdir)):
            raise UserError(f"{here} holds a run on other training data; choose another place")

    copy = SecondCopy(url, workdir, check)
    try:
        copy.open()
        if jax.process_index() == 0:
            copy.recover_record()
    except UserError:
        raise
    except Exception as error:  # drivers raise what they like; if it lasts, the copier will say so
        if not copy.has_first():  # to begin anew would overwrite, in the end, what may be there
            raise UserError(
                f"there is no checkpoint in {workdir}, and its second copy in {copy.url} cannot be read: "
                f"{in_one_line(error)}. Run the same command when it can, or set config.checkpoint.copy_to='' to begin "
                "anew"
            ) from error
    return copy


def claim_workdir(experiment: Experiment, workdir: Path, prepared: Prepared) -> None:
    """Write config, tokenizers and the data's fingerprints, or check that the data is what the run began with.

    Comes after everything that can be wrong with config and data, so that a mistake leaves no run behind. Of several
    processes, the first writes when all have looked, and the others then see whether it is where they look too, and
    whether their data is the same.
    """
    distributed.barrier("checked")
    if distributed.index() != 0:
        distributed.barrier("claimed")
    content = {name: split.fingerprint for name, split in prepared.splits.items()}
    record = workdir / "data.json"
    if distributed.index() != 0 and not _appears(record):
        raise UserError(
            f"process {distributed.index()} ({socket.gethostname()}) does not see the {workdir} of process 0; give a "
            "--workdir on a disk that all hosts share"
        )
    try:
        # A fingerprint covers the text and the tokenizers. Validation data may change; what is trained on may not.
        known = _has_begun(workdir)
        if known and _recorded_data(workdir) != content["train"]:
            raise UserError(
                f"the training data in {experiment.data.dir or experiment.data.name or experiment.data.format} "
                f"is not what {workdir} was trained on; restore it or use another workdir. If nothing in it changed, "
                "it has blank lines at the end or rows with too many columns: they were examples once and are none "
                "now, so that only a new run can be trained on it"
            )
        if distributed.index() != 0:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        with rundir.open_folder(workdir, "plots", make=True):
            pass
        # A run that has nothing left to do keeps the config that it was trained with.
        goes_on = (CheckpointReader(workdir / "checkpoints").latest_step() or 0) <= experiment.train.steps
        if goes_on:
            experiments.save(experiment, workdir / "config.json")
        if not known:
            tokenizers_lib.save(prepared.tokenizers, workdir / "tokenizer")
            rundir.write_json(workdir, "data.json", content)  # last: it says that all is there
        if goes_on:  # else a stranger's config would stand there as one's own
            home.record(workdir, experiment)
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}; choose another --workdir") from error
    distributed.barrier("claimed")


def _recorded_data(workdir: Path) -> str:
    """The fingerprint of the training data that a run began with. Raises: UserError if it cannot be read."""
    path = workdir / "data.json"
    try:
        fingerprint = rundir.read_json(workdir, path.name).get("train")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; restore it or use another workdir") from error
    if not isinstance(fingerprint, str):
        raise UserError(f"{path} does not say what the run was trained on; restore it or use another workdir")
    return fingerprint


def _appears(path: Path) -> bool:
    """Network file systems may hide from one host for a while what another has written."""
    deadline = time.monotonic() + _VISIBLE
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    return path.exists()
