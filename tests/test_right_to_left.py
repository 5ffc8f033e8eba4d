"""Runs that write their targets' last token first: everything outside of the model reads them as they are read.

With the same parameters, such a run says of a text what an ordinary run says of the text turned round.
"""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

import s2sjax
from s2sjax.cli import run_command
from s2sjax.data import pipeline
from s2sjax.data.examples import assemble
from s2sjax.data.plan import make_plan
from s2sjax.data.prepare import tokenize
from s2sjax.errors import UserError
from s2sjax.training.loop import train
from tests.tiny import on_one_device, random_state, tiny, write_run, write_split, write_text

OPTIONS = {
    "decode__method": "stochastic", "decode__samples": 3, "decode__batch_size": 8,
    "decode__max_length_factor": 0.0, "decode__max_length_offset": 6,
}  # fmt: skip
SOURCES = ["abcd", "", "fe"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("right_to_left")


@pytest.fixture(scope="module", autouse=True)
def setting(place):
    with on_one_device(place):
        yield


def turned(texts):
    return [text[::-1] for text in texts]


@pytest.fixture(scope="module")
def runs(place, setting):
    """The same parameters twice: left to right and right to left."""
    made = []
    for order in ("left_to_right", "right_to_left"):
        data = write_text(place / order, train=40, held_out=12, longest=6)
        if order == "left_to_right":
            for split in ("train", "validation", "test"):
                lines = {side: (data / f"{split}.{side}").read_text().split("\n")[:-1] for side in ("src", "tgt")}
                write_split(data, split, lines["src"], turned(lines["tgt"]))
        experiment = tiny(data, task__target_order=order, **OPTIONS)
        checkpoints = {1: (random_state(experiment, seed=0), {"loss": 1.0})}
        made.append(write_run(place / "runs" / order, experiment, checkpoints))
    return [s2sjax.load(workdir) for workdir in made]


def test_hypotheses_are_in_reading_order_and_score_what_decoding_said(runs):
    plain, run = runs
    found = run.decode(SOURCES)
    for ours, theirs in zip(found, plain.decode(SOURCES), strict=True):
        assert [h.ids[:-1] for h in ours] == [h.ids[:-1][::-1] for h in theirs]
        assert [h.tokens[:-1] for h in ours] == [h.tokens[:-1][::-1] for h in theirs]
        np.testing.assert_allclose([h.score for h in ours], [h.score for h in theirs], atol=1e-5)
        for h in filter(lambda h: h.ids, ours):
            assert h.tokens[-1] == "</s>"
            assert h.text == "".join(token for token in h.tokens if len(token) == 1)
    assert any(h.text != h.text[::-1] for hypotheses in found for h in hypotheses)
    sources = [source for source, hypotheses in zip(SOURCES, found, strict=True) for _ in hypotheses]
    hypotheses = [h for listed in found for h in listed]
    *scores, of_text = run.score([*sources, "fab"], [*hypotheses, "abcde"])
    np.testing.assert_allclose(scores, [h.score for h in hypotheses], atol=1e-4)
    *_, of_turned_text = plain.score([*sources, "fab"], [*hypotheses, "edcba"])
    assert of_text == pytest.approx(of_turned_text, abs=1e-5)


@pytest.mark.slow
def test_what_is_said_of_tokens_stands_beside_them(runs):
    plain, run = runs
    for ours, theirs in zip(run.explain(SOURCES, run.decode(SOURCES)), plain.explain(SOURCES, plain.decode(SOURCES)),
                            strict=True):  # fmt: skip
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine.token_log_probs[:-1], other.token_log_probs[:-1][::-1], atol=1e-5)
            np.testing.assert_allclose(mine.token_log_probs[-1:], other.token_log_probs[-1:], atol=1e-5)
            attention, reversed_attention = mine.alignment.attention, other.alignment.attention
            np.testing.assert_allclose(attention[:-1], reversed_attention[:-1][::-1], atol=1e-5)
            np.testing.assert_allclose(attention[-1:], reversed_attention[-1:], atol=1e-5)
            assert mine.alignment.target_tokens[:-1] == other.alignment.target_tokens[:-1][::-1]


