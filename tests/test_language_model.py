"""A language model from text to results: windows, training, perplexities, scores, continuations; and a translator."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest

import s2sjax
from s2sjax.cli import run_command
from s2sjax.data.tokenizer import TokenizerPair, save
from s2sjax.data.units import CharTokenizer
from s2sjax.errors import UserError
from s2sjax.training.loop import train
from s2sjax.vocabulary import BOS, EOS
from tests.tiny import compiling_once, on_devices, random_state, records, tiny, write_run, write_split, write_text

LINES = ["abcd", "efghijklm", "nopqrst"]
"""A letter tells the next one; only the first letter of a line is a surprise."""

PLAIN = {
    "data__source": "", "data__target": "{split}.txt", "task__join": True, "task__context": 24, "task__stride": 8,
    "batching__tokens": 384,
    "model__positions": "rotary", "model__width": 32, "train__label_smoothing": 0.0, "train__log_every": 50,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_device_and_one_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, compiling_once(tmp_path_factory.mktemp("xla")):
        on_devices(patch, 1)
        yield


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A language model of LINES, in any order."""
    directory = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    for split, count in (("train", 200), ("validation", 20), ("test", 20)):
        (directory / f"{split}.txt").write_text("".join(line + "\n" for line in rng.choice(LINES, count)))
    workdir = directory / "run"
    options = {"train__steps": 150, "evaluate__samples": 2, "evaluate__every_steps": 75}
    train(tiny(directory, "causal_lm", **options, **PLAIN), workdir)
    return workdir


@pytest.fixture(scope="module")
def run(workdir):
    return s2sjax.load(workdir)


def test_it_learns_what_there_is_to_learn(run):
    """A line is known once its first letter is: log2(3) bits for which of the three it is, and no more."""
    results = run.evaluate("test")
    lines = (run.workdir.parent / "test.txt").read_text().splitlines()
    assert results["bytes"] == sum(len(line) + 1 for line in lines) == results["tokens"]
    assert results["words"] == sum(len(line.split()) + 1 for line in lines)
    bits = results["bits_per_byte"] * results["bytes"] / len(lines)
    assert 0.8 * math.log2(3) < bits < 1.3 * math.log2(3)
    assert results["perplexity"] == pytest.approx(math.exp(results["loss"]))
    assert (run.workdir / "results" / "test.json").is_file()


def test_a_sliding_window_gives_every_token_its_context_and_no_token_more(run):
    """The sum over windows, computed one window at a time from the text itself."""
    lines = (run.workdir.parent / "test.txt").read_text().splitlines()
    ids = np.concatenate([np.append(row, EOS) for row in run.tokenizers.target.encode(lines)])
    nll, done = 0.0, 0
    for start in range(0, len(ids), 8):
        window = ids[start : start + 24]
        nll -= token_log_probs(run, window)[done - start :].sum()
        done = start + len(window)
        if done == len(ids):
            break
    assert run.evaluate("test")["loss"] == pytest.approx(nll / len(ids), rel=1e-4)


def test_it_goes_on_from_a_prompt_as_its_text_does(run):
    best = [hypotheses[0].text for hypotheses in run.decode(["ab", "e", "nopqrst"])]
    assert best == ["cd", "fghijklm", ""]


FAMILIES = {
    "hmm": {},
    "lstm_lm": {},
    "causal_lm": {"model__positions": "learned", "model__max_positions": 512},
    "causal_lm, prefix": {"model__prefix": True, "model__positions": "relative"},
    "griffin": {},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("hmm", "lstm_lm") else pytest.mark.slow) for name in FAMILIES]
)
def test_an_empty_line_begins_a_text_whatever_stands_beside_it(tmp_path, name):
    """From begin-of-sentence, with the probability of the whole text; by every family, of random parameters."""
    options = {"beam_size": 2, "nbest": 2, "batch_size": 8, "max_length_factor": 1.0}
    decoding = {f"decode__{option}": value for option, value in options.items()}
    experiment = tiny(tmp_path, name.split(",")[0], data__source="", **decoding, **FAMILIES[name])
    workdir = write_run(tmp_path / "run", experiment, {1: (random_state(experiment, 0), {"loss": 1.0})})
    run = s2sjax.load(workdir)
    prompts = ["", "fedcba", "  ", ""]
    together, alone = run.decode(prompts), run.decode([""])[0]
    assert [h.ids for h in together[0]] == [h.ids for h in together[3]] == [h.ids for h in alone]
    assert all(h.ids for hypotheses in together for h in hypotheses)
    pairs = [(prompt, h) for prompt, found in zip(prompts, together, strict=True) for h in found]
    scores = run.score([prompt for prompt, _ in pairs], [h for _, h in pairs])
    np.testing.assert_allclose(scores, [h.score for _, h in pairs], atol=1e-4)


