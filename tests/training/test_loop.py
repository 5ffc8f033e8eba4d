"""The training loop, end to end, on models of a few thousand parameters: what a run promises about its result."""

import contextlib
import dataclasses
import functools
import gc
import math
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax import models, sharding
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.data.prepare import prepare
from s2sjax.errors import UserError
from s2sjax.inference.gathering import gathering
from s2sjax.inference.likelihood import loss_sums
from s2sjax.inference.scorers import Single
from s2sjax.learning.state import shardings
from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import LossOptions
from s2sjax.reporting.report import Reporter
from s2sjax.runs.assembly import assemble_run
from s2sjax.runs.evaluate import Evaluator, Validator
from s2sjax.runs.workdir import check_workdir
from s2sjax.sharding import MeshConfig
from s2sjax.tasks.text import Text
from s2sjax.training import loop, setup
from s2sjax.training.loop import INTERRUPTED, train
from s2sjax.training.step import make_step
from tests.tiny import (
    assert_same_state,
    compiling_once,
    on_devices,
    random_state,
    read_state,
    records,
    tiny,
    write_split,
    write_text,
)


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    with compiling_once(tmp_path_factory.mktemp("xla")):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("data"))


small = functools.partial(tiny, family="lstm_lm")
"""As `tiny`, of a family whose step is compiled in a third of a Transformer's time: for what no family changes."""


@pytest.fixture
def one_device(monkeypatch):
    on_devices(monkeypatch, 1)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of two steps. Copy it before changing it."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        on_devices(patch, 1)
        train(small(data, train__steps=2), workdir)
    return workdir


@contextlib.contextmanager
def terminated_at(*steps):
    """SIGTERM arrives when the metrics of these steps are read; each arrives once."""
    left = list(steps)
    advance = Reporter.advance

    def advance_and_ask(self, step):
        advance(self, step)
        if left and step >= left[0]:
            left.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)

    Reporter.advance = advance_and_ask
    try:
        yield
    finally:
        Reporter.advance = advance


@pytest.fixture
def one_step_for_each_config(monkeypatch):
    """Runs of the same config share their compiled step, as they would if they found it in the cache. What processes of
    their own compute, `tests/test_resume_kill.py` compares."""
    made, make = [], setup.make_step

    def made_once(model, optimizer, experiment, mesh, places):
        for step, *what in made:
            if what == [model, experiment, mesh, places]:
                return step
        made.append((make(model, optimizer, experiment, mesh, places), model, experiment, mesh, places))
        return made[-1][0]

    monkeypatch.setattr(setup, "make_step", made_once)


def train_with_interruptions(experiment, workdir, *steps) -> int:
    """Train, be told to stop at each of these steps, and resume; the number of times that train was called."""
    calls = 1
    with terminated_at(*steps):
        while (code := train(experiment, workdir)) != 0:
            assert code == INTERRUPTED
            calls += 1
            assert calls < 10
    return calls


# ---- A run is a function of its config ----

RANDOM = {"train__ema_decay": 0.9, "train__steps": 16, "checkpoint__every_steps": 5, "evaluate__every_steps": 6}


def every_family():
    """Each with both kinds of batches; one of them among the fast tests."""
    for family in models.families():
        for batching in ("bucket", "pack"):
            fast = (family, batching) == ("lstm_lm", "pack")
            yield pytest.param(family, batching, marks=() if fast else pytest.mark.slow)


