"""Tagging: a hidden Markov model's states for the tokens of a text."""

import io
import json
import sys

import jax
import numpy as np
import pytest

import s2sjax
from s2sjax.cli import run_command
from s2sjax.errors import UserError
from s2sjax.inference import tagging
from s2sjax.training.loop import train
from tests.tiny import compiling_once, on_devices, random_state, tiny, write_run


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("text")
    for split, count in (("train", 60), ("validation", 5), ("test", 5)):
        (directory / f"{split}.txt").write_text("abababab\n" * count)
    with pytest.MonkeyPatch.context() as patch, compiling_once(directory / "xla"):
        on_devices(patch, 1)
        yield directory


def options(steps):
    return {
        "data__source": "", "data__target": "{split}.txt", "train__label_smoothing": 0.0, "train__steps": steps,
        "train__log_every": 50,
    }  # fmt: skip


def test_letters_that_alternate_have_states_that_alternate(directory):
    """Learned by expectation maximisation, whose likelihood never falls."""
    em = {
        "optimizer__name": "em", "optimizer__learning_rate": 1.0, "optimizer__warmup_steps": 1,
        "optimizer__schedule": "inverse_sqrt", "model__learning": "em", "model__states": 3,
    }  # fmt: skip
    train(tiny(directory, "hmm", **options(60), **em), directory / "hmm")
    run = s2sjax.load(directory / "hmm")
    (tagged,) = run.tag(["ababab"])
    assert [token for token, _ in tagged] == [*"ababab", "</s>"]
    states = [state for _, state in tagged]
    assert states == [states[0], states[1]] * 3 + [states[-1]]
    assert len({states[0], states[1], states[-1]}) == 3
    # The path's states are those that the parameters find likeliest for the tokens themselves.
    emission = np.asarray(jax.nn.log_softmax(run.params["emission"], axis=-1))
    a, b = run.tokenizers.target.encode(["ab"])[0]
    assert emission[states[0], a] > emission[states[0], b] and emission[states[1], b] > emission[states[1], a]


def untrained(directory, family):
    experiment = tiny(directory, family, **options(1))
    state = random_state(experiment, 0)
    return write_run(directory / f"untrained_{family}", experiment, {1: (state, {"loss": 1.0})})


@pytest.fixture(scope="module")
def workdir(directory):
    return untrained(directory, "hmm")


TEXTS = ["ab", "", "fedcba", "a", "cab" * 20, "ab"]


def test_lines_are_tagged_together_as_each_alone_and_compiled_for_a_few_shapes(workdir):
    run, told = s2sjax.load(workdir), []
    before = tagging._states._cache_size()
    together = run.tag(TEXTS, progress=told.append)
    assert sum(told) == len(TEXTS) and tagging._states._cache_size() - before <= 2
    assert [[token for token, _ in tagged] for tagged in together] == [[*text, "</s>"] for text in TEXTS]
    assert [run.tag([text])[0] for text in TEXTS] == together
    assert len({state for tagged in together for _, state in tagged}) > 2
    run.tag(["b"])
    assert tagging._states._cache_size() - before <= 5, "one more call is not one more compilation"


def test_the_command_writes_a_line_for_each_in_their_order(workdir, tmp_path, monkeypatch, capsysbinary):
    tagged = s2sjax.load(workdir).tag(TEXTS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("".join(f"{t}\n" for t in TEXTS).encode())))
    with pytest.raises(SystemExit, match="0"):
        run_command(["tag", f"--workdir={workdir}"])
    states = [" ".join(str(state) for _, state in path[:-1]) for path in tagged]
    assert capsysbinary.readouterr().out.decode().splitlines() == states and states[1] == ""

    (tmp_path / "in").write_text("\n".join(TEXTS))
    files = [f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    with pytest.raises(SystemExit, match="0"):
        run_command(["tag", f"--workdir={workdir}", *files, "--format=jsonl"])
    records = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [record["text"] for record in records] == TEXTS
    assert [list(zip(r["tokens"], r["states"], strict=True)) for r in records] == tagged


def test_a_model_without_hidden_states_says_so(directory):
    with pytest.raises(UserError, match="lstm_lm has no hidden states"):
        s2sjax.load(untrained(directory, "lstm_lm")).tag(["ab"])


def test_a_model_without_attention_over_a_source_has_details_without_alignments(workdir):
    run = s2sjax.load(workdir)
    found = run.decode(["ab", ""])
    for hypotheses, explained in zip(found, run.explain(["ab", ""], found), strict=True):
        for hypothesis, details in zip(hypotheses, explained, strict=True):
            assert sum(details.token_log_probs) == pytest.approx(hypothesis.score, abs=1e-4)
            assert len(details.token_log_probs) == len(hypothesis.tokens) and details.alignment is None
    with pytest.raises(UserError, match="a run of the task language, which does not offer align: choose"):
        run.align([], [])


def test_a_model_of_pairs_without_attention_over_a_source_aligns_nothing(tmp_path):
    experiment = tiny(tmp_path, "hmm")
    run = write_run(tmp_path / "run", experiment, {1: (random_state(experiment, 0), {"loss": 1.0})})
    with pytest.raises(UserError, match="hmm as it is in .* has no attention over a source"):
        s2sjax.load(run).align([], [])