@pytest.mark.slow
def test_evaluation_reads_the_targets_turned_round(runs):
    plain, run = runs
    ours, theirs = run.evaluate("test"), plain.evaluate("test")
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    data = run.workdir.parent.parent / "right_to_left"
    lines = [(data / f"test.{side}").read_text().split() for side in ("src", "tgt")]
    tokens = sum(len(target) + 1 for target in lines[1])
    assert ours["loss"] == pytest.approx(-sum(run.score(*lines)) / tokens, rel=1e-5)


@pytest.mark.slow
def test_packed_and_bucketed_batches_agree(runs):
    _, run = runs
    experiment = run.experiment
    split = tokenize(experiment.data, run.tokenizers, "train", rows=experiment.task.rows)
    nll = jax.jit(lambda params, batch: run.predictor.scorer.nll(params, batch, chunk=64, shards=1))
    sums = []
    for kind in ("bucket", "pack"):
        batching = dataclasses.replace(experiment.batching, kind=kind)
        plan = make_plan(split["source"].lengths, split["target"].lengths, batching, seed=0)
        stream = pipeline.batches(plan, functools.partial(assemble, split=split), range(plan.batches_per_epoch))
        sums.append(sum(float(nll(run.params, batch)) for batch in stream))
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    data = run.workdir.parent.parent / "right_to_left"
    lines = [(data / f"train.{side}").read_text().split() for side in ("src", "tgt")]
    assert sums[0] == pytest.approx(-sum(run.score(*lines)), rel=1e-5)


def test_a_prefix_would_be_a_suffix_and_is_refused(runs, tmp_path, capsys):
    _, run = runs
    for name, text in (("in", "abc\n"), ("prefix", "a\n")):
        (tmp_path / name).write_text(text)
    arguments = [f"--workdir={run.workdir}", f"--input={tmp_path / 'in'}", f"--prefix={tmp_path / 'prefix'}"]
    with pytest.raises(SystemExit) as stopped:
        run_command(["decode", *arguments])
    assert stopped.value.code == 2
    assert "config.task.target_order='right_to_left'" in (said := capsys.readouterr().err) and "be a suffix" in said


def test_the_two_directions_make_no_ensemble(runs):
    plain, run = runs
    with pytest.raises(UserError, match="config.task.target_order='right_to_left' and not 'left_to_right'.*rerank"):
        s2sjax.load(plain.workdir, ensemble=[run.workdir])


@pytest.mark.slow
def test_tags_stand_beside_their_tokens(runs, place):
    states = []
    for run, text in zip(runs, ("edcba", "abcde"), strict=True):
        experiment = tiny(place, "hmm", task__target_order=run.experiment.task.target_order)
        workdir = place / "tagged" / experiment.task.target_order
        checkpoints = {1: (random_state(experiment, seed=3), {"loss": 1.0})}
        (tagged,) = s2sjax.load(write_run(workdir, experiment, checkpoints)).tag([text])
        assert [token for token, _ in tagged] == [*text, "</s>"]
        states.append([state for _, state in tagged])
    assert states[1] == [*states[0][:-1][::-1], states[0][-1]] and states[1][:-1] != states[1][:-1][::-1]


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["bucket", "pack"])
def test_a_run_learns_to_write_from_right_to_left_what_is_read_from_left_to_right(place, tmp_path, batching):
    spelled = {"a": "abc", "b": "bcd", "c": "cde", "d": "def", "e": "efa", "f": "fab"}
    for split, count in (("train", 40), ("validation", 1), ("test", 1)):
        data = place / "spelled"
        data.mkdir(exist_ok=True)
        write_split(data, split, [*spelled] * count, [*spelled.values()] * count)
    options = {"task__target_order": "right_to_left", "batching__kind": batching, "optimizer__learning_rate": 2e-2}
    steps = {"train__steps": 150, "train__log_every": 50, "evaluate__every_steps": 150, "evaluate__decode": True}
    experiment = tiny(data, **options, **steps)
    assert train(experiment, tmp_path / "run") == 0
    run = s2sjax.load(tmp_path / "run")
    assert [found[0].text for found in run.decode([*spelled])] == [*spelled.values()]
    right, wrong = run.score([*spelled], [*spelled.values()]), run.score([*spelled], turned(spelled.values()))
    assert min(right) > max(wrong) + 1
    (validation,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
                     if '"validation"' in line]  # fmt: skip
    assert validation["exact_match"] == 100
