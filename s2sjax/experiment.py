"""The whole config of a run: one frozen dataclass, made of the sections that live beside the code they configure.

A config file builds on `base_config`, which holds every key with its default:

    from s2sjax.experiment import base_config

    def get_config(argument: str = ""):
        config = base_config(model="transformer")
        config.model.width = 256
        return config
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from s2sjax import models, tasks
from s2sjax.api import Rules, Traits
from s2sjax.checkpoints.retention import CheckpointConfig
from s2sjax.config import (
    MOST_SEED,
    as_in_json,
    build,
    check_at_least,
    check_choices,
    check_mapping,
    check_rate,
    coerce,
    nearest,
    one_of,
    to_json,
    up_to,
)
from s2sjax.config_dict import Config, sections_of_task
from s2sjax.data.batching import BatchingConfig
from s2sjax.data.config import DataConfig
from s2sjax.data.parts import parts_of
from s2sjax.data.tokenizer_config import TokenizerConfig, check_sampling
from s2sjax.errors import UserError, shown
from s2sjax.files import jsontext, rundir
from s2sjax.inference.requests import PositionLimit
from s2sjax.learning.faults import FaultsConfig
from s2sjax.learning.optim import OptimizerConfig
from s2sjax.metrics.config import EvaluateConfig
from s2sjax.metrics.names import TEXT_METRICS, part_and_name
from s2sjax.one_or_several import one_or_several
from s2sjax.ops.linear import Precision
from s2sjax.plural import counted
from s2sjax.sharding import MeshConfig
from s2sjax.task import Limits, Task
from s2sjax.tasks.text import Text
from s2sjax.upgrade import VERSION, accept_key, moved_from, upgrade, with_current_keys
from s2sjax.vocabulary import own_vocabulary

LARGEST = jsontext.Bound(1 << 22, 200_000)
"""What a saved config may have. It has a few thousand bytes, and what `tokenizer.user_symbols` and `data.pairs` have:
100,000 symbols have some 3 MB."""


@dataclass(frozen=True)
class TrainConfig:
    """The `train` section: how long training is, and how a step is computed.

    Attributes:
      steps: Steps of training in all. A run that is resumed with more goes on to the new number.
      precision: What is computed in which floating-point type: "bfloat16" is for GPUs and TPUs, "bfloat16_products" for
        CPUs. See `ops.linear`.
      label_smoothing: Share of the target's probability that is spread over the whole vocabulary (Szegedy et al. 2016).
      z_loss: Weight of the square of the log of the softmax's sum, which keeps logits small; 0: none.
      loss_chunk: Tokens whose logits exist at one time, on each device. Fewer save memory.
      accumulate: Parts that a batch is computed in, one after the other, to save memory. The result is that of the
        whole batch, dropout and the balance of experts included (theirs costs a second forward pass), but for
        `model.routing=capacity`: what an expert takes is of each part.
      ema_decay: Decay of the moving average of the parameters, which is then what is evaluated and decoded with; 0:
        none.
      log_every: Steps from one line of the log to the next.
    """

    steps: int = 10_000
    precision: str = one_of(Precision, "float32")
    label_smoothing: float = 0.1
    z_loss: float = 0.0
    loss_chunk: int = 256
    accumulate: int = 1
    ema_decay: float = 0.0
    log_every: int = 100

    def __post_init__(self):
        check_choices(self, "config.train")
        check_at_least(1, self, "steps", "loss_chunk", "accumulate", "log_every", where="config.train")
        check_rate(self, "label_smoothing", "ema_decay", where="config.train")
        check_at_least(0, self, "z_loss", where="config.train")


@dataclass(frozen=True)
class Experiment:
    """Everything a run depends on. `model` is the `Config` of the family called `model_name`, and `decode` is of the
    class that the task says, with its defaults if it is None.

    Attributes:
      seed: Seed of the initial parameters, of dropout and of the order of the data, from 0 to 2**63 - 1. The first two
        depend on its lowest 32 bits only.
    """

    model_name: str
    model: Any
    task: Task = field(default_factory=Text)
    seed: int = up_to(MOST_SEED, 0)
    data: DataConfig = field(default_factory=DataConfig)
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    decode: Any = None
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self):
        if self.decode is None:
            object.__setattr__(self, "decode", self.task.decode())
        check_at_least(0, self, "seed", where="config")
        parts_of(self.data)  # what is wrong with a set of a mixture is told here
        counts = getattr(self.model, "learning", "gradient") == "em"
        if counts != (self.optimizer.name == "em"):
            raise UserError(
                "config.optimizer.name=em goes with config.model.learning=em (of the family hmm), and neither with "
                "anything else: set both or none"
            )
        if counts and self.train.label_smoothing:
            raise UserError("em counts what was seen and knows no smoothed targets: set config.train.label_smoothing=0")
        if getattr(self.model, "copy", False) and not self.tokenizer.joint:
            raise UserError(
                "config.model.copy writes words of the source, so there is one vocabulary: set "
                "config.tokenizer.joint=True or config.model.copy=False"
            )
        self.task.check(self.data, self.batching, self.tokenizer, self.model_name, self.traits)
        # A module costs nothing before it has parameters: what no vocabularies would mend is told before data is read.
        ports = self.task.ports(own_vocabulary(4), own_vocabulary(4))
        models.build(self.model_name, self.model, ports, precision=Precision(self.train.precision))
        check_sampling(self.tokenizer, self.data)
        self._check_mesh()
        limit = self.position_limit
        needed = self.task.positions(self.batching, self.tokenizer, one_sequence=self.is_language_model)
        if limit is not None and limit < needed:
            raise UserError(
                f"config.model.max_positions is {limit}, but training may reach position {needed} "
                "(config.batching.max_source_length and max_target_length; config.task.context, where texts are cut): "
                "raise the one or lower the others"
            )
        chooses = part_and_name(self.checkpoint.metric)[1]
        self.task.check_evaluation(self.evaluate.decode, (*self.evaluate.metrics, chooses))
        if chooses in TEXT_METRICS and not self.evaluate.decode:
            raise UserError(
                f"config.checkpoint.metric is '{self.checkpoint.metric}', which is known only after decoding: set "
                "config.evaluate.decode=True, or config.checkpoint.metric=loss"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """What evaluation of a split reports, in this order."""
        asked = self.evaluate.metrics
        return tuple(dict.fromkeys(("loss", *asked))) if asked else self.task.default_metrics

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        """What validation does while training: of decoded text only if it decodes; and what chooses checkpoints."""
        names = dict.fromkeys((*self.metrics, part_and_name(self.checkpoint.metric)[1]))
        return tuple(name for name in names if self.evaluate.decode or name not in TEXT_METRICS)

    @property
    def position_limit(self) -> int | None:
        """The most tokens a sequence may have where positions are learned; None if there is no such limit."""
        return self.model.max_positions if getattr(self.model, "positions", None) == "learned" else None

    @property
    def limits(self) -> Limits:
        """What the model can read."""
        limit = self.position_limit
        positions = None if limit is None else PositionLimit(limit, self.is_language_model)
        return Limits(self.batching.max_source_length, positions)

    @property
    def traits(self) -> Traits:
        """What the models of the family can do."""
        return models.family(self.model_name).TRAITS

    @property
    def sharding_rules(self) -> Rules:
        """How the model's parameters are split over devices."""
        return models.family(self.model_name).sharding_rules(self.model)

    @property
    def is_language_model(self) -> bool:
        """Whether source and target are one sequence to the model."""
        return self.traits.language_model

    @property
    def knows_mesh(self) -> bool:
        """Whether the model parts positions and experts over devices by itself; else, all is rows and parameters."""
        return self.traits.splits_time

    @property
    def gathers_layers(self) -> bool:
        """Whether parameters are stored in parts, and the model can gather each layer's when that runs."""
        return self.mesh.fsdp > 1 and self.traits.gathers_layers

    @property
    def splits_time(self) -> bool:
        """Whether devices along the mesh axis `sequence` share the positions of rows in training; else, rows."""
        return self.knows_mesh and self.mesh.sequence > 1

    def _check_mesh(self) -> None:
        multiple, sequence = self.batching.length_multiple, self.mesh.sequence
        if self.splits_time and multiple % sequence:
            raise UserError(
                f"config.mesh.sequence is {sequence}, but rows have multiples of {counted(multiple, 'position')}; set "
                f"config.batching.length_multiple={math.lcm(multiple, sequence)}"
            )
        window = getattr(self.model, "encoder_window", 0)
        if self.splits_time and window:
            raise UserError(
                f"config.mesh.sequence is {sequence}, but config.model.encoder_window is {window}, and devices cannot "
                "share the positions of its rows: set config.mesh.sequence=1, or config.model.encoder_window=0"
            )
        experts, expert = getattr(self.model, "experts", 0), self.mesh.expert
        if expert > 0 and experts % expert:
            raise UserError(
                f"config.mesh.expert is {expert}, but config.model.experts, {experts}, is not a multiple of it; set "
                f"config.mesh.expert={math.gcd(experts, expert)} or config.model.experts={math.lcm(experts, expert)}"
            )


