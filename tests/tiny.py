"""Tiny runs for tests: sentences of a few letters, their reversals as translations, a few thousand parameters."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from s2sjax import models, sharding
from s2sjax.checkpoints import manifest
from s2sjax.checkpoints.checkpointer import Checkpointer
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.cli import run_command
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.data.tokenizer import save as save_tokenizers
from s2sjax.data.units import CharTokenizer
from s2sjax.experiment import Experiment, base_config, resolve
from s2sjax.experiment import save as save_experiment
from s2sjax.learning import optim
from s2sjax.learning.state import TrainState, initializer
from s2sjax.ops.linear import Precision
from s2sjax.runs import home
from s2sjax.vocabulary import own_vocabulary

LETTERS = "abcdef"


def write_text(directory: Path, *, train: int = 90, held_out: int = 20, longest: int = 9, seed: int = 0) -> Path:
    """Files `train.src`, `train.tgt`, `train.tags` and so on: words of 1 to `longest` letters, their reversals, and the
    letters of these as tags."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("validation", held_out), ("test", held_out)):
        words = ["".join(rng.choice(list(LETTERS), rng.integers(1, longest + 1))) for _ in range(count)]
        write_split(directory, split, words, [word[::-1] for word in words])
        tags = "".join(f"{' '.join(word[::-1])}\n" for word in words)
        (directory / f"{split}.tags").write_text(tags, encoding="utf-8")
    return directory


