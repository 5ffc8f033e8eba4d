"""Averaged checkpoints: the numbers, the run they become, and what is refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import s2sjax
from s2sjax import experiment as experiments
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.errors import UserError
from s2sjax.runs.average import Choice, average
from s2sjax.training.loop import train
from tests.tiny import compiling_once, on_devices, random_state, read_state, tiny, write_run, write_text

LOSSES = {100: 3.0, 200: 1.0, 300: 2.0, 400: 5.0}


@pytest.fixture(scope="module", autouse=True)
def setting(tmp_path_factory):
    with compiling_once(tmp_path_factory.mktemp("xla")), pytest.MonkeyPatch.context() as patch:
        on_devices(patch, 1)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("average") / "data", train=8, held_out=4)


@pytest.fixture(scope="module")
def run(data, setting):
    """A run with four checkpoints of random parameters. The newest has not been evaluated."""
    experiment = tiny(data, "hmm", checkpoint__keep_last=4, decode__checkpoint="100", decode__beam_size=2)
    states = {step: random_state(experiment, step) for step in LOSSES}
    evaluated = {step: {"loss": loss} if step < 400 else {} for step, loss in LOSSES.items()}
    return write_run(data.parent / "run", experiment, {step: (states[step], evaluated[step]) for step in LOSSES})


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


def parameters(workdir: Path, step: int | None = None, part: str = "params") -> dict[str, np.ndarray]:
    return {path: array for path, array in read_state(workdir, step).items() if path.startswith(f"{part}/")}


def weighted(run: Path, weights: dict[int, float], part: str = "params") -> dict[str, np.ndarray]:
    """The weighted mean, from the definition."""
    states = {step: parameters(run, step, part) for step in weights}
    return {
        path: sum(w * states[step][path].astype(np.float64) for step, w in weights.items()) / sum(weights.values())
        for path in next(iter(states.values()))
    }


def assert_holds(output: Path, step: int, expected: dict[str, np.ndarray]) -> None:
    """The new run has one checkpoint, with these parameters and nothing else."""
    assert [path.name for path in (output / "checkpoints").iterdir() if path.is_dir()] == [str(step)]
    found = read_state(output)
    assert found.keys() == expected.keys()
    for path, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[path].astype(np.float32), err_msg=path)


def test_the_average_of_one_is_itself_to_the_last_bit(run, tmp_path):
    made = average(run, tmp_path / "out", Choice(last=1))
    assert made.weights == {400: 1.0}
    before, after = parameters(run, 400), read_state(tmp_path / "out")
    assert all(before[path].tobytes() == after[path].tobytes() for path in before | after)


def test_the_last_three_are_what_numpy_says(run, tmp_path):
    average(run, tmp_path / "out", Choice(last=3))
    states = [parameters(run, step) for step in (200, 300, 400)]
    expected = {path: np.mean([s[path] for s in states], axis=0, dtype=np.float64) for path in states[0]}
    assert_holds(tmp_path / "out", 400, expected)


def test_the_best_two_are_those_with_the_smallest_loss(run, tmp_path):
    made = average(run, tmp_path / "out", Choice(best=2))
    assert made.weights == {200: 0.5, 300: 0.5} and made.rule == "best 2 by loss"
    assert_holds(tmp_path / "out", 300, weighted(run, {200: 1.0, 300: 1.0}))


def test_an_ema_weighs_each_checkpoint_by_its_decay_times_the_next(run, tmp_path):
    made = average(run, tmp_path / "out", Choice(ema=0.5))
    assert made.weights == pytest.approx({100: 1 / 15, 200: 2 / 15, 300: 4 / 15, 400: 8 / 15})
    assert_holds(tmp_path / "out", 400, weighted(run, {100: 1.0, 200: 2.0, 300: 4.0, 400: 8.0}))


def test_of_a_run_with_a_moving_average_that_is_what_is_averaged(data, tmp_path):
    experiment = tiny(data, "hmm", train__ema_decay=0.9)
    states = {step: random_state(experiment, step) for step in (1, 2)}
    run = write_run(tmp_path / "run", experiment, {step: (states[step], {}) for step in (1, 2)})
    assert average(run, tmp_path / "out", Choice(last=2)).parameters == "ema"
    assert_holds(tmp_path / "out", 2, weighted(run, {1: 1.0, 2: 1.0}, "ema"))
    read = s2sjax.load(tmp_path / "out").params
    mean = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) + b) / 2, states[1].ema, states[2].ema)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32)), read, mean)


def test_the_new_run_is_opened_like_any_other_and_says_what_it_is_made_of(run, tmp_path):
    made = average(run, tmp_path / "out", Choice(last=2))
    opened = s2sjax.load(tmp_path / "out")
    assert opened.step == 400 and opened.decode(["abc"])[0][0].ids
    record = json.loads((tmp_path / "out" / "average.json").read_text())
    assert (record["workdir"], record["rule"], record["parameters"]) == (str(run), "last 2", "params")
    assert record["weights"] == {"300": 0.5, "400": 0.5}
    assert made.weights == {300: 0.5, 400: 0.5}
    again = average(tmp_path / "out", tmp_path / "of an average", Choice(last=1))
    assert again.weights == {400: 1.0}


@pytest.mark.parametrize("moment", ["steps", "arrays", "verify"])
def test_a_checkpoint_that_a_training_deletes_meanwhile_is_chosen_again(copy, tmp_path, monkeypatch, moment):
    """Between being chosen, looked at and read."""
    before = getattr(CheckpointReader, moment)

    def then_gone(self, *arguments, **options):
        found = before(self, *arguments, **options)
        shutil.rmtree(copy / "checkpoints" / "400", ignore_errors=True)
        return found

    monkeypatch.setattr(CheckpointReader, moment, then_gone)
    assert average(copy, tmp_path / "out", Choice(last=2)).weights == {200: 0.5, 300: 0.5}
    assert_holds(tmp_path / "out", 300, weighted(copy, {200: 1.0, 300: 1.0}))


def test_an_average_is_not_trained_on(run, data, tmp_path):
    average(run, tmp_path / "out", Choice(last=2))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="holds averaged parameters and no optimizer state"):
        train(experiments.load(tmp_path / "out" / "config.json"), tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "how, message",
    [
        ({"last": 5}, r"has 4 checkpoints \(100, 200, 300, 400\), of which the last 5 .*checkpoint.keep_last, here 4"),
        ({"best": 4}, r"has 3 checkpoints \(100, 200, 300\) with the metric 'loss'.*checkpoint.keep_best, here 1"),
        ({"last": 0}, "last is 0, expected at least 1"),
        ({"best": -1}, "best is -1, expected at least 1"),
        ({"ema": 1.0}, "ema is 1.0, expected a number above 0 and below 1"),
        ({"ema": float("nan")}, "ema is nan"),
        ({}, "exactly one of"),
        ({"last": 1, "ema": 0.5}, "exactly one of"),
    ],
    ids=str,
)
def test_what_cannot_be_averaged_is_refused(run, tmp_path, how, message):
    with pytest.raises(UserError, match=message):
        average(run, tmp_path / "out", Choice(**how))
    assert not list(tmp_path.iterdir())


def test_a_run_without_checkpoints_and_a_directory_that_is_no_run_are_refused(copy, tmp_path):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        average(copy, tmp_path / "out", Choice(last=1))
    with pytest.raises(UserError, match="is not a run directory"):
        average(tmp_path / "nothing", tmp_path / "out", Choice(last=1))


def test_a_damaged_checkpoint_is_refused_by_name(copy, tmp_path):
    arrays = (copy / "checkpoints" / "300" / "state").rglob("*")
    largest = max(arrays, key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    for how in ({"last": 3}, {"best": 2}, {"ema": 0.5}):
        with pytest.raises(UserError, match=r"checkpoint 300 in .* is damaged: file .*: checksum differs"):
            average(copy, tmp_path / "out", Choice(**how))
    average(copy, tmp_path / "newest", Choice(last=1))  # which does not need it
    (copy / "checkpoints" / "200" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"checkpoint 200 in .* is damaged: file manifest.json.*move it away"):
        average(copy, tmp_path / "out", Choice(last=1))
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_left_alone(run, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out exists already"):
        average(run, tmp_path / "out", Choice(last=1))
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match="cannot write .*Not a directory"):
        average(run, run / "config.json" / "out", Choice(last=1))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")], ids=["Ctrl-C", "disk"])
def test_an_interrupted_average_leaves_nothing(run, tmp_path, monkeypatch, error):
    def save(experiment, path):
        assert (path.parent / "checkpoints" / "400").is_dir(), "the config is written last: what has none is no run"
        raise error

    monkeypatch.setattr(experiments, "save", save)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else UserError):
        average(run, tmp_path / "out", Choice(last=2))
    assert not list(tmp_path.iterdir())
