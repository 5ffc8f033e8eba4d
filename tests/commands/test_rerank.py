"""`s2sjax rerank` on what decode writes: orders, what is kept of a record, and what mistakes are answered with."""

import dataclasses
import io
import json
import sys

import numpy as np
import pytest

import s2sjax
from s2sjax import experiment as experiments
from s2sjax.inference.risk import expected_utilities
from tests.tiny import json_lines, on_one_device, random_state, s2s, tiny, write_run, write_text

OPTIONS = {"decode__method": "stochastic", "decode__samples": 4, "decode__max_length_factor": 1.0}
SOURCES = ["abc", "", "fed", "fa"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("rerank")


@pytest.fixture(scope="module", autouse=True)
def setting(place):
    with on_one_device(place):
        yield


@pytest.fixture(scope="module")
def runs(place, setting):
    """Runs that were never trained: one to search with, and one of each kind to judge it."""
    data, made = write_text(place / "data", train=8, held_out=4, longest=4), {}
    kinds = {
        "first": ("hmm", {}),
        "forward": ("hmm", {}),
        "backwards": ("hmm", {"task__target_order": "right_to_left"}),
        "several": ("hmm", {
            "data__source": "{split}.{source_language}", "data__target": "{split}.{target_language}",
            "data__pairs": ("a-b", "b-a"), "data__prompt": "{target_language}{source}",
            "batching__max_source_length": 3,
        }),
        "text": ("lstm_lm", {"data__source": ""}),
    }  # fmt: skip
    for number, (name, (family, options)) in enumerate(kinds.items()):
        experiment = tiny(data, family, **OPTIONS, **options)
        checkpoints = {1: (random_state(experiment, number), {"loss": 1.0})}
        made[name] = write_run(place / name, experiment, checkpoints)
    return made


@pytest.fixture(scope="module")
def nbest(runs, place):
    """What decode writes for `SOURCES`, and a note that somebody added."""
    (place / "in").write_text("".join(f"{source}\n" for source in SOURCES))
    files = [f"--input={place / 'in'}", f"--output={place / 'nbest.jsonl'}", "--format=jsonl"]
    assert s2s("decode", f"--workdir={runs['first']}", *files) == 0
    noted = [record | {"hypotheses": [h | {"note": i} for i, h in enumerate(record["hypotheses"])], "note": "?"}
             for record in json_lines(place / "nbest.jsonl")]  # fmt: skip
    (place / "nbest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in noted))
    return place / "nbest.jsonl"


def rerank(nbest, tmp_path, *arguments):
    assert s2s("rerank", f"--input={nbest}", f"--output={tmp_path / 'out'}", *arguments) == 0
    return tmp_path / "out"


def test_risk_needs_no_run_and_keeps_all_that_a_record_holds(nbest, tmp_path):
    before, after = json_lines(nbest), json_lines(rerank(nbest, tmp_path, "--utility=chrf", "--format=jsonl"))
    assert [record["source"] for record in after] == SOURCES and all(record["note"] == "?" for record in after)
    for old, new in zip(before, after, strict=True):
        expected = dict(zip([h["text"] for h in old["hypotheses"]],
                            expected_utilities([h["text"] for h in old["hypotheses"]]), strict=True))  # fmt: skip
        assert [h["ranking_score"] for h in new["hypotheses"]] == sorted(expected.values(), reverse=True)
        for h in new["hypotheses"]:
            assert h.pop("ranking_score") == expected[h["text"]]
            assert h.pop("components") == {"probability": pytest.approx(1 / len(expected))}
            (was,) = [o for o in old["hypotheses"] if o["ids"] == h["ids"]]
            assert h == {key: value for key, value in was.items() if key != "ranking_score"}
    best = [record["hypotheses"][0]["text"] for record in after]
    assert rerank(nbest, tmp_path, "--utility=chrf").read_text().splitlines() == best


def test_the_weights_of_risk_may_be_the_models(nbest, tmp_path):
    for record in json_lines(rerank(nbest, tmp_path, "--utility=exact_match", "--weights=model", "--format=jsonl")):
        scores = np.exp([h["score"] for h in record["hypotheses"]])
        given = [h["components"]["probability"] for h in record["hypotheses"]]
        np.testing.assert_allclose(given, scores / scores.sum(), rtol=1e-5)


@pytest.mark.slow
def test_runs_judge_as_their_configs_say_and_a_channel_as_it_is_told(runs, nbest, tmp_path):
    judges = f"--runs={runs['forward']}:0.5,{runs['backwards']}:0.25,{runs['text']}:0.125"
    arguments = [judges, f"--channel={runs['forward']}:2", "--original=0.75", "--format=jsonl"]
    forward, backwards, text = (s2sjax.load(runs[name]) for name in ("forward", "backwards", "text"))
    orders = []
    for record in json_lines(rerank(nbest, tmp_path, *arguments)):
        ranking = [h["ranking_score"] for h in record["hypotheses"]]
        assert ranking == sorted(ranking, reverse=True)
        source, hypotheses = record["source"], record["hypotheses"]
        texts, sources = [h["text"] for h in hypotheses], [source] * len(hypotheses)
        expected = {
            "original": [h["score"] for h in hypotheses],
            f"forward:{runs['forward']}": forward.score(sources, texts),
            f"right_to_left:{runs['backwards']}": backwards.score(sources, texts),
            f"language_model:{runs['text']}": text.score([""] * len(texts), texts),
            f"channel:{runs['forward']}": forward.score(texts, sources),
        }
        assert all(list(h["components"]) == list(expected) for h in hypotheses)
        for name, values in expected.items():
            np.testing.assert_allclose([h["components"][name] for h in hypotheses], values, atol=1e-4)
        columns = np.array([[h["components"][name] for name in expected] for h in hypotheses])
        np.testing.assert_allclose(ranking, columns @ [0.75, 0.5, 0.25, 0.125, 2], atol=1e-6)
        orders.append(texts)
    assert orders != [[h["text"] for h in record["hypotheses"]] for record in json_lines(nbest)]


def test_scores_may_be_a_token(runs, nbest, tmp_path):
    arguments = [f"--channel={runs['forward']}:1", "--original=0", "--normalize=length", "--format=jsonl"]
    for record in json_lines(rerank(nbest, tmp_path, *arguments)):
        tokens = len(record["source"]) + 1
        for h in record["hypotheses"]:
            assert h["ranking_score"] == pytest.approx(h["components"][f"channel:{runs['forward']}"] / tokens)


def test_a_run_of_several_languages_judges_as_the_pair_that_is_named_and_says_what_it_cut(
    runs, nbest, tmp_path, capsys
):
    """There and back, by one run."""
    several = runs["several"]
    judges = [f"--runs={several}:a-b:1", f"--channel={several}:b-a:1", "--format=jsonl"]
    reranked, said = json_lines(rerank(nbest, tmp_path, *judges)), capsys.readouterr().err
    pairs = [(record["source"], h["text"]) for record in reranked for h in record["hypotheses"]]
    components = [h["components"] for record in reranked for h in record["hypotheses"]]
    saved = experiments.load(several / "config.json")
    for kind, pair, given in (("forward", "a-b", 1), ("channel", "b-a", -1)):
        data = dataclasses.replace(saved.data, pairs=(pair,))
        one = s2sjax.load(several, experiment=dataclasses.replace(saved, data=data))
        expected = one.score(*zip(*(each[::given] for each in pairs), strict=True))
        np.testing.assert_allclose([c[f"{kind}:{several}:{pair}"] for c in components], expected, atol=1e-4)
        read_by_it = {each[::given] for each in pairs}
        cut = sum(len(source) > 1 for source, _ in read_by_it)  # before the tag and end-of-sentence
        longer = f"{cut} of {len(read_by_it)} sources were longer than config.batching.max_source_length 3 "
        assert cut and longer in said


def test_standard_input_and_output_are_the_default(nbest, monkeypatch, capsysbinary, tmp_path):
    expected = rerank(nbest, tmp_path, "--utility=bleu").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(nbest.read_bytes())))
    assert s2s("rerank", "--utility=bleu") == 0
    assert capsysbinary.readouterr().out == expected