@pytest.mark.grid(2)
@pytest.mark.parametrize("family, batching", list(every_family()))
def test_an_interrupted_run_equals_one_left_alone_bit_for_bit(
    one_device, one_step_for_each_config, data, tmp_path, family, batching
):
    """With dropout and a moving average, interrupted in the middle of the first and of the second epoch."""
    buckets = 2 if family == "transformer" else 1  # each is another compilation
    dropout = {} if family == "hmm" else {"model__dropout": 0.2}
    experiment = tiny(data, family, batching__kind=batching, batching__buckets=buckets, **dropout, **RANDOM)
    assert train(experiment, tmp_path / "alone") == 0
    assert train_with_interruptions(experiment, tmp_path / "stopped", 3, 10) == 3
    assert_same_state(tmp_path / "alone", tmp_path / "stopped")
    state = read_state(tmp_path / "alone")
    assert state["step"] == 16 and any(name.startswith("ema/") for name in state)
    assert any(name.startswith("opt_state/") and value.any() for name, value in state.items())

    # Each step is on record once, with the same numbers but for the clock's.
    for kind in ("train", "validation"):
        alone, stopped = records(tmp_path / "alone", kind), records(tmp_path / "stopped", kind)
        assert [r["step"] for r in stopped] == ([*range(1, 17)] if kind == "train" else [6, 12, 16])
        assert [r["loss"] for r in stopped] == [r["loss"] for r in alone]

    # As after a kill: the newest checkpoint is gone, and what was recorded after it is recorded anew, once.
    shutil.copytree(tmp_path / "alone", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "16")
    assert train(experiment, tmp_path / "again") == 0
    assert_same_state(tmp_path / "alone", tmp_path / "again")
    again, alone = records(tmp_path / "again"), records(tmp_path / "alone")
    assert [(r["step"], r["loss"]) for r in again] == [(r["step"], r["loss"]) for r in alone]


