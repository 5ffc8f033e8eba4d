"""Runs that decode together: from Python, and with `--ensemble` on the command line."""

import dataclasses
import json
import math

import numpy as np
import pytest

import s2sjax
from s2sjax import experiment as experiments
from s2sjax.data.tokenizer import TokenizerPair, save
from s2sjax.data.units import CharTokenizer
from s2sjax.errors import UserError
from tests.tiny import on_one_device, random_state, s2s, tiny, write_run, write_text

OPTIONS = {"decode__beam_size": 2, "decode__nbest": 2, "decode__max_length_factor": 1.0, "decode__batch_size": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("ensemble")


@pytest.fixture(scope="module", autouse=True)
def setting(place):
    with on_one_device(place):
        yield


@pytest.fixture(scope="module")
def runs(place, setting):
    """Two runs of different sizes on the same data, that were never trained, of the family that compiles fastest."""
    data = write_text(place / "data", train=8, held_out=6, longest=4)
    made = []
    for number, (name, limit) in enumerate({"first": 9, "second": 6}.items()):
        experiment = tiny(data, "hmm", model__states=8 - number, batching__max_source_length=limit, **OPTIONS)
        checkpoints = {10 * (number + 1): (random_state(experiment, number), {"loss": 1.0})}
        made.append(write_run(place / name, experiment, checkpoints))
    return made


def test_an_ensemble_decodes_scores_and_evaluates_as_one(runs, capsys):
    first, second = runs
    both = s2sjax.load(first, ensemble=[second])
    assert [member.step for member in (both, *both.others)] == [10, 20]
    assert both.predictor.requests.max_source_length == 6, "the shortest limit holds"
    sources = ["abc", "fe"]
    pairs = [(s, h) for s, found in zip(sources, both.decode(sources), strict=True) for h in found]
    scores = both.score(*zip(*pairs, strict=True))
    np.testing.assert_allclose(scores, [h.score for _, h in pairs], atol=1e-4)
    # Of one token, the mean of probabilities can be had from the members' own scores.
    (empty,) = both.score(["abc"], [""])
    alone = [member.score(["abc"], [""])[0] for member in (s2sjax.load(first), *both.others)]
    assert empty == pytest.approx(math.log(sum(map(math.exp, alone)) / 2), abs=1e-5)

    arguments = ["evaluate", f"--workdir={first}", f"--ensemble={second}"]
    assert s2s(*arguments) == 0 and "ensemble" in capsys.readouterr().out
    written = json.loads((first / "results" / "test.ensemble.json").read_text())
    assert written["ensemble"] == f"mean of probabilities of {first} (10), {second} (20)"
    lines = [(first.parent / "data" / f"test.{side}").read_text().split() for side in ("src", "tgt")]
    tokens = sum(len(target) + 1 for target in lines[1])
    assert written["loss"] == pytest.approx(-sum(both.score(*lines)) / tokens, rel=1e-5)
    assert not (first / "results" / "test.json").exists(), "a run's own results are another thing"


def test_decode_takes_more_runs_and_a_kind_of_mean(runs, tmp_path):
    first, second = runs
    (tmp_path / "in").write_text("abc\nfe\n")
    files = [f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--format=jsonl"]
    scores = {}
    for kind in ("probabilities", "log_probabilities"):
        arguments = [f"--workdir={first}", f"--ensemble={second}", f"--config.decode.ensemble={kind}"]
        assert s2s("decode", *files, *arguments) == 0
        found = [json.loads(line)["hypotheses"] for line in (tmp_path / "out").read_text().splitlines()]
        scores[kind] = [h["score"] for hypotheses in found for h in hypotheses]
    run = s2sjax.load(first, ensemble=[second])
    assert [h.score for hypotheses in run.decode(["abc", "fe"]) for h in hypotheses] == scores["probabilities"]
    files = [f"--hypotheses={tmp_path / 'out'}", f"--output={tmp_path / 'scores'}"]
    assert s2s("score", *files, *arguments) == 0
    again = [float(line) for line in (tmp_path / "scores").read_text().splitlines()]
    np.testing.assert_allclose(again, scores["log_probabilities"], atol=1e-4)
    assert not np.allclose(scores["probabilities"], scores["log_probabilities"], atol=1e-3)


@pytest.mark.slow
def test_an_ensemble_of_a_run_with_itself_is_the_run(runs):
    first, _ = runs
    alone, twice = s2sjax.load(first), s2sjax.load(first, ensemble=[first])
    for a, b in zip(alone.decode(["abc", "fe"]), twice.decode(["abc", "fe"]), strict=True):
        assert [h.ids for h in a] == [h.ids for h in b]
        np.testing.assert_allclose([h.score for h in a], [h.score for h in b], atol=1e-5)


@pytest.mark.parametrize(
    "letters, message",
    [
        ("abcdefg", r"its source vocabulary is another \(of 11 tokens, not 10\)"),
        ("abcdfe", r"its source vocabulary is another \(token 8 is 'f', not 'e'\).*same data.*tokenizer.source_model="),
    ],
)
def test_a_member_with_another_vocabulary_is_refused(runs, tmp_path, letters, message):
    experiment = experiments.load(runs[0] / "config.json")
    other = write_run(tmp_path / "other", experiment, {})
    save(TokenizerPair(*[CharTokenizer(letters)] * 2), other / "tokenizer")
    with pytest.raises(UserError, match=f"other cannot be in an ensemble with .*first: {message}"):
        s2sjax.load(runs[0], ensemble=[other])


def test_a_member_that_is_no_run_or_reads_otherwise_is_refused(runs, tmp_path, capsys):
    assert s2s("decode", f"--workdir={runs[0]}", f"--ensemble={tmp_path / 'none'}") == 2
    assert "none is not a run directory" in capsys.readouterr().err
    experiment = experiments.load(runs[1] / "config.json")
    data = dataclasses.replace(experiment.data, prompt="Reverse: {source}")
    other = write_run(tmp_path / "other", dataclasses.replace(experiment, data=data), {})
    with pytest.raises(UserError, match="other cannot be in an ensemble .*config.data.prompt='Reverse: {source}'"):
        s2sjax.load(runs[0], ensemble=[other])
    with pytest.raises(UserError, match="config.decode.ensemble is 'logits': did you mean 'log_probabilities'"):
        dataclasses.replace(experiment.decode, ensemble="logits")


def test_an_ensemble_has_no_tags(runs):
    with pytest.raises(UserError, match="ensemble"):
        s2sjax.load(runs[1], ensemble=[runs[1]]).tag(["abc"])