def test_a_source_for_which_nothing_was_found_has_an_empty_line(tmp_path):
    (tmp_path / "nbest").write_text('{"source": "a", "hypotheses": []}\n')
    assert rerank(tmp_path / "nbest", tmp_path, "--utility=chrf").read_text() == "\n"


def test_an_output_with_line_ends_is_one_line_of_text_and_itself_in_json(tmp_path):
    text = "a\rb\u2028c\x85d\n"
    found = {"text": text, "tokens": ["a"], "score": -1.0, "ranking_score": -1.0, "ids": [4]}
    (tmp_path / "nbest").write_text(json.dumps({"source": "a", "hypotheses": [found]}) + "\n")
    assert rerank(tmp_path / "nbest", tmp_path, "--utility=chrf").read_text() == "a b c d \n"
    (record,) = json_lines(rerank(tmp_path / "nbest", tmp_path, "--utility=chrf", "--format=jsonl"))
    assert record["hypotheses"][0]["text"] == text


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "choose one: --utility=chrf|bleu|exact_match for minimum Bayes risk, or --runs=DIR:WEIGHT"),
        (["--utility=chrf", "--runs={first}:1"], "choose one: --utility"),
        (["--utility=chfr"], "--utility is 'chfr': did you mean 'chrf'"),
        (["--utility=chrf", "--weights=even"], "--weights is 'even'"),
        (["--utility=chrf", "--original=1"], "--original goes with --runs, which is not given"),
        (["--runs={first}:1", "--weights=model"], "--weights goes with --utility, which is not given"),
        (["--runs={first}:1", "--normalize=tokens"], "--normalize is 'tokens'"),
        (["--runs={first}:1", "--original=one"], "--original is 'one', expected a number"),
        (["--runs={first}"], "first' has no weight: runs are written DIR:WEIGHT, as in {first}:0.5"),
        (["--runs={first}:nan"], "the weight of {first} is 'nan', expected a number"),
        (["--runs={tmp}/none:1"], "none is not a run directory"),
        (["--runs={first}:1,{first}:2"], "two judges have the same name: original, forward:"),
        (["--runs={several}:1"], "several knows several pairs of languages; say which is meant, as in {several}:a-b:1"),
        (["--runs={several}:a-z:1"], "config.data.pairs names z, and what {several} has learned is a, b"),
        (["--runs={several}:ab:1"], "config.data.pairs holds 'ab'; expected languages as in 'en-de'"),
        (["--runs={first}:a-b:1"], "config.data.pairs is set, but config.data.file, source and target do not hold"),
        (["--channel={text}:1"], "text is a language model, and has no source to score: name it in --runs"),
        (["--utility=chrf", "--workdir={first}"], "workdir"),
        (["--utility=chrf", "--format=josnl"], "--format is 'josnl': did you mean 'jsonl'"),
        (["--utility=chrf", "--input={tmp}/bad"], "bad, line 2: not what decode --format=jsonl writes"),
        (["--utility=chrf", "--input={tmp}/none"], "cannot read {tmp}/none: No such file"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(runs, nbest, tmp_path, capsys, arguments, message):
    (tmp_path / "bad").write_text('{"source": "a", "hypotheses": []}\n{"source": "a", "hypotheses": [{"text": "b"}]}\n')
    names = {"tmp": tmp_path, **runs}
    given = [argument.format(**names) for argument in arguments]
    if not any(argument.startswith("--input") for argument in given):
        given.append(f"--input={nbest}")
    assert s2s("rerank", *given, f"--output={tmp_path / 'out'}") == 2
    said = capsys.readouterr().err
    assert said.startswith("s2sjax: ") and message.format(**names) in said and "Traceback" not in said


def test_bleu_of_chinese_needs_a_tokenizer_and_says_so(tmp_path, capsys):
    """As whole sentences none of these has anything in common with another; of characters, the first two do."""
    texts = ["走吧。", "我们在这里见面吧。", "我们明天在这里见面。"]
    hypotheses = [{"text": text, "score": -1.0, "ranking_score": -1.0, "tokens": [text], "ids": [5]} for text in texts]
    (tmp_path / "zh.jsonl").write_text(json.dumps({"source": "x", "hypotheses": hypotheses}) + "\n")
    arguments = [f"--input={tmp_path / 'zh.jsonl'}", f"--output={tmp_path / 'out'}", "--utility=bleu"]
    assert s2s("rerank", *arguments) == 0
    assert "script without spaces (Han)" in (said := capsys.readouterr().err) and "set --tokenize=zh" in said
    assert (tmp_path / "out").read_text() == texts[0] + "\n"
    assert s2s("rerank", *arguments, "--tokenize=zh") == 0
    assert "script" not in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == texts[1] + "\n"
    assert s2s("rerank", *arguments, "--tokenize=zhh") == 2
    assert "did you mean 'zh'" in capsys.readouterr().err
    assert s2s("rerank", *arguments[:2], "--utility=chrf", "--tokenize=zh") == 2
    assert "--tokenize goes with --utility=bleu" in capsys.readouterr().err