def test_the_seed_decides(one_device, data, finished, tmp_path):
    train(small(data, seed=1, train__steps=2), tmp_path)
    a, b = read_state(finished), read_state(tmp_path)
    assert all((a[name] != b[name]).any() for name in a if name.startswith("params/") and name.endswith("kernel"))


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_eight_devices_equal_one(data, tmp_path, monkeypatch, axes):
    """Three updates with dropout, the last two of them on another mesh than the first."""
    options = {"model__dropout": 0.2, "optimizer__name": "sgd", "optimizer__learning_rate": 0.1, "train__steps": 3}
    experiment = tiny(data, train__ema_decay=0.5, **options)
    with monkeypatch.context() as patch:
        on_devices(patch, 1)
        assert train(experiment, tmp_path / "one") == 0
        with terminated_at(1):
            assert train(experiment, tmp_path / "eight") == INTERRUPTED
    meshed = dataclasses.replace(experiment, mesh=MeshConfig(*axes))
    assert train(meshed, tmp_path / "eight") == 0
    one, eight = read_state(tmp_path / "one"), read_state(tmp_path / "eight")
    for name in one:
        np.testing.assert_allclose(eight[name], one[name], rtol=1e-4, atol=1e-6, err_msg=name)
    losses = [[r["loss"] for r in records(tmp_path / run)] for run in ("one", "eight")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


# ---- One update ----


class Update:
    """`make_step` for a tiny model on one device, and a batch whose rows differ in their number of tokens."""

    def __init__(self, data, family="lstm_lm", **options):
        self.experiment = tiny(data, family, **options)
        prepared = prepare(self.experiment.data, self.experiment.tokenizer, ("train",))
        self.split = prepared.splits["train"]
        mesh = sharding.make_mesh(self.experiment.mesh, jax.devices()[:1])
        parts = assemble_run(self.experiment, prepared.tokenizers.vocabularies, mesh)
        self.model = parts.model
        self.first = jax.tree.map(np.asarray, jax.jit(parts.init)(jax.random.key(0)))
        self.step = make_step(self.model, parts.optimizer, self.experiment, mesh, shardings(parts.state))

    @property
    def state(self):
        """The first one; a step eats its state, so that each asking makes another."""
        return jax.tree.map(jnp.array, self.first)

    def batch(self, number: int):
        examples = np.argsort(self.split["target"].lengths, kind="stable")[number * 8 : number * 8 + 7]
        # Rows in order of length, the last one empty: the parts of the batch hold very different numbers of tokens.
        planned = PlannedBatch(Shape(8, 12, 12), examples[[0, 6, 1, 5, 2, 4, 3]], np.arange(7))
        return assemble(planned, self.split)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_whole_batch_whatever_the_token_counts(data, parts):
    options = {"optimizer__name": "sgd", "optimizer__learning_rate": 0.1, "train__z_loss": 1e-3}
    whole, accumulated = (Update(data, "transformer", train__accumulate=n, **options) for n in (1, parts))
    tokens = whole.batch(2)["weights"].sum(axis=1).reshape(-1, parts).sum(axis=0)
    assert len(set(tokens)) > 1, "the parts must differ"
    a, b = whole.state, accumulated.state
    for number in (2, 5, 9):
        a, metrics = whole.step(a, whole.batch(number))
        b, same = accumulated.step(b, accumulated.batch(number))
        assert metrics.keys() == same.keys()
        for name in metrics:
            np.testing.assert_allclose(float(same[name]), float(metrics[name]), rtol=2e-6, err_msg=name)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def update(data):
    """With dropout, and with a moving average that soon forgets."""
    options = {"optimizer__warmup_steps": 0, "optimizer__schedule": "constant"}
    return Update(data, model__dropout=0.3, train__ema_decay=0.25, **options)


def test_dropout_is_drawn_anew_at_every_step_and_the_same_at_the_same(update):
    batch = update.batch(5)

    def loss(step: int) -> float:
        return float(update.step(dataclasses.replace(update.state, step=jnp.int32(step)), batch)[1]["loss"])

    first, second, again = loss(7), loss(8), loss(7)
    assert first == again and abs(first - second) > 1e-3


def test_the_moving_average_forgets_the_first_parameters_faster(update):
    expected, state = update.first.params, update.state
    for i, decay in enumerate((1 / 10, 2 / 11, 0.25, 0.25)):
        state, _ = update.step(state, update.batch(i))
        expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * np.asarray(p), expected, state.params)
    for a, b in zip(jax.tree.leaves(state.ema), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert state.best_params is state.ema
    assert max(float(np.abs(np.asarray(a) - np.asarray(p)).max()) for a, p in zip(
        jax.tree.leaves(state.ema), jax.tree.leaves(state.params), strict=True)) > 1e-3  # fmt: skip


def test_an_update_counts_its_cells_and_its_tokens(update):
    batch = update.batch(0)
    counted = jax.tree.map(np.asarray, update.step(update.state, batch)[1])
    assert counted["cells"] == 8 * 24
    assert counted["filled"] == (batch["inputs"] > 0).sum() + (batch["targets"] > 0).sum()
    assert counted["weight"] == (batch["targets"] > 0).sum()


# ---- Validation ----


@pytest.mark.parametrize("devices", [1, 8])
def test_the_validation_loss_counts_every_example_once(tmp_path, devices):
    """Also those over the length limits, and over the token budget, that training leaves out."""
    data = write_text(tmp_path, held_out=21)
    long = "abc" * 20
    write_split(data, "validation", ["ab", long, "cd", "fedc", ""], ["ba", long[::-1], "dc", "cdef", "a"])
    experiment = tiny(data, batching__max_source_length=12, batching__max_target_length=12, batching__tokens=48)
    prepared = prepare(experiment.data, experiment.tokenizer)
    split = prepared.splits["validation"]
    ports = experiment.task.ports(*prepared.tokenizers.vocabularies)
    model = models.build("transformer", experiment.model, ports, precision=Precision.FLOAT32)
    params = random_state(experiment, 1, prepared.tokenizers.source.vocab_size).params
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:devices])
    value = Evaluator(Single(model, Precision.FLOAT32), experiment, split, mesh)(
        jax.device_put(params, sharding.replicated(mesh))
    )

    nll = tokens = 0.0
    sums = jax.jit(lambda p, batch: loss_sums(model, p, batch, LossOptions(chunk=64), dropout_key=None))
    for i in range(len(split)):
        alone = assemble(PlannedBatch(Shape(1, 64, 64), np.array([i]), np.array([0])), split)
        nll, tokens = nll + float(sums(params, alone).nll), tokens + len(split["target"][i])
    assert len(split) == 5
    assert value["nll"] / value["weight"] == pytest.approx(nll / tokens, rel=1e-5) and value["weight"] == tokens