def write_split(directory: Path, split: str, sources: Sequence[str], targets: Sequence[str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for suffix, lines in (("src", sources), ("tgt", targets)):
        (directory / f"{split}.{suffix}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _sizes(family: str) -> dict[str, Any]:
    wide, layers = {"width": 16, "dropout": 0.0}, {"encoder_layers": 1, "decoder_layers": 1}
    return {
        "transformer": {"heads": 2, "hidden": 16, **wide, **layers},
        "rnn_seq2seq": {**wide, **layers},
        "gnmt": {**wide, "encoder_layers": 2, "decoder_layers": 2},
        "causal_lm": {"heads": 2, "hidden": 16, "layers": 1, **wide},
        "griffin": {"heads": 2, "hidden": 16, "recurrent_width": 16, "repeats": 1, **wide},
        "lstm_lm": {"layers": 2, "embedding_width": 16, **wide},
        "hmm": {"states": 8},
        "encoder": {"heads": 2, "hidden": 16, "layers": 1, **wide},
        "rnn_encoder": {"layers": 1, **wide},
    }[family]


def task_of(family: str) -> str:
    """A task that the family can do: text, or tagging if it labels what it reads."""
    return "tagging" if models.family(family).TRAITS.writes_in_place else "text"


def tiny_model(family: str, **others: Any) -> Any:
    """The config of a tiny model, with some values of its own."""
    return models.family(family).Config(**{**_sizes(family), **others})


def tiny_values(data: Path, family: str = "transformer", **overrides: Any) -> dict[str, Any]:
    """What `tiny` sets, as dotted keys: one layer, one evaluation shape, nothing decoded while training."""
    task = overrides.get("task__name", task_of(family))
    values: dict[str, Any] = {
        "task.name": task,
        "data.dir": str(data),
        "data.source": "{split}.src",
        "data.target": "{split}.tags" if task == "tagging" else "{split}.tgt",
        "data.cache_dir": str(data / "cache"),
        "batching.buckets": 1,
        "batching.tokens": 128,
        "batching.pack_length": 16,
        "tokenizer.kind": "char",
        **{f"model.{name}": value for name, value in _sizes(family).items()},
        "optimizer.learning_rate": 1e-2,
        "optimizer.warmup_steps": 4,
        "train.steps": 12,
        "train.log_every": 1,
        "evaluate.decode": False,
        "evaluate.samples": 0,
        "evaluate.every_steps": 1000,
        "checkpoint.every_steps": 1000,
        "faults.watchdog_seconds": 0,
    }
    return values | {key.replace("__", "."): value for key, value in overrides.items()}


def tiny(data: Path, family: str = "transformer", **overrides: Any) -> Experiment:
    """A tiny experiment on the files of `write_text`. Overrides are spelled `train__steps=3`."""
    values = tiny_values(data, family, **overrides)
    config = base_config(model=family, task=values["task.name"])
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
    return resolve(config)


def config_file(path: Path, data: Path, family: str = "transformer", **overrides: Any) -> Path:
    """The same experiment as a config file for the command line."""
    values = tiny_values(data, family, **overrides)
    body = "\n".join(f"    config.{key} = {value!r}" for key, value in values.items())
    path.write_text(
        "from s2sjax.experiment import base_config\n\n\n"
        f"def get_config(argument=''):\n    config = base_config({family!r}, {values['task.name']!r})\n"
        f"{body}\n    return config\n"
    )
    return path


def write_run(workdir: Path, experiment: Experiment, checkpoints: Mapping[int, tuple[Any, dict[str, float]]]) -> Path:
    """A run directory that was never trained: `checkpoints` are train states (or parts of one) and metrics by step.

    Its vocabulary is `LETTERS`, as of the files of `write_text`.
    """
    workdir.mkdir(parents=True)
    save_experiment(experiment, workdir / "config.json")
    tokenizer = CharTokenizer(LETTERS)
    save_tokenizers(TokenizerPair(tokenizer, tokenizer), workdir / "tokenizer")
    home.record(workdir, experiment)
    with Checkpointer(workdir / "checkpoints", experiment.checkpoint) as writer:
        for step, (state, metrics) in checkpoints.items():
            writer.save(step, state, metrics)
    return workdir


def random_state(experiment: Experiment, seed: int, vocab: int = CharTokenizer(LETTERS).vocab_size) -> TrainState:
    """A train state that nothing was compiled for: every number in it is drawn, and is a model's by its place only."""
    ports = experiment.task.ports(own_vocabulary(vocab), own_vocabulary(vocab))
    model = models.build(experiment.model_name, experiment.model, ports, precision=Precision.FLOAT32)
    optimizer = optim.make_optimizer(experiment.optimizer, experiment.train.steps)
    init = initializer(model, ports, optimizer, ema=experiment.train.ema_decay > 0)
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def read_state(workdir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint, by path: the newest's, or those of `step`."""
    reader = CheckpointReader(workdir / "checkpoints")
    step = reader.latest_step() if step is None else step
    arrays = manifest.read(workdir / "checkpoints" / str(step))["arrays"]
    abstract = {name: jax.ShapeDtypeStruct(tuple(a["shape"]), a["dtype"]) for name, a in arrays.items()}
    restored = reader.restore(abstract, step)
    assert restored is not None
    return {name: np.asarray(value) for name, value in restored.state.items()}


def assert_same_state(a: Path, b: Path) -> None:
    """The newest checkpoints of two runs are of the same step and hold the same bits."""
    left, right = read_state(a), read_state(b)
    assert left.keys() == right.keys()
    differing = [name for name in left if left[name].tobytes() != right[name].tobytes()]
    assert not differing, f"{len(differing)} of {len(left)} arrays differ: {differing[:5]}"


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def records(workdir: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of one kind."""
    return [line for line in json_lines(workdir / "metrics.jsonl") if line["kind"] == kind]


def s2s(*arguments: Any) -> Any:
    """Run one command in this process; its exit code."""
    with pytest.raises(SystemExit) as stopped:
        run_command([str(argument) for argument in arguments])
    return stopped.value.code


@contextlib.contextmanager
def compiling_once(directory: Path) -> Iterator[None]:
    """Keep compiled programs in `directory`, so that the runs of a module share them as a user's do; and compile in a
    hurry, since these programs run for milliseconds."""
    values = {
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def on_devices(monkeypatch, count: int) -> None:
    """Let every mesh be made of this many of the test process's devices."""
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(
        sharding, "make_mesh", lambda config, devices=None: make_mesh(config, devices or jax.devices()[:count])
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "s2sjax", *arguments]


def environment(cache: Path) -> dict[str, str]:
    """For a subprocess: one device, and compiled programs kept in `cache`."""
    flags = os.environ.get("XLA_FLAGS", "").replace("--xla_force_host_platform_device_count=8", "")
    here = str(Path(__file__).parents[1])
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return inherited | {
        "XLA_FLAGS": flags.strip(),
        "S2SJAX_CACHE": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1"),  # 0: as for users
        "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))),
    }


@contextlib.contextmanager
def on_one_device(place: Path) -> Iterator[None]:
    """What tests of commands run in: one device, what is cached below `place`, and programs compiled once."""
    with compiling_once(place / "xla"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("S2SJAX_CACHE", str(place / "cache"))
        on_devices(patch, 1)
        yield
