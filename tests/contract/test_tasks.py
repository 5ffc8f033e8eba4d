"""What every task keeps, found by walking `s2sjax/tasks/`, on a dozen texts and a tiny model each."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from s2sjax import sharding, tasks
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.data.prepare import prepare
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment, config_dict, resolve
from s2sjax.inference.likelihood import bound
from s2sjax.learning.state import Params
from s2sjax.ops.losses import LossOptions
from s2sjax.runs.assembly import assemble_run, build_scorer
from s2sjax.runs.evaluate import make_predictor
from s2sjax.runs.loading import load
from s2sjax.training.loop import train
from tests.tiny import (
    assert_same_state,
    compiling_once,
    on_devices,
    random_state,
    read_state,
    s2s,
    tiny,
    write_run,
    write_split,
)
from tests.tolerance import allowed
from tests.training.test_loop import train_with_interruptions

WORDS = ("ab", "ba", "cad", "dace", "f", "fade", "beef", "deaf", "ebb", "facade")


class Case(NamedTuple):
    """What a task learns here: the family that learns it, a target for each of `WORDS`, other settings."""

    family: str
    targets: Sequence[str]
    settings: Mapping[str, Any] = {}


CASES = {
    "text": Case("transformer", [word[::-1] for word in WORDS]),
    "language": Case(
        "causal_lm", WORDS, {"data__source": "", "data__target": "{split}.tgt", "task__context": 4, "task__stride": 2}
    ),
    "tagging": Case(
        "rnn_encoder",
        [" ".join("VC"[letter not in "ae"] + word[0] for letter in word) for word in WORDS],
        {"data__target": "{split}.tgt"},
    ),
    "classification": Case("rnn_seq2seq", [f"begins with {word[0]}" for word in WORDS]),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
    """A task with its examples, and a model that has learned nothing."""

    experiment: Experiment
    prepared: Any
    examples: Any
    model: Any
    params: Params

    @functools.cached_property
    def sums(self):
        """Compiled: sums of the loss over a batch."""
        apply_to = lambda params, batch: self.experiment.task.loss(  # noqa: E731
            bound(self.model, params, dropout_key=None), batch, LossOptions(chunk=8), train=False
        )
        return jax.jit(apply_to)


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    with compiling_once(tmp_path_factory.mktemp("xla")):
        yield


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("tasks")


def experiment_of(name: str, directory, **changes) -> Experiment:
    case, data = CASES[name], directory / name
    if not data.exists():
        for split in ("train", "validation", "test"):
            write_split(data, split, WORDS, case.targets)
    return tiny(data, case.family, task__name=name, **{"batching__buckets": 1, **case.settings, **changes})


@functools.lru_cache
def made(name: str, directory) -> Made:
    experiment = experiment_of(name, directory)
    task = experiment.task
    prepared = prepare(experiment.data, task.tokenizer(experiment.tokenizer), rows=task.rows)
    examples = task.arrange(prepared.splits["train"])
    mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:1])
    model, _, _, state = assemble_run(experiment, prepared.tokenizers.vocabularies, mesh)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape, np.float32), state.params)
    return Made(experiment, prepared, examples, model, params)


@pytest.fixture(params=tasks.names())
def subject(request, directory) -> Made:
    return made(request.param, directory)


def batch_of(subject: Made, rows: Sequence[Sequence[int]], *, wider: int = 0) -> dict[str, np.ndarray]:
    """A batch whose rows hold these examples, each row so much wider than it need be."""
    reads, writes = subject.experiment.task.lengths(subject.examples)
    width = [max(int(lengths[list(row)].sum()) for row in rows) + wider for lengths in (reads, writes)]
    width[0] *= bool(reads.any())
    numbers = np.array([i for row in rows for i in row])
    places = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    planned = PlannedBatch(Shape(len(rows) + bool(wider), *width), numbers, places)
    return subject.experiment.task.batch(planned, subject.examples)


def assert_same_sums(subject: Made, one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    expected, found = subject.sums(subject.params, one), subject.sums(subject.params, other)
    limits = allowed(lambda params: subject.sums(params, one), subject.params)
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=float(limits[key]) + 1e-30, err_msg=key)


def test_every_task_is_tried():
    assert CASES.keys() == set(tasks.names())
    assert all(tasks.named(name).name == name for name in tasks.names())


def test_a_config_shows_what_applies_to_its_task(subject):
    experiment = subject.experiment
    config = config_dict(experiment)
    assert {*config.task} == {"name", *(field.name for field in dataclasses.fields(experiment.task))}
    assert {*config.decode} == {field.name for field in dataclasses.fields(type(experiment.task).decode)}
    assert resolve(config) == experiment


def test_what_is_encoded_comes_back(subject):
    experiment, split = subject.experiment, subject.prepared.splits["train"]
    targets = [subject.prepared.tokenizers.target.decode(split["target"][i]) for i in range(len(split))]
    assert targets == list(CASES[experiment.task.name].targets)
    if "source" in experiment.task.columns:
        sources = [subject.prepared.tokenizers.source.decode(split["source"][i]) for i in range(len(split))]
        assert sources == list(WORDS)


def test_every_target_is_predicted_once(subject):
    every = range(len(subject.examples))
    weights = batch_of(subject, [[i] for i in every])["weights"].sum()
    assert weights == subject.prepared.splits["train"]["target"].lengths.sum()


def test_padding_is_invisible(subject):
    rows = [[0], [1], [2], [3]]
    assert_same_sums(subject, batch_of(subject, rows), batch_of(subject, rows, wider=5))


def test_packed_equals_bucketed(subject):
    assert_same_sums(subject, batch_of(subject, [[0], [1], [2], [3]]), batch_of(subject, [[0, 1], [2, 3]]))


def test_a_prediction_does_not_depend_on_the_others(subject):
    experiment, mesh = subject.experiment, sharding.make_mesh(subject.experiment.mesh, jax.devices()[:1])
    scorer = build_scorer(experiment, subject.prepared.tokenizers.vocabularies, "float32")
    predict = make_predictor(experiment, scorer, subject.params, subject.prepared.tokenizers, mesh)
    texts = list(WORDS[:5])
    together = predict(texts).result
    for text, found in zip(texts, together, strict=True):
        (alone,) = predict([text]).result
        assert [h.text for h in alone] == [h.text for h in found]
        assert [h.score for h in alone] == pytest.approx([h.score for h in found], abs=1e-4)


@pytest.mark.parametrize("command", ["score", "align", "rerank", "tag", "nonsense"])
@pytest.mark.parametrize("name", tasks.names())
def test_a_command_that_a_task_does_not_offer_names_the_tasks_that_do(name, command):
    offering = [each for each in tasks.names() if command in tasks.named(each).offers]
    if name in offering:
        tasks.check_offers(tasks.named(name)(), command, "run")
        return
    with pytest.raises(UserError, match=f"the task {name}, which does not offer {command}") as told:
        tasks.check_offers(tasks.named(name)(), command, "run")
    assert all(each in str(told.value) for each in offering)


def test_a_language_model_of_plain_text_aligns_and_judges_nothing_given_a_source(directory, tmp_path, capsys):
    experiment = experiment_of("language", directory)
    run = write_run(tmp_path / "run", experiment, {1: (random_state(experiment, 0), {"loss": 1.0})})
    (tmp_path / "lines").write_text("ab\n")
    assert s2s("align", f"--workdir={run}", f"--source={tmp_path / 'lines'}", f"--target={tmp_path / 'lines'}") == 2
    assert "does not offer align: choose a run of classification or text" in capsys.readouterr().err
    assert s2s("rerank", f"--channel={run}:1", f"--input={tmp_path / 'lines'}") == 2
    assert "is a language model, and has no source to score" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", tasks.names())
def test_an_interrupted_run_equals_one_left_alone(name, directory, tmp_path, monkeypatch):
    on_devices(monkeypatch, 1)
    experiment = experiment_of(name, directory, train__steps=12, checkpoint__every_steps=5)
    assert train(experiment, tmp_path / "alone") == 0
    assert train_with_interruptions(experiment, tmp_path / "stopped", 3, 7) == 3
    assert_same_state(tmp_path / "alone", tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("name", tasks.names())
def test_accumulation_and_eight_devices_equal_the_whole(name, directory, tmp_path, monkeypatch):
    plain = {"train__steps": 3, "optimizer__name": "sgd", "optimizer__learning_rate": 0.1, "batching__row_multiple": 8}
    states = []
    for number, (devices, changes) in enumerate([(1, {}), (1, {"train__accumulate": 2}), (8, {})]):
        with pytest.MonkeyPatch.context() as patch:
            on_devices(patch, devices)
            assert train(experiment_of(name, directory, **plain, **changes), tmp_path / str(number)) == 0
        states.append(read_state(tmp_path / str(number)))
    for other in states[1:]:
        for key, value in states[0].items():
            if key.startswith("params/"):
                np.testing.assert_allclose(other[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", tasks.names())
def test_ten_examples_are_learned_by_heart(name, directory, tmp_path, monkeypatch):
    on_devices(monkeypatch, 1)
    learned = {"train__steps": 200, "train__label_smoothing": 0.0, "optimizer__schedule": "constant"}
    assert train(experiment_of(name, directory, **learned), tmp_path / "run") == 0
    run = load(tmp_path / "run")
    assert run.experiment.task.name == name
    if "source" in run.experiment.task.columns:
        assert [found[0].text for found in run.decode(WORDS)] == list(CASES[name].targets)
        if name == "tagging":
            with pytest.raises(UserError, match="does not offer tag: choose a run of language or text; what this one"):
                run.tag(["ab"])
        assert run.with_config(**{"evaluate.metrics": ("accuracy",)}).evaluate("test")["accuracy"] == 100
    else:
        # After their first tokens, the texts are known.
        assert run.evaluate("test")["loss"] < math.log(run.tokenizers.target.vocab_size) / 2