DEEP = {"model__width": 64, "model__hidden": 128, "model__layers": 8, "model__scan": True}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_validation_leaves_no_parameters_behind(data, tmp_path, monkeypatch, precision):
    """Those that it decodes with are whole on each device, or rounded: neither may stay while training goes on."""
    held: dict[str, list[float]] = {}

    def on_one_device():
        gc.collect()
        sizes = ((math.prod(x.sharding.shard_shape(x.shape)), x.dtype.itemsize) for x in jax.live_arrays())
        return sum(count * size for count, size in sizes)

    def watched(name):
        method = getattr(Validator, name)

        def call(*args):
            before, size = on_one_device(), sum(leaf.nbytes for leaf in jax.tree.leaves(args[-1]))
            made = method(*args)
            held.setdefault(name, []).append((on_one_device() - before) / size)
            return made

        monkeypatch.setattr(Validator, name, call)

    watched("__init__")
    watched("__call__")
    options = {"evaluate__samples": 2, "decode__beam_size": 1, "decode__precision": precision, "mesh__fsdp": 8}
    train(tiny(data, "causal_lm", train__steps=2, evaluate__every_steps=1, **options, **DEEP), tmp_path / "run")
    assert len(held["__init__"]) == 1 and len(held["__call__"]) == 2
    assert max(held["__init__"] + held["__call__"]) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, sizes, saved",
    [
        ("causal_lm", DEEP, 0.7),
        ("transformer", {"model__scan": True, "model__encoder_layers": 3, "model__decoder_layers": 3}, 0),
        ("transformer", {"model__decoder_layers": 2}, 0),
        ("griffin", {"model__repeats": 8, "model__width": 64}, 0.5),
        ("gnmt", {"model__width": 64, "model__encoder_layers": 8, "model__decoder_layers": 8}, 0.4),
    ],
)
def test_a_validation_loss_gathers_a_layer_at_a_time(data, name, sizes, saved):
    """Not rematerialised; `saved` is how much less memory that takes in a stack that is deep, of all parameters."""
    experiment = tiny(data, name, mesh__fsdp=8, train__loss_chunk=16, **sizes)
    mesh, rules = sharding.make_mesh(experiment.mesh), models.family(name).sharding_rules(experiment.model)
    prepared = prepare(experiment.data, experiment.tokenizer)
    model, _, init, state = assemble_run(experiment, prepared.tokenizers.vocabularies, mesh)
    params = jax.device_put(init(jax.random.key(1)).params, shardings(state).params)
    losses, temporaries = [], []
    for by_layer in (True, False):
        evaluator = Evaluator(
            Single(model, Precision.FLOAT32), experiment, prepared.splits["validation"], mesh,
            gathered=functools.partial(gathering, mesh=mesh, rules=rules, by_layer=by_layer),
        )  # fmt: skip
        sums, seen = evaluator._sums, []
        evaluator._sums = lambda params, batch, sums=sums, seen=seen: seen.append(batch) or sums(params, batch)
        losses.append(evaluator(params)["nll"])
        temporaries.append(sums.lower(params, seen[0]).compile().memory_analysis().temp_size_in_bytes)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert temporaries[0] <= temporaries[1] - saved * size