def test_it_knows_what_a_text_begins_with(run):
    (best,) = run.decode([""])[0]
    assert best.text in LINES
    assert best.score == pytest.approx(run.score([""], [best.text])[0], abs=1e-4)


def test_what_follows_a_prompt_does_not_depend_on_the_prompts_beside_it(run):
    prompts = ["ab", "efghijkl", "q"]
    together = run.decode(prompts)
    alone = [run.decode([prompt])[0] for prompt in prompts]
    for a, b in zip(together, alone, strict=True):
        assert [h.tokens for h in a] == [h.tokens for h in b]
        np.testing.assert_allclose([h.score for h in a], [h.score for h in b], atol=1e-4)


def test_a_continuations_score_is_the_scores_of_its_tokens_after_the_prompt(run, monkeypatch):
    """With parameters that are sure of nothing, so that every token of the prompt matters."""
    keys = iter(jax.random.split(jax.random.key(0), 99))
    noisy = jax.tree.map(lambda p: p + 0.4 * jax.random.normal(next(keys), p.shape), run.params)
    monkeypatch.setattr(run.predictor, "params", noisy)
    run = dataclasses.replace(run, params=noisy)
    prompt = "efgh"
    best = run.decode([prompt])[0][0]
    tokens = run.tokenizers.target.encode([prompt + best.text])[0]
    assert len(tokens) < 24
    log_probs = token_log_probs(run, np.append(tokens, EOS))
    assert best.score == pytest.approx(log_probs[len(prompt) :].sum(), abs=1e-4)
    assert run.score([""], [prompt + best.text])[0] == pytest.approx(log_probs.sum(), abs=1e-4)


@pytest.fixture(scope="module")
def runs_on(run):
    """The same run, which draws 30 tokens over line ends: three parts of windows of 24."""
    return run.with_config(method="sample", max_new_tokens=30, samples=2, seed=1)


def test_draws_go_on_over_line_ends_each_token_given_the_half_window_before_it(runs_on, run):
    prompt = "abcd\nefghijklm\nnopqrst\nab"
    ids = np.concatenate([np.append(row, EOS) for row in run.tokenizers.target.encode(prompt.split("\n"))])[:-1]
    for h in runs_on.decode([prompt])[0]:
        assert len(h.ids) == 30 and EOS in h.ids
        lines = (prompt + h.text).split("\n")
        assert set(lines[:-1]) <= set(LINES) and any(line.startswith(lines[-1]) for line in LINES), "it has learned"
        text, expected = ids, 0.0
        for begin in (0, 12, 24):
            new = np.array(h.ids[begin : begin + 12])
            expected += token_log_probs(run, np.concatenate([text[-12:], new]))[12:].sum()
            text = np.concatenate([text, new])
        assert h.score == pytest.approx(expected, abs=1e-3)
        assert h.score <= h.ranking_score < h.score + 0.1, "drawn likewise, but never padding"


def test_a_running_text_depends_on_its_prompt_and_its_number_alone(runs_on):
    together = runs_on.decode(["ab", "", "efgh\n"])
    assert [h.ids for h in runs_on.decode(["efgh\n"])[0]] == [h.ids for h in together[2]]
    (one,) = runs_on.with_config(samples=1).decode(["ab"])[0]
    assert one.ids == together[0][0].ids != together[0][1].ids
    longer = runs_on.with_config(max_new_tokens=36).decode(["ab"])[0]
    assert [h.ids[:30] for h in longer] == [h.ids for h in together[0]]


