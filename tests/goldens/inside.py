"""The program's internals that goldens need by name: what a move or a renaming has to follow, in one place."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from s2sjax import models
from s2sjax.config import to_json
from s2sjax.data import pipeline
from s2sjax.data.examples import assemble
from s2sjax.data.mixing import training_plan
from s2sjax.data.prepare import prepare
from s2sjax.experiment import Experiment, base_config, config_dict, resolve
from s2sjax.inference.labelling import label_log_probs
from s2sjax.inspection.subject import describe
from s2sjax.processes import jax_settings
from s2sjax.runs.assembly import build_scorer
from s2sjax.vocabulary import own_vocabulary
from tests.tiny import read_state, task_of

VOCABULARY = 19


def experiment(family: str, values: Mapping[str, Any]) -> Experiment:
    """A family's base config for a task that it can do, with other values, by dotted keys."""
    config = base_config(model=family, task=task_of(family))
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
    return resolve(config)


def fields_of(family: str) -> set[str]:
    """Names of the fields of a family's config."""
    return {field.name for field in dataclasses.fields(models.family(family).Config)}


def labels(family: str) -> bool:
    """Whether a family labels what it reads."""
    return models.family(family).TRAITS.writes_in_place


def step_text(experiment: Experiment, devices: int) -> str:
    """StableHLO of the step that training runs, of a batch of the longest rows, on so many devices."""
    subject = describe(experiment, jax.devices()[:devices], VOCABULARY, None)
    with jax_settings.exact_products():  # as in a process of the program's own
        return subject.step.lower(subject.state, subject.batch).as_text()


def predictions_text(experiment: Experiment) -> str:
    """StableHLO of the labels that a model predicts of a batch of the longest rows."""
    subject, vocabularies = describe(experiment, jax.devices()[:1], VOCABULARY, None), (own_vocabulary(VOCABULARY),) * 2
    scorer = build_scorer(experiment, vocabularies, "float32")
    with jax_settings.exact_products():
        return label_log_probs.lower(scorer, subject.state.params, subject.batch).as_text()


def config_values(config: Any) -> dict[str, Any]:
    """A config as users hold it, resolved, by dotted keys, in the types of JSON."""
    found = {}
    for section, values in json.loads(json.dumps(config_dict(resolve(config)).to_dict())).items():
        found |= {f"{section}.{k}": v for k, v in values.items()} if isinstance(values, dict) else {section: values}
    return found


def base_values(family: str) -> dict[str, Any]:
    """Every config key of a family with its default."""
    if not labels(family):
        return config_values(base_config(model=family))
    own = {"name": family, **to_json(models.family(family).Config())}  # it has no text to write
    others = {key: value for key, value in config_values(base_config()).items() if not key.startswith("model.")}
    return others | {f"model.{key}": value for key, value in own.items()}


def batches(experiment: Experiment, count: int) -> list[dict[str, np.ndarray]]:
    """The first batches of training, as the plan has them."""
    task, data = experiment.task, experiment.data
    split = task.arrange(prepare(data, experiment.tokenizer, ("train",), rows=task.rows).splits["train"])
    sections = data, experiment.batching, experiment.tokenizer
    plan = training_plan(split, *sections, seed=experiment.seed, divisor=1)
    return list(pipeline.batches(plan, functools.partial(assemble, split=split), range(count)))


def batch_text(batch: Mapping[str, np.ndarray]) -> str:
    """A batch as a line for each of its arrays: type, shape, and a hash of its bytes."""
    hashes = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in batch.items()}
    return "".join(f"{name} {batch[name].dtype} {list(batch[name].shape)} {hashes[name]}\n" for name in sorted(batch))


def state_text(workdir: Path) -> str:
    """The newest checkpoint of a run as a line for each of its arrays."""
    return batch_text(read_state(workdir))