def test_a_run_leaves_metrics_samples_plots_and_its_config(one_device, data, tmp_path, capsys):
    options = {"evaluate__decode": True, "evaluate__samples": 2, "decode__beam_size": 1, "decode__batch_size": 8}
    train(tiny(data, train__steps=2, decode__max_length_factor=1.0, **options), tmp_path)
    for name in ("learning_curves", "attention_1", "attention_2"):
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    (validation,) = records(tmp_path, "validation")
    assert {"loss", "bleu", "chrf", "exact_match"} <= validation.keys()
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 2
    log = capsys.readouterr().err
    for part in ("parameters, float32, on 1 cpu device", "batches an epoch", "1 shape: ", "padding", "step 2/2", "eta"):
        assert part in log
    assert "warning: config.optimizer.warmup_steps is 4, but training has 2 steps" in log and "| smoothed loss" in log
    assert "best checkpoint: step 2, validation loss" in log and f"s2sjax decode --workdir={tmp_path} " in log
    assert {"step", "kind", "loss", "perplexity", "tokens_per_second", "padding", "learning_rate",
            "gradient_norm"} <= records(tmp_path)[0].keys()  # fmt: skip
    assert (tmp_path / "config.json").is_file() and (tmp_path / "tokenizer").is_dir()
    assert list((tmp_path / "tensorboard").iterdir())


# ---- What can go wrong ----


def test_a_loss_that_is_not_a_number_ends_the_run_with_advice(one_device, data, tmp_path):
    options = {"optimizer__name": "sgd", "optimizer__learning_rate": 1e30, "optimizer__warmup_steps": 0}
    message = r"the (loss|update's norm) is (nan|inf) at step 3.*lower config.optimizer.learning_rate"
    with pytest.raises(UserError, match=message):
        train(small(data, faults__max_skips=2, faults__max_rollbacks=1, **options), tmp_path)
    assert not list((tmp_path / "checkpoints").glob("[0-9]*")), "no broken state is saved"


def test_a_workdir_of_another_config_is_refused_with_both_values(one_device, data, finished):
    other = small(data, train__steps=2, seed=3, optimizer__learning_rate=0.5)
    message = "config.optimizer.learning_rate was 0.01 and is 0.5; config.seed was 0 and is 3. Use these values, or"
    before = (finished / "config.json").read_bytes()
    with pytest.raises(UserError, match=message):
        train(other, finished)
    assert (finished / "config.json").read_bytes() == before


def test_another_model_in_a_workdir_is_refused(one_device, data, finished):
    with pytest.raises(UserError, match="config.model.name was 'lstm_lm' and is 'rnn_seq2seq'"):
        train(tiny(data, "rnn_seq2seq", train__steps=2), finished)