def base_config(model: str = "transformer", task: str = "text") -> ConfigDict:
    """Every config key with its default, for one model family and one task. Locked: a new key is an error.

    Raises:
        UserError: there is no such family or task, or the family cannot do the task.
    """
    values: dict[str, dict[str, Any]] = {"model": {"name": model}, "task": {"name": task}}
    own = {field.name: type(field.default) for field in dataclasses.fields(models.family(model).Config)}
    for key, value in tasks.named(task).defaults.items():
        section, _, name = key.partition(".")
        # A task knows no family: one may lack the key, or mean another thing by it.
        if section != "model" or own.get(name) is type(value):
            values.setdefault(section, {})[name] = value
    return config_dict(resolve(values))


def config_dict(experiment: Experiment) -> ConfigDict:
    """An experiment as users see it: a ConfigDict with `model.name` beside the family's own keys."""
    values = to_json(experiment)
    values["model"] = {"name": values.pop("model_name"), **values["model"]}
    values["task"] = {"name": experiment.task.name, **values["task"]}
    for section in values.values():
        if isinstance(section, dict):  # tuples: a list could not be overridden on the command line
            section |= {key: tuple(value) for key, value in section.items() if isinstance(value, list)}
    values["data"]["target"] = one_or_several(values["data"]["target"])
    config = Config(values)
    config.lock()
    return config


