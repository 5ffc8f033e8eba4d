"""Settings of training that others keep from having an effect, told before the first step.

Such a config is not refused: short tests of long trainings and sweeps have them. What contradicts itself is refused
where the sections are made. The decode section tells its own (`DecodeConfig.without_effect`).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from s2sjax.experiment import Experiment
from s2sjax.plural import counted


def without_effect(experiment: Experiment) -> Iterator[str]:
    """Sentences about such settings, each of which names the key, its value and why."""
    yield from _schedule(experiment)
    every = (_optimizer, _data, _batching, _tokenizer, _others, _model)
    for section, key, why, unused in (each for part in every for each in part(experiment)):
        settings = getattr(experiment, section)
        fields = {field.name: field.default for field in dataclasses.fields(settings)}
        if unused and key in fields and (value := getattr(settings, key)) != fields[key]:
            yield f"config.{section}.{key} is {value}, but {why}: it has no effect"


def _schedule(experiment: Experiment) -> Iterator[str]:
    config, steps = experiment.optimizer, experiment.train.steps
    if config.warmup_steps >= steps:
        yield (
            f"config.optimizer.warmup_steps is {config.warmup_steps}, but training has {counted(steps, 'step')}: the "
            "learning rate still rises when training ends; for all of the schedule set fewer, or more "
            "config.train.steps"
        )
    elif config.schedule == "wsd" and config.warmup_steps + round(steps * config.decay_fraction) > steps:
        yield (
            f"config.optimizer.warmup_steps is {config.warmup_steps}, but the learning rate begins to fall "
            f"{counted(round(steps * config.decay_fraction), 'step')} before the end "
            "(config.optimizer.decay_fraction), at step "
            f"{steps - round(steps * config.decay_fraction)} of {steps}: it never reaches its peak"
        )


def _optimizer(experiment: Experiment) -> Iterator[tuple[str, str, str, bool]]:
    """Section, key, reason, and whether the key is not looked at."""
    config = experiment.optimizer
    why = f"config.optimizer.name is '{config.name}'"
    for key, users in (
        ("b1", ("adamw", "lion", "sgd")),
        ("b2", ("adamw", "lion")),
        ("epsilon", ("adamw",)),
        ("em_smoothing", ("em",)),
    ):
        yield "optimizer", key, why, config.name not in users
    why = f"config.optimizer.schedule is '{config.schedule}'"
    yield "optimizer", "decay_fraction", why, config.schedule != "wsd"
    yield "optimizer", "final_fraction", why, config.schedule not in ("wsd", "cosine")


def _data(experiment: Experiment) -> Iterator[tuple[str, str, str, bool]]:
    config = experiment.data
    why = f"config.data.format is '{config.format}'"
    for key, users in (
        ("file", ("jsonl", "tsv", "csv")),
        ("header", ("tsv", "csv")),
        ("name", ("tfds",)),
    ):
        yield "data", key, why, config.format not in users
    yield "data", "dir", why, config.format == "phrases"


def _batching(experiment: Experiment) -> Iterator[tuple[str, str, str, bool]]:
    kind = experiment.batching.kind
    why = f"config.batching.kind is '{kind}'"
    yield "batching", "pack_length", why, kind != "pack"
    yield "batching", "buckets", why, kind == "pack"


def _tokenizer(experiment: Experiment) -> Iterator[tuple[str, str, str, bool]]:
    config = experiment.tokenizer
    own = experiment.task.tokenizer(config).target_kind
    why = f"config.task.name is '{experiment.task.name}', whose targets are of kind '{own}'"
    yield "tokenizer", "target_kind", why, config.target_kind != own
    for key in ("bpe_dropout", "sampling_alpha", "sampling_slack"):
        yield "tokenizer", key, "config.tokenizer.sampling is 'none'", not config.sampled_sides
    if config.sampled_sides and not config.source_model:
        kinds = {config.kind_of(side) for side in config.sampled_sides}
        why = f"config.tokenizer.kind is '{config.kind}'"
        yield "tokenizer", "bpe_dropout", why, "bpe" not in kinds
        yield "tokenizer", "sampling_alpha", why, "unigram" not in kinds
    for key in ("vocab_size", "byte_fallback", "split_digits", "character_coverage", "max_train_sentences"):
        yield "tokenizer", key, "config.tokenizer.source_model is a model that was trained", bool(config.source_model)
    bytes_only = {config.kind, config.kind_of("target")} == {"byte"} and not config.source_model
    for key in ("vocab_size", "max_train_sentences"):
        yield "tokenizer", key, "config.tokenizer.kind is 'byte'", bytes_only


def _others(experiment: Experiment) -> Iterator[tuple[str, str, str, bool]]:
    faults = experiment.faults
    stops = faults.beyond_max_skips == "stop"
    yield "faults", "max_rollbacks", "config.faults.beyond_max_skips is 'stop'", stops
    for metric in ("rouge", "bleu"):
        why = f"neither config.evaluate.metrics nor config.checkpoint.metric names {metric.upper()}"
        compared = "source" in experiment.task.columns
        if not compared:
            why = "config.data.source is empty, and nothing is compared"
        named = (*experiment.metrics, *experiment.validation_metrics)
        unused = not any(name.startswith(metric) for name in named)
        yield "evaluate", f"{metric}_tokenize", why, unused or not compared


def _model(experiment: Experiment) -> Iterator[tuple[str, str, str, bool]]:
    def of(name: str) -> Any:
        return getattr(experiment.model, name, None)

    positions = of("positions")
    why = f"config.model.positions is '{positions}'"
    yield "model", "rotary_base", why, positions != "rotary"
    for key in ("relative_buckets", "relative_distance"):
        yield "model", key, why, positions != "relative"
    if positions is not None:
        yield "model", "max_positions", why, positions != "learned"
    for key in ("rotary_factor", "rotary_length"):
        yield "model", key, "config.model.rotary_scaling is 'none'", of("rotary_scaling") == "none"
    for key in ("experts_per_token", "routing", "capacity_factor", "balance"):
        yield "model", key, "config.model.experts is 0", of("experts") == 0
    dropless = bool(of("experts")) and of("routing") == "dropless"
    yield "model", "capacity_factor", "config.model.routing is 'dropless'", dropless
    attention = of("attention")  # the family rnn_seq2seq's
    local = f"config.model.attention is '{attention}'"
    yield "model", "window", local, attention is not None and attention != "local"