def test_what_may_change_may_change(one_device, data, finished, tmp_path, capsys):
    """More steps, another log, another place of the data, other decoding."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(data, tmp_path / "moved")
    options = {"train__log_every": 2, "decode__beam_size": 2, "evaluate__every_steps": 3, "checkpoint__keep_last": 1}
    assert train(small(tmp_path / "moved", train__steps=4, **options), tmp_path / "run") == 0
    assert read_state(tmp_path / "run")["step"] == 4
    log = capsys.readouterr().err
    assert "resuming at step 2" in log
    assert [r["step"] for r in records(tmp_path / "run")] == [1, 2, 4]
    losses = [r["loss"] for r in records(tmp_path / "run", "validation")]
    lower = [now for n, now in enumerate(losses) if n and now < min(losses[:n])]
    assert lower and re.findall(r"new best loss ([\d.]+): before", log) == [f"{loss:.4f}" for loss in lower]


def test_a_finished_run_has_nothing_to_do(one_device, data, finished, capsys):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert train(small(data, train__steps=2), finished) == 0
    assert "nothing to do: this run is at step 2 of 2; raise config.train.steps" in capsys.readouterr().err
    assert train(small(data, train__steps=1), finished) == 0  # and its config stays as it is
    assert "nothing to do: this run is at step 2 of 1" in capsys.readouterr().err
    for path, content in before.items():
        assert path.read_bytes() == content or "tensorboard" in str(path) or path.name == "events.jsonl"


def test_other_data_under_a_run_is_refused(one_device, data, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    other = write_text(tmp_path / "other", seed=5)
    write_split(other, "train", ["xyz", "zyx"], ["zyx", "xyz"])
    message = r"training data .*other.* is not what .* was trained on; restore it .*it has blank lines"
    with pytest.raises(UserError, match=message):
        train(small(other, train__steps=4), tmp_path / "run")


def test_a_directory_that_is_no_run_is_left_alone(one_device, data, tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(UserError, match="is not empty and has no config.json, so it is no run; use another workdir"):
        train(tiny(data), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_logs_may_be_in_a_workdir_before_the_run_is(data, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "process-0.log").write_text("starting")
    check_workdir(tiny(data), tmp_path)


def test_a_workdir_that_cannot_be_made_is_a_users_error(one_device, data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*file/run.*choose another --workdir"):
        train(tiny(data), tmp_path / "file" / "run")


def test_a_batch_that_the_devices_cannot_share_is_a_users_error(data, tmp_path):
    with pytest.raises(UserError, match=r"config.batching.tokens 24 does not hold|not divisible by"):
        train(tiny(data, batching__tokens=24), tmp_path / "budget")
    with pytest.raises(UserError, match=r"(24|16|32) .*(data shards times config.train.accumulate)"):
        train(tiny(data, train__accumulate=3), tmp_path / "parts")


def test_sentences_over_the_limit_are_counted_and_left_out(one_device, data, tmp_path, capsys):
    train(tiny(data, batching__max_source_length=7, train__steps=1), tmp_path)
    sources = (data / "train.src").read_text().splitlines()
    over = sum(len(line) + 1 > 7 for line in sources)
    assert 0 < over < len(sources)
    assert (
        f"{over} of {len(sources)} training examples are over 7 source or 256 target tokens" in capsys.readouterr().err
    )


def test_limits_that_leave_nothing_are_a_users_error(one_device, data, tmp_path):
    with pytest.raises(UserError, match=r"none of the 90 examples is within config.batching.max_source_length 1"):
        train(tiny(data, batching__max_source_length=1), tmp_path)


def test_empty_data_is_a_users_error(one_device, tmp_path):
    data = write_text(tmp_path / "data")
    for split in ("validation", "train"):
        write_split(data, split, [], [])
        with pytest.raises(UserError, match=f"split '{split}' has no examples"):
            train(tiny(data), tmp_path / split)


def test_the_window_averages_over_tokens_not_over_steps(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    window = loop.Window(Text().summary)
    common = {"gradient_norm": 1.0, "cells": 40.0, "filled": 30.0, "taken": 1.0}
    window.add({"loss": 10.0, "nll": 10.0, "weight": 10.0, "correct": 5.0, **common})
    window.add({"loss": 90.0, "nll": 60.0, "weight": 30.0, "correct": 25.0, **common, "gradient_norm": 3.0})
    window.add({**common, "loss": math.nan, "nll": math.nan, "weight": 7.0, "correct": 0.0, "taken": 0.0})
    window.skip(6.0)
    clock[0] = 10.0
    expected = {"loss": 2.5, "perplexity": math.exp(70 / 40), "accuracy": 0.75, "tokens_per_second": 10.0,
                "padding": 0.25, "gradient_norm": 2.0, "skipped": 1}  # fmt: skip
    assert window.summary() == pytest.approx(expected)
    assert window.summary() == {"skipped": 0}


def test_a_mistake_in_the_data_leaves_no_run_behind(one_device, data, tmp_path):
    with pytest.raises(UserError, match="does not hold 8 rows"):
        train(tiny(data, batching__row_multiple=8, batching__tokens=8), tmp_path / "run")
    assert not (tmp_path / "run").exists()