def resolve(config: Mapping[str, Any], *, written_now: bool = True) -> Experiment:
    """A ConfigDict, or the same as JSON values, as an `Experiment`.

    Args: written_now: by a user of this version, who is told of what has no effect.

    Raises:
        UserError: for an unknown key, a value of a wrong type, or one that its section does not accept.
    """
    values = with_current_keys(check_mapping(config.to_dict() if isinstance(config, ConfigDict) else config, "config"))
    model = dict(check_mapping(values.pop("model", {}), "config.model"))
    name = model.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"config.model.name is {shown(name)}: {nearest('', models.families())}")
    of_task = {section: dict(check_mapping(values.pop(section, {}), f"config.{section}")) for section in tasks.SECTIONS}
    known = {f.name: f for f in dataclasses.fields(Experiment) if f.name not in ("model", "model_name", *of_task)}
    for key in values:
        if key not in known:
            raise UserError(f"config.{key} is not a config key: {nearest(key, [*known, 'model', *of_task])}")
    sections = {
        key: coerce(value, known[key].type, f"config.{key}", known[key].metadata.get("most"))
        for key, value in values.items()
    }
    plain_text = not sections.get("data", DataConfig()).source
    sections |= sections_of_task(of_task, plain_text=plain_text, say=written_now)
    return Experiment(name, build(models.family(name).Config, model, "config.model"), **sections)


def as_experiment(config: Any) -> Experiment:
    """A config as users hold it, a ConfigDict or what it resolves to. Raises: UserError, as `resolve`."""
    if isinstance(config, Experiment):
        return config
    if isinstance(config, ConfigDict):
        return resolve(config)
    raise UserError(f"the config is {shown(config)}, but a ConfigDict was expected: what s2sjax.base_config returns")


def override(experiment: Experiment, changes: Mapping[str, Any], *, section: str = "") -> Experiment:
    """The experiment with other values, given by dotted keys as on the command line: {"decode.beam_size": 3}.

    Args:
        section: where keys without a dot belong, "decode" for instance; else they are keys of the whole config.

    Raises:
        UserError: as `resolve`.
    """
    config = config_dict(experiment).to_dict()
    for key, value in changes.items():
        key = key.removeprefix("config.")
        *path, name = accept_key(key if "." in key or not section else f"{section}.{key}").split(".")
        values, where = config, "config"
        for part in path:
            if not isinstance(values.get(part), dict):
                raise UserError(f"{where}.{part} is no section of the config: {nearest(part, values)}")
            values, where = values[part], f"{where}.{part}"
        if name not in values and not tasks.with_setting(where.partition(".")[2], name):
            meant = nearest(name, values, moved_from(where.partition(".")[2]))
            raise UserError(f"{where}.{name} is not a config key: {meant}")
        value = as_in_json(value)
        step = (where, name) == ("config.decode", "checkpoint") and type(value) is int
        values[name] = str(value) if step else value
    return resolve(config)


def as_json(experiment: Experiment) -> dict[str, Any]:
    """An experiment as it is kept: the values of its `config_dict`, and the version that they are of."""
    return {"version": VERSION, **config_dict(experiment).to_dict()}


def from_json(values: Mapping[str, Any], where: object = "the config") -> Experiment:
    """What `as_json` made, in this version or an earlier one, as an `Experiment`.

    Args: where: the file that it is from, for the message.

    Raises: UserError, as `upgrade` and `resolve`.
    """
    version = check_mapping(values, str(where)).get("version", 1)
    values = upgrade({key: value for key, value in values.items() if key != "version"}, version, where)
    return resolve(values, written_now=version == VERSION)


def save(experiment: Experiment, path: Path) -> None:
    """Write the config as JSON, whole or not at all, the form that a run directory keeps it in.

    Raises:
        OSError: it cannot be written. UserError: it is larger than `load` would read.
    """
    values = as_json(experiment)
    jsontext.check(jsontext.dumps(values, indent=2), path, LARGEST)
    rundir.write_json(path.parent, path.name, values, sort_keys=True)


def load(path: Path) -> Experiment:
    """Read what `save` wrote. Only data is read: nothing in it can run.

    Raises:
        UserError: if the file is missing or is no config, or something in its run directory is a link or no file.
    """
    try:
        rundir.check(path.parent)
        values = rundir.read_json(path.parent, path.name, most=LARGEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{path.parent} is not a run directory: it has no {path.name}; give one that train wrote"
        ) from error
    except OSError as error:
        raise rundir.unreadable(path, error) from error
    if isinstance(values.get("data"), dict):
        # Where this machine caches is for this machine to say, not for a directory that may come from elsewhere.
        values["data"].pop("cache_dir", None)
    return from_json(values, path)
