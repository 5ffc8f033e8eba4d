"""The run directory: claimed for one config and one data set, which it then holds, and checked when a run resumes."""

import json
import os
from pathlib import Path

from s2sjax import experiment as experiments
from s2sjax.average import check_trainable
from s2sjax.config import differences
from s2sjax.data import tokenizer as tokenizers_lib
from s2sjax.data.prepare import Prepared
from s2sjax.errors import UserError
from s2sjax.evaluate import write_json
from s2sjax.experiment import Experiment

CHANGEABLE = (
    "train.steps",
    "train.log_every",
    "train.loss_chunk",
    "evaluate.",
    "decode.",
    "checkpoint.",
    "mesh.",
    "data.dir",
    "data.cache_dir",
)
"""Config keys that may differ when a run is resumed; all others decide what is computed."""


def check_workdir(experiment: Experiment, workdir: Path) -> None:
    """Raise a `UserError` unless `workdir` is new, or holds a run of this very config. Writes nothing."""
    path = workdir / "config.json"
    check_trainable(workdir)
    if path.exists():
        old = experiments.config_dict(experiments.load(path)).to_dict()
        new = experiments.config_dict(experiment).to_dict()
        changed = {k: v for k, v in differences(old, new).items() if not k.startswith(CHANGEABLE)}
        if changed:
            listing = "; ".join(f"config.{key} was {a!r} and is {b!r}" for key, (a, b) in changed.items())
            raise UserError(f"{workdir} holds a run of another config: {listing}. Use these values, or another workdir")
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"{workdir} is not empty and has no config.json, so it is no run; use another workdir")


def claim_workdir(experiment: Experiment, workdir: Path, prepared: Prepared) -> None:
    """Write config, tokenizers and the data's fingerprints, or check that the data is what the run began with.

    Comes after everything that can be wrong with config and data, so that a mistake leaves no run behind.
    """
    content = {name: split.fingerprint for name, split in prepared.splits.items()}
    record = workdir / "data.json"
    try:
        # A fingerprint covers the text and the tokenizers. Validation data may change; what is trained on may not.
        if record.exists() and json.loads(record.read_text(encoding="utf-8")).get("train") != content["train"]:
            raise UserError(
                f"the training data in {experiment.data.dir or experiment.data.name or experiment.data.format} "
                f"is not what {workdir} was trained on; restore it or use another workdir"
            )
        (workdir / "plots").mkdir(parents=True, exist_ok=True)
        temporary = workdir / "config.tmp"
        experiments.save(experiment, temporary)
        os.replace(temporary, workdir / "config.json")
        if not record.exists():
            tokenizers_lib.save(prepared.tokenizers, workdir / "tokenizer")
            write_json(record, content)  # last: it says that all is there
    except json.JSONDecodeError as error:
        raise UserError(f"{record} is not valid JSON ({error}); restore it or use another workdir") from error
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}; choose another --workdir") from error