@pytest.mark.parametrize(("samples", "searches"), [(2, 3), (32, 2 * 3)])
def test_running_texts_are_drawn_together(runs_on, monkeypatch, samples, searches):
    """As many draws as a batch holds by one search for each part, whichever sources they are of."""
    prompts = ["ab", "", "efghijklm\nab", "abcd"][: 64 // samples]
    drawing = runs_on.with_config(samples=samples, batch_size=32)
    alone = runs_on.decode(prompts[:1])[0]
    search, sizes = drawing.predictor._search, []
    find = search._find
    monkeypatch.setattr(search, "_find", lambda *args: sizes.append(args[2]) or find(*args))
    done: list[int] = []
    found = drawing.decode(prompts, progress=done.append)
    assert sizes == [min(len(prompts) * samples, 32)] * searches and sum(done) == len(prompts)
    assert [h.ids for h in found[0][:2]] == [h.ids for h in alone]


def test_what_a_running_text_cannot_have_is_refused(run, runs_on):
    for fields, message in (
        ({"method": "beam", "samples": 1}, "max_new_tokens is 30, and what goes on over line ends is drawn"),
        ({"no_repeat_ngram": 2}, "no_repeat_ngram is 2, and does not go with max_new_tokens"),
    ):
        with pytest.raises(UserError, match=message):
            runs_on.with_config(**fields).decode([])
    with pytest.raises(UserError, match="takes no prefixes, phrases or choices"):
        runs_on.decode(["a"], prefixes=["b"])


def test_line_ends_that_the_vocabulary_has_are_read_and_written_as_its_tokens(tmp_path):
    joined = {"task__join": True, "task__context": 8, "task__keep_line_ends": True}
    drawing = {"decode__method": "sample", "decode__max_new_tokens": 40}
    experiment = tiny(tmp_path, "lstm_lm", data__source="", **joined, **drawing)
    workdir = write_run(tmp_path / "run", experiment, {1: (random_state(experiment, 0), {"loss": 1.0})})
    tokenizer = CharTokenizer("abcde\n")  # as many tokens as that of `write_run`
    save(TokenizerPair(tokenizer, tokenizer), workdir / "tokenizer")
    run = s2sjax.load(workdir)
    (row,) = run.predictor.requests.source_rows(["a\nb\n"]).result
    assert row.tolist() == [BOS, *tokenizer.encode(["a\nb\n"])[0]] and EOS not in row
    ((h,),) = run.decode(["a\nb\n"])
    assert len(h.ids) == 40 and "\n" in h.tokens
    assert h.text == "".join("\n" if t == "</s>" else t for t in h.tokens if t not in ("<pad>", "<unk>", "<s>"))


def test_unknown_characters_of_a_prompt_of_lines_are_counted(workdir, capsys):
    drawing = ["--config.decode.method=sample", "--config.decode.max_new_tokens=2"]
    with pytest.raises(SystemExit):
        run_command(["decode", f"--workdir={workdir}", r"--prompt=żab\n\nbż", *drawing])
    assert "1 of 1 source holds characters that the vocabulary lacks, 2 in all" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_command(["decode", f"--workdir={workdir}", "--prompt=a", *drawing, "--format=jsonl", "--details=tokens"])
    assert "--details=tokens is of outputs that a model reads in one go" in capsys.readouterr().err


def test_a_text_is_written_with_its_line_ends_and_a_prompt_has_them(runs_on, workdir, tmp_path, capsys):
    (tmp_path / "prompt").write_text("efghijklm\nab\n")
    drawing = ["--config.decode.method=sample", "--config.decode.max_new_tokens=30", "--config.decode.seed=1"]
    expected = [h.text for h in runs_on.decode(["efghijklm\nab\n"])[0]]
    for prompt in (f"--prompt-file={tmp_path / 'prompt'}", r"--prompt=efghijklm\nab\n"):
        with pytest.raises(SystemExit) as stopped:
            run_command(["decode", f"--workdir={workdir}", prompt, *drawing, "--config.decode.samples=2"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out == f"{expected[0]}\n{'-' * 40}\n{expected[1]}\n"


def test_coverage_that_a_language_model_cannot_measure_is_told_before_the_first_step(tmp_path):
    write_text(tmp_path, train=8, held_out=2)
    with pytest.raises(UserError, match=r"decode.coverage is 0.2, but the model has no attention over a source"):
        train(tiny(tmp_path, "hmm", decode__coverage=0.2, train__steps=2), tmp_path / "run")
    assert records(tmp_path / "run") == []


@pytest.mark.slow
def test_one_line_of_the_config_makes_the_same_data_a_language_models(tmp_path):
    """An encoder-decoder's data, the source as a prompt: two letters and their reversal, learned by a decoder alone."""
    words = ["".join(pair) for pair in itertools.product("abcdef", repeat=2)]
    for split in ("train", "validation", "test"):
        write_split(tmp_path, split, words, [word[::-1] for word in words])
    options = {"model__prefix": True, "model__positions": "rotary", "model__width": 32, "batching__kind": "pack"}
    train(tiny(tmp_path, "causal_lm", train__steps=150, train__log_every=50, **options), tmp_path / "run")
    run = s2sjax.load(tmp_path / "run")
    assert run.evaluate("test")["exact_match"] > 90
    best = run.decode(["ab"])[0][0]
    assert best.text == "ba"
    assert best.score == pytest.approx(run.score(["ab"], ["ba"])[0], abs=1e-4)


def token_log_probs(run, ids):
    """Of up to 24 tokens, each given those before it, by a batch made by hand: no inputs, begin-of-sentence first."""
    T, length = 24, len(ids)
    targets = np.zeros((1, T), np.int32)
    targets[0, :length] = ids
    segments = (np.arange(T) < length).astype(np.int32)[None]
    nothing = np.zeros((1, 0), np.int32)
    batch = {
        "inputs": nothing, "input_segments": nothing, "input_positions": nothing, "targets": targets,
        "decoder_inputs": np.concatenate([[[BOS]], targets[:, :-1]], axis=1).astype(np.int32),
        "target_segments": segments, "target_positions": np.arange(T, dtype=np.int32)[None],
    }  # fmt: skip
    output = jax.jit(lambda params, batch: run.model.apply({"params": params}, batch, train=False))(run.params, batch)
    logits = np.asarray(output.features[0] @ output.kernel, np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return log_probs[np.arange(length), ids]
