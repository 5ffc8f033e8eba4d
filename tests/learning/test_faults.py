"""Steps that go wrong: what is never taken, what is skipped, what is given up, and that nobody can tell afterwards."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.checkpoints.checkpointer import Checkpointer
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.checkpoints.retention import CheckpointConfig
from s2sjax.errors import UserError
from s2sjax.learning import faults
from s2sjax.learning.faults import FaultsConfig, Health, healthy, judge
from s2sjax.runs.evaluate import Validator
from s2sjax.runs.workdir import check_workdir
from s2sjax.training import loop, setup, skipped
from s2sjax.training.loop import INTERRUPTED, train
from s2sjax.training.skipped import Skipped, read_skipped, write_skipped
from tests.tiny import assert_same_state, compiling_once, on_devices, read_state, records, write_text
from tests.training.test_loop import Update, small, terminated_at, train_with_interruptions

OPTIONS = {"model__dropout": 0.2, "train__ema_decay": 0.9, "train__steps": 16, "checkpoint__every_steps": 3}


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    with compiling_once(tmp_path_factory.mktemp("xla")), pytest.MonkeyPatch.context() as patch:
        on_devices(patch, 1)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("data"))


@pytest.fixture
def poison(monkeypatch):
    """`poison(11, 12)`: these batches of the data have weights that are not numbers from now on."""

    def poison(*numbers):
        batches = loop.pipeline.batches

        def poisoned(plan, split, asked, **options):
            for index, batch in zip(asked, batches(plan, split, asked, **options), strict=True):
                if plan.number(index) in numbers:
                    batch["weights"] = batch["weights"] * np.float32(np.nan)
                yield batch

        monkeypatch.setattr(loop.pipeline, "batches", poisoned)

    return poison


def events(workdir, kind):
    lines = map(json.loads, (workdir / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


# ---- The rule ----


@pytest.mark.parametrize(
    "config, updates, loss, norm, update, taken",
    [
        ({}, 100, 2.0, 1.0, 1.0, True),
        ({}, 100, 1e9, 1e9, 1.0, True),
        ({}, 0, np.nan, 1.0, 1.0, False),
        ({}, 100, 2.0, np.inf, 1.0, False),
        ({}, 100, 2.0, 1.0, np.nan, False),
        ({"loss_spike": 2.0}, 100, 4.0, 1e9, 1.0, True),
        ({"loss_spike": 2.0}, 100, 4.01, 1.0, 1.0, False),
        ({"loss_spike": 2.0}, 19, 4.01, 1.0, 1.0, True),
        ({"gradient_spike": 3.0}, 20, 9.0, 3.01, 1.0, False),
        ({"gradient_spike": 3.0}, 20, 9.0, 2.99, 1.0, True),
        ({"gradient_spike": 3.0}, 0, np.nan, 2.99, 1.0, False),
    ],
)
def test_an_update_is_taken_if_it_is_finite_and_no_spike(config, updates, loss, norm, update, taken):
    before = Health(jnp.int32(updates), jnp.uint32(0b101), jnp.float32(2), jnp.float32(1))
    verdict, after = judge(
        FaultsConfig(**config), before, loss=jnp.float32(loss), gradient_norm=jnp.float32(norm),
        update_norm=jnp.float32(update),
    )  # fmt: skip
    assert bool(verdict) is taken
    assert int(after.updates) == updates + taken and int(after.bad_steps) == 0b1010 + (not taken)
    if not taken:
        assert (float(after.loss), float(after.gradient_norm)) == (2, 1)


def test_what_is_usual_is_the_average_of_the_last_updates_and_bad_steps_are_forgotten_after_32():
    health, losses = healthy(), []
    for loss in (4.0, np.nan, 2.0, 3.0):
        norms = {"gradient_norm": jnp.float32(2 * loss), "update_norm": jnp.ones(())}
        _, health = judge(FaultsConfig(), health, loss=jnp.float32(loss), **norms)
        losses.append(float(health.loss))
    assert losses == [4, 4, 3, 3] and float(health.gradient_norm) == 6
    assert int(health.bad_steps) == 0b0100
    for _ in range(30):
        _, health = judge(
            FaultsConfig(), health, loss=jnp.ones(()), gradient_norm=jnp.ones(()), update_norm=jnp.ones(())
        )
    assert int(health.bad_steps) == 0


@pytest.mark.parametrize(
    "values, message",
    [
        ({"loss_spike": 0.5}, "config.faults.loss_spike is 0.5, but must be above 1"),
        ({"gradient_spike": np.inf}, "config.faults.gradient_spike is inf"),
        ({"max_skips": 32}, r"config.faults.max_skips is 32, but must be in 0..31"),
        ({"beyond_max_skips": "rollbck"}, "did you mean 'rollback'"),
        ({"max_rollbacks": -1}, "config.faults.max_rollbacks is -1"),
        ({"watchdog_seconds": -1.0}, "config.faults.watchdog_seconds is -1"),
        ({"watchdog_seconds": 0.01}, "config.faults.watchdog_seconds is 0.01, but must be at least 1, or 0 for none"),
    ],
)
def test_a_config_that_cannot_be_is_a_users_error(values, message):
    with pytest.raises(UserError, match=message):
        FaultsConfig(**values)


def test_the_least_that_a_config_may_say_is_taken():
    least = {"watchdog_seconds": 1.0, "max_skips": 0, "max_rollbacks": 0, "loss_spike": 1.01, "gradient_spike": 1.01}
    assert all(getattr(FaultsConfig(**least), name) == value for name, value in least.items())
    FaultsConfig(**dict.fromkeys(least, 0))


def copied(tree):
    return jax.tree.map(np.array, tree)


def test_a_step_that_is_not_a_number_leaves_parameters_optimizer_and_average_as_they_were(data):
    update = Update(data, train__ema_decay=0.9, optimizer__clip_norm=1.0)
    state, _ = update.step(update.state, update.batch(2))
    before, batch = copied(state), update.batch(5)
    batch["weights"][0, 0] = np.nan
    state, metrics = update.step(state, batch)
    after = copied(state)
    assert not metrics["taken"] and np.isnan(metrics["loss"])
    assert (after.step, after.health.updates, after.health.bad_steps) == (2, 1, 1)
    untouched = lambda s: (s.params, s.opt_state, s.ema, s.health.loss, s.health.gradient_norm)  # noqa: E731
    for a, b in zip(jax.tree.leaves(untouched(after)), jax.tree.leaves(untouched(before)), strict=True):
        np.testing.assert_array_equal(a, b)
    state, metrics = update.step(state, update.batch(5))
    assert metrics["taken"] and all(np.isfinite(x).all() for x in jax.tree.leaves(copied(state)))


def test_an_update_too_large_for_float32_is_not_taken(data):
    update = Update(data, optimizer__name="sgd", optimizer__learning_rate=1e38, optimizer__warmup_steps=0)
    before = copied(update.state.params)
    state, metrics = update.step(update.state, update.batch(2))
    assert np.isfinite(metrics["loss"]) and not metrics["taken"]
    for a, b in zip(jax.tree.leaves(copied(state.params)), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_spike_by_the_configs_rule_is_not_taken(data):
    update = Update(data, faults__loss_spike=3.0)
    health = Health(jnp.int32(50), jnp.uint32(0), jnp.float32(0.5), jnp.float32(1))
    state, metrics = update.step(dataclasses.replace(update.state, health=health), update.batch(2))
    assert not metrics["taken"] and float(state.health.loss) == 0.5
    said = faults.reason({name: float(value) for name, value in metrics.items()})
    assert said.startswith("the loss is 2.") and "where 0.5 is usual" in said


# ---- Skipping ----


@pytest.mark.slow
def test_bad_steps_are_skipped_counted_and_told_and_the_run_goes_on(data, poison, tmp_path, capsys):
    poison(4, 5, 9)
    experiment = small(data, **OPTIONS)
    assert train(experiment, tmp_path / "run") == 0
    state = read_state(tmp_path / "run")
    assert state["step"] == 16 and state["health/updates"] == 13
    assert all(np.isfinite(value).all() for value in state.values())
    lines = records(tmp_path / "run", "train")
    assert [line["skipped"] for line in lines] == [int(step in (5, 6, 10)) for step in range(1, 17)]
    assert [(e["step"], e["reason"]) for e in events(tmp_path / "run", "skip")] == [
        (step, "the loss is nan") for step in (5, 6, 10)
    ]
    assert "step 6 is skipped: the loss is nan; 2 of the last 32 were (config.faults.max_skips=10)" in (
        capsys.readouterr().err
    )

    # Interrupted before, at and after them, it ends with the same bits.
    assert train_with_interruptions(experiment, tmp_path / "stopped", 3, 5, 9) == 4
    assert_same_state(tmp_path / "run", tmp_path / "stopped")


def test_bad_steps_are_bounded_and_the_message_says_where_it_stands(data, poison, tmp_path):
    poison(*range(4, 16))
    experiment = small(data, faults__max_skips=2, faults__beyond_max_skips="stop", **OPTIONS)
    message = (
        r"the loss is nan at step 7, the last of more than 2 bad steps \(config.faults.max_skips\) among 7; no update "
        r"of them was taken \(last checkpoint: 6\): lower config.optimizer.learning_rate .*beyond_max_skips=rollback"
    )
    for _ in range(2):  # and again, when it is resumed
        with pytest.raises(UserError, match=message):
            train(experiment, tmp_path)
    assert read_state(tmp_path)["health/updates"] == 4
    assert "UserError: the loss is nan" in events(tmp_path, "stop")[-1]["reason"]


# ---- Rolling back ----


@pytest.fixture
def short_window(monkeypatch):
    monkeypatch.setattr(faults, "WINDOW", 11)


ROLLING = {**OPTIONS, "faults__max_skips": 2, "checkpoint__keep_last": 1}


def test_a_checkpoint_that_a_roll_back_could_go_to_is_always_kept(tmp_path):
    config = CheckpointConfig(keep_last=1, keep_best=0)
    with Checkpointer(tmp_path, config, going_back=faults.WINDOW) as checkpoints:
        for step in range(10, 130, 10):
            checkpoints.save(step, {"a": jnp.zeros(3)})
            checkpoints.wait()
            steps = checkpoints.steps()
            assert len(steps) <= 3 and step in steps
            assert steps[0] <= max(10, step - faults.WINDOW), steps


@pytest.fixture(scope="module")
def without(data, tmp_path_factory):
    """A run that never saw batches 4 to 14, of which 12 to 14 go wrong."""
    workdir = tmp_path_factory.mktemp("without") / "run"
    train(small(data, **ROLLING | {"train__steps": 1}), workdir)
    write_skipped(workdir, Skipped(((4, 15),), ()))
    assert train(small(data, **ROLLING), workdir) == 0
    return workdir


@pytest.mark.slow
def test_a_roll_back_ends_as_a_run_that_never_saw_the_batches_of_the_window(
    data, poison, short_window, without, tmp_path, capsys
):
    poison(12, 13, 14)
    assert train(small(data, **ROLLING), tmp_path) == 0
    assert_same_state(without, tmp_path)
    said = "roll-back 1 of at most 3 (config.faults.max_rollbacks): back to before step 5; batches 4 to 14 of the data"
    log = capsys.readouterr().err
    assert said in log and "resuming at step 3" in log
    assert read_skipped(tmp_path) == Skipped(((4, 15),), ("step 15: the loss is nan",))
    assert [e["step"] for e in events(tmp_path, "rollback")] == [4]
    assert [e["step"] for e in events(tmp_path, "train")] == [0, 3]
    assert [line["step"] for line in records(tmp_path, "train")] == [*range(1, 17)], "each step is on record once"
    assert sum(line["skipped"] for line in records(tmp_path, "train")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["discard_checkpoints", "write_skipped"])
def test_a_roll_back_that_a_kill_cuts_short_is_made_again(
    data, poison, short_window, without, tmp_path, monkeypatch, moment
):
    """The kill comes just after; and a request to stop at an odd step has left a checkpoint that nobody else has."""
    poison(12, 13, 14)
    with monkeypatch.context() as patch:
        act = getattr(skipped, moment)

        def act_and_die(*args, **options):
            act(*args, **options)
            raise KeyboardInterrupt

        patch.setattr(skipped, moment, act_and_die)
        with terminated_at(3):
            assert train(small(data, **ROLLING), tmp_path) == INTERRUPTED
        with pytest.raises(KeyboardInterrupt):
            train(small(data, **ROLLING), tmp_path)
    assert train_with_interruptions(small(data, **ROLLING), tmp_path, 12) == 2
    assert_same_state(without, tmp_path)
    assert len(read_skipped(tmp_path).roll_backs) == 1


def test_roll_backs_are_bounded(data, poison, short_window, tmp_path):
    poison(*range(4, 100))
    experiment = small(data, faults__max_rollbacks=2, **ROLLING)
    message = (
        r"the loss is nan at step 3, .*\(last checkpoint: none\), after 2 roll-backs \(config.faults.max_rollbacks\): "
        "the data is not to blame; lower config.optimizer.learning_rate"
    )
    with pytest.raises(UserError, match=message):
        train(experiment, tmp_path)
    assert read_skipped(tmp_path) == Skipped(((0, 7), (7, 10)), ("step 7: the loss is nan", "step 3: the loss is nan"))


@pytest.mark.parametrize("content", ["{", '{"left_out": [[3, 1]], "roll_backs": []}', '{"left_out": 7}'])
def test_a_damaged_record_of_what_is_left_out_is_a_users_error(tmp_path, content):
    (tmp_path / "skipped.json").write_text(content)
    with pytest.raises(UserError, match=r"skipped.json cannot be read .*says which batches this run does without"):
        read_skipped(tmp_path)


# ---- Requests to stop, in each phase ----


def ask(number=signal.SIGUSR1):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("phase", ["prepare", "training_plan", "claim_workdir"])
def test_a_request_while_there_is_nothing_to_save_ends_the_run_at_once(data, tmp_path, monkeypatch, capsys, phase):
    act = getattr(setup, phase)
    monkeypatch.setattr(setup, phase, lambda *args, **options: (ask(), act(*args, **options)))
    assert train(small(data), tmp_path / "run") == INTERRUPTED
    assert "stopped by SIGUSR1 where there was nothing to save; the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_request_while_restoring_ends_the_run_at_once(data, tmp_path, monkeypatch):
    restore = Checkpointer.restore
    monkeypatch.setattr(Checkpointer, "restore", lambda *args, **options: (ask(), restore(*args, **options)))
    assert train(small(data), tmp_path) == INTERRUPTED
    assert [e["reason"] for e in events(tmp_path, "stop")] == ["Stopped: by SIGUSR1"]


def test_a_run_directory_that_was_only_just_begun_is_begun_again(data, tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "config.tmp").write_text("{")
    check_workdir(small(data), tmp_path)


def test_a_request_while_the_step_is_compiled_saves_the_first_step(data, tmp_path, monkeypatch):
    options = OPTIONS | {"train__steps": 2}
    with monkeypatch.context() as patch:
        step = setup.make_step
        patch.setattr(setup, "make_step", lambda *args: (lambda f: lambda *xs: (ask(), f(*xs))[1])(step(*args)))
        assert train(small(data, **options), tmp_path) == INTERRUPTED
    assert read_state(tmp_path)["step"] == 1
    (preempted,) = events(tmp_path, "preempt")
    assert (preempted["step"], preempted["reason"]) == (1, "SIGUSR1")
    assert events(tmp_path, "stop")[-1]["reason"] == "preempted"
    assert train(small(data, **options), tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize("at", [4, 8])
def test_a_request_while_validating_saves_at_once_and_validates_when_resumed(data, tmp_path, monkeypatch, at):
    """In the middle, and at the last step."""
    experiment = small(data, **OPTIONS | {"train__steps": 8, "evaluate__every_steps": 4, "checkpoint__keep_last": 9})
    assert train(experiment, tmp_path / "alone") == 0
    with monkeypatch.context() as patch:
        validate = Validator.__call__

        def interrupted(self, step, params):
            if step == at:
                ask()
            return validate(self, step, params)

        patch.setattr(Validator, "__call__", interrupted)
        assert train(experiment, tmp_path / "stopped") == INTERRUPTED
    stopped = CheckpointReader(tmp_path / "stopped" / "checkpoints")
    assert stopped.latest_step() == at and not stopped.metrics(at)
    assert train(experiment, tmp_path / "stopped") == 0
    assert_same_state(tmp_path / "alone", tmp_path / "stopped")
    found, expected = (records(tmp_path / run, "validation") for run in ("stopped", "alone"))
    assert [(r["step"], r["loss"]) for r in found] == [(r["step"], r["loss"]) for r in expected]
    alone = CheckpointReader(tmp_path / "alone" / "checkpoints")
    assert stopped.steps() == alone.steps() == [3, 4, 6, 8]
    assert stopped.metrics(at) == alone.metrics(at) != {}
    assert stopped.unreadable() == [] and not list(stopped.directory.glob("damaged*"))
