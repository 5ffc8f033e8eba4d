"""The command line, end to end, on one tiny run: what goes in, what comes out, and what a mistake is answered with."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import s2sjax
from s2sjax import experiment as experiments
from s2sjax.cli import run_command
from s2sjax.data.splits import open_split
from s2sjax.errors import UserError
from s2sjax.runs import home
from tests.tiny import command, config_file, environment, on_one_device, read_state, s2s, write_text

OPTIONS = {
    "model__width": 32, "model__hidden": 64, "batching__tokens": 384, "batching__max_source_length": 12,
    "optimizer__learning_rate": 2e-2, "optimizer__warmup_steps": 50,
    "train__steps": 200, "train__log_every": 50, "evaluate__every_steps": 100, "checkpoint__every_steps": 100,
    "decode__beam_size": 4, "decode__batch_size": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module", autouse=True)
def setting(place):
    """One device, and programs compiled once."""
    with on_one_device(place):
        yield


@pytest.fixture(scope="module")
def workdir(place, setting):
    """A run of 200 steps, trained from the command line. Copy it before changing it."""
    config = config_file(place / "config.py", write_text(place / "data", train=600), **OPTIONS)
    assert s2s("train", f"--config={config}", f"--workdir={place / 'run'}") == 0
    return place / "run"


@pytest.fixture
def copy(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    home.record(
        tmp_path / "run", experiments.load(tmp_path / "run" / "config.json")
    )  # or its data would have to be said again
    return tmp_path / "run"


def decode(workdir, text, tmp_path, *arguments) -> str:
    source, output = tmp_path / "input", tmp_path / "output"
    source.write_text(text, encoding="utf-8", newline="")
    assert s2s("decode", f"--workdir={workdir}", f"--input={source}", f"--output={output}", *arguments) == 0
    return output.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def answers(workdir, tmp_path_factory) -> str:
    """What the run answers to "abc" and "fed", from a plain file."""
    return decode(workdir, "abc\nfed\n", tmp_path_factory.mktemp("answers"))


# ---- decode ----


def test_every_line_gets_its_line_and_empty_lines_stay(workdir, tmp_path):
    lines = ["abc", "", "fedcba", "a", "   ", "abc"]
    text = decode(workdir, "".join(f"{line}\n" for line in lines), tmp_path)
    answers = text.splitlines()
    assert text.endswith("\n") and len(answers) == len(lines)
    assert answers[1] == answers[4] == "" and answers[0] == answers[5] != answers[2]
    assert all(answers[i] for i in (0, 2, 3))


def test_a_last_line_without_an_end_and_windows_line_ends_are_lines(workdir, answers, tmp_path):
    assert decode(workdir, "abc\r\nfed", tmp_path) == answers
    assert decode(workdir, "", tmp_path) == ""


def test_a_byte_order_mark_is_no_text(workdir, answers, tmp_path):
    assert decode(workdir, "\ufeffabc\nfed\n", tmp_path) == answers


def test_an_input_is_never_written_over(workdir, tmp_path, capsys):
    lines = tmp_path / "lines"
    lines.write_text("abc\n")
    assert s2s("decode", f"--workdir={workdir}", f"--input={lines}", f"--output={tmp_path}/./lines") == 2
    assert "cannot be written to at the same time" in capsys.readouterr().err and lines.read_text() == "abc\n"


def test_of_an_option_given_twice_the_last_counts(workdir, answers, tmp_path):
    assert decode(tmp_path / "none", "abc\nfed\n", tmp_path, f"--workdir={workdir}") == answers


def test_text_that_training_never_saw_is_decoded_too(workdir, tmp_path):
    lines = ["漢字", "abc\u2028def", "\x0b", "<pad></s>", "é" * 5]
    assert decode(workdir, "\n".join(lines) + "\n", tmp_path).count("\n") == len(lines)


def test_jsonl_has_exactly_these_keys_in_the_order_of_the_lines(workdir, tmp_path):
    lines = ["abcdef", "b", "", "cafe"]
    text = decode(workdir, "\n".join(lines) + "\n", tmp_path, "--format=jsonl", "--config.decode.nbest=3")
    answers = [json.loads(line) for line in text.splitlines()]
    assert [answer["source"] for answer in answers] == lines
    for answer in answers:
        assert list(answer) == ["source", "hypotheses"]
        for hypothesis in answer["hypotheses"]:
            assert list(hypothesis)[:3] == ["text", "tokens", "score"]
            assert set(hypothesis) <= {"text", "tokens", "score", "ranking_score", "ids"}
            assert isinstance(hypothesis["text"], str) and all(isinstance(t, str) for t in hypothesis["tokens"])
    for answer in (answers[0], answers[1], answers[3]):
        hypotheses = answer["hypotheses"]
        assert len(hypotheses) == 3 and len({tuple(h["tokens"]) for h in hypotheses}) == 3
        assert all(h["tokens"][-1] == "</s>" and h["score"] < 0 for h in hypotheses)
        ranking = [h["ranking_score"] for h in hypotheses]
        assert ranking == sorted(ranking, reverse=True)
        # characters: the text is its tokens
        assert all(h["text"] == "".join(t for t in h["tokens"] if len(t) == 1) for h in hypotheses)
    (empty,) = answers[2]["hypotheses"]
    assert empty["text"] == "" and empty["tokens"] == []


def test_text_is_the_best_hypothesis_of_jsonl_and_nbest_does_not_change_it(workdir, tmp_path):
    lines = "abc\nfade\ncede\n"
    best = [json.loads(line)["hypotheses"][0]["text"] for line in decode(
        workdir, lines, tmp_path, "--format=jsonl", "--config.decode.nbest=4").splitlines()]  # fmt: skip
    assert decode(workdir, lines, tmp_path).splitlines() == best


def test_a_source_over_the_limit_is_cut_and_counted(workdir, tmp_path, capsys):
    answers = decode(workdir, f"abc\n{'abcdef' * 20}\nabcdefabcde\n", tmp_path).splitlines()
    assert len(answers) == 3
    assert "1 of 3 sources were longer than config.batching.max_source_length 12 tokens" in capsys.readouterr().err
    # the limit counts end-of-sentence: eleven letters are what is left
    assert answers[1] == answers[2]
    decode(workdir, f"{'abcdef' * 20}\n", tmp_path)
    assert "1 of 1 source was longer than" in capsys.readouterr().err


def test_standard_input_and_output_are_the_default(workdir, answers, monkeypatch, capsysbinary):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\nfed\n")))
    assert s2s("decode", f"--workdir={workdir}") == 0
    assert capsysbinary.readouterr().out.decode() == answers


def test_the_input_may_be_a_named_pipe(workdir, answers, tmp_path):
    """As `--input=<(command)` of a shell is: it can be read once."""
    os.mkfifo(tmp_path / "fifo")
    threading.Thread(target=(tmp_path / "fifo").write_text, args=["abc\nfed\n"], daemon=True).start()
    assert s2s("decode", f"--workdir={workdir}", f"--input={tmp_path / 'fifo'}", f"--output={tmp_path / 'out'}") == 0
    assert (tmp_path / "out").read_text() == answers


def test_an_override_on_the_command_line_counts(workdir, tmp_path):
    """A beam of 1 is greedy, and its hypotheses cannot be better by the score that it is ranked with."""

    def scores(*arguments):
        text = decode(workdir, "abcdef\nfedcab\nbbacfd\n", tmp_path, "--format=jsonl", *arguments)
        return [json.loads(line)["hypotheses"][0] for line in text.splitlines()]

    wide = scores("--config.decode.length_penalty=none")
    greedy = scores("--config.decode.length_penalty=none", "--config.decode.beam_size=1")
    assert all(h["ranking_score"] == pytest.approx(h["score"]) for h in wide), "no penalty, so the two are the same"
    first, last = (scores(f"--config.decode.checkpoint={step}") for step in (100, 200))
    assert [h["score"] for h in first] != [h["score"] for h in last]
    assert len(greedy) == 3
    with pytest.raises(SystemExit):
        run_command(["decode", f"--workdir={workdir}", "--config.decode.nbest=5"])


# ---- a pipe ----


def communicate(arguments, place, **options) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command(*map(str, arguments)), env=environment(place / "cache"), **pipes, **options)


def test_a_pipe_gets_its_answers_line_by_line(workdir, place, answers):
    expected = answers.encode().splitlines(keepends=True)
    process = communicate(["decode", f"--workdir={workdir}"], place)
    # Whoever waits for ever is ended, and reads nothing.
    guard = threading.Timer(150, process.kill)
    guard.start()
    try:
        for line, answer in zip((b"abc\n", b"fed\n"), expected, strict=True):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline() == answer, process.stderr.read().decode()
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"")
        assert b"Traceback" not in err
    finally:
        guard.cancel()
        process.kill()


def test_a_reader_that_goes_away_is_no_traceback(workdir, place, tmp_path):
    (tmp_path / "input").write_text("abc\n" * 40)
    process = communicate(["decode", f"--workdir={workdir}", f"--input={tmp_path / 'input'}"], place)
    process.stdout.close()
    process.stdin.close()
    try:
        with process.stderr:
            err = process.stderr.read().decode()
        process.wait(timeout=150)
    finally:
        process.kill()
    assert process.returncode == 141, err
    assert "Traceback" not in err and "BrokenPipe" not in err and "Exception ignored" not in err


# ---- score and evaluate ----


def test_scores_are_those_of_decoding(workdir, tmp_path):
    lines = ["abcdef", "b", "cafe", "deadbeef", "ab"]
    text = decode(workdir, "\n".join(lines) + "\n", tmp_path, "--format=jsonl", "--config.decode.nbest=2")
    pairs = [(a["source"], h) for a in map(json.loads, text.splitlines()) for h in a["hypotheses"]]
    pairs = [(source, h) for source, h in pairs if "<unk>" not in h["tokens"] and "<s>" not in h["tokens"]]
    assert len(pairs) >= 5
    for name, rows in (("s", [source for source, _ in pairs]), ("t", [h["text"] for _, h in pairs])):
        (tmp_path / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    files = [f"--source={tmp_path / 's'}", f"--target={tmp_path / 't'}", f"--output={tmp_path / 'scores'}"]
    assert s2s("score", f"--workdir={workdir}", *files) == 0
    scores = [float(line) for line in (tmp_path / "scores").read_text().splitlines()]
    np.testing.assert_allclose(scores, [h["score"] for _, h in pairs], atol=1e-4)


def test_hypotheses_are_scored_by_their_own_tokens(workdir, tmp_path):
    """Also those with tokens that reading their text again would not give, and an empty line's."""
    decode(workdir, "abcdef\nb\n\ncafe\n", tmp_path, "--format=jsonl", "--config.decode.nbest=3")
    answers = [json.loads(line) for line in (tmp_path / "output").read_text().splitlines()]
    hypotheses = [h for answer in answers for h in answer["hypotheses"]]
    spelled = answers[0]["hypotheses"][0]
    spelled["text"] = "not what the tokens say"
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    files = [f"--hypotheses={tmp_path / 'h.jsonl'}", f"--output={tmp_path / 'scores'}"]
    assert s2s("score", f"--workdir={workdir}", *files) == 0
    scores = [float(line) for line in (tmp_path / "scores").read_text().splitlines()]
    np.testing.assert_allclose(scores, [h["score"] for h in hypotheses], atol=1e-4)


def test_evaluate_writes_flat_results_and_prints_them(copy, capsys):
    assert s2s("evaluate", f"--workdir={copy}") == 0
    results = json.loads((copy / "results" / "test.json").read_text())
    assert {"loss", "bleu", "chrf", "exact_match", "seconds", "bleu_signature", "chrf_signature"} <= results.keys()
    assert all(isinstance(value, float | int | str) for value in results.values())
    assert 0 < results["loss"] < 2 and 0 <= results["exact_match"] <= 100 and results["chrf"] > 20
    said = capsys.readouterr()
    assert all(name in said.out for name in ("loss", "bleu", "chrf", "exact_match", "tok:13a"))
    assert "cut" not in said.err

    # The validation split says what training said of the same step, and that a limit cuts sources before decoding.
    options = ["--config.decode.checkpoint=200", "--config.batching.max_source_length=8"]
    assert s2s("evaluate", f"--workdir={copy}", "--split=validation", *options) == 0
    longer = sum(
        len(row["source"]) > 7 for row in open_split(experiments.load(copy / "config.json").data, "validation")
    )
    cut = f"{longer} of 20 sources were longer than config.batching.max_source_length 8 tokens"
    assert longer and cut in capsys.readouterr().err
    said = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    (loss,) = [line["loss"] for line in said if line["kind"] == "validation" and line["step"] == 200]
    assert json.loads((copy / "results" / "validation.json").read_text())["loss"] == pytest.approx(loss, rel=1e-5)


# ---- From Python ----


def test_a_run_is_loaded_from_python(workdir, tmp_path):
    run = s2sjax.load(str(workdir))
    hypotheses = run.decode(["abc", "", "fed"])
    assert [len(best) for best in hypotheses] == [1, 1, 1]
    best = hypotheses[0][0]
    assert isinstance(best.text, str) and best.tokens[-1] == "</s>" and best.score < 0
    assert [h[0].text for h in hypotheses] == decode(workdir, "abc\n\nfed\n", tmp_path).splitlines()
    np.testing.assert_allclose(run.score(["abc"], [best.text]), [best.score], atol=1e-4)
    saved = read_state(workdir, run.step)
    params = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
              for path, leaf in jax.tree_util.tree_leaves_with_path(run.params)}  # fmt: skip
    assert {f"params/{name}" for name in params} == {name for name in saved if name.startswith("params/")}
    for name, leaf in params.items():
        np.testing.assert_array_equal(leaf, saved[f"params/{name}"])
    with pytest.raises(UserError, match="is not a run directory"):
        s2sjax.load(tmp_path)


def test_a_run_that_was_trained_on_other_devices_decodes_here(copy, workdir, tmp_path, caplog):
    config = json.loads((copy / "config.json").read_text())
    config["mesh"] |= {"data": 2, "fsdp": 8}
    (copy / "config.json").write_text(json.dumps(config))
    assert decode(copy, "c d\n", tmp_path) == decode(workdir, "c d\n", tmp_path)
    assert "trained on a mesh that does not fit" in caplog.text


def test_loading_writes_nothing_into_the_run(copy):
    def listing():
        return {str(path): path.stat().st_mtime_ns for path in copy.rglob("*")}

    before = listing()
    s2sjax.load(copy).decode(["abc"])
    assert listing() == before


# ---- Mistakes ----


def mistake(capsys, *arguments) -> str:
    """What is printed for a mistake: exit code 2, nothing on stdout, no traceback."""
    assert s2s(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    last = err.rstrip("\n").rpartition("s2sjax: ")[2]
    assert last and "usage:" not in err and len(last.splitlines()) <= 6, "the error stands last, not above a page"
    return err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["trian"], "'trian' is not a command: did you mean 'train'"),
        (["decode", "--workdir={run}", "--config.decode.beam_sise=1"], "did you mean 'beam_size'"),
        (["decode", "--workdir={run}", "--config.decod.beam_size=1"], "did you mean 'decode'"),
        (["decode", "--workdir={run}", "--config.seed.x=1"], "config.seed.x is not a config key"),
        (["decode", "--workdir={run}", "--inptu=x"], "input"),
        (["decode", "--workdir={run}", "--format=josnl"], "--format is 'josnl': did you mean 'jsonl'"),
        (["decode", "--workdir={run}", "{run}"], "is not expected: options are written --name=value"),
        (["decode", "--workdir={run}", "--config.decode.beam_size=0"], "beam_size is 0, expected at least 1"),
        (["decode", "--workdir={run}", "--config.decode.beam_size=two"], "beam_size"),
        (["decode", "--workdir={run}", "--config.decode.nbest=9"], "nbest is 9, but a beam of 4"),
        (["decode", "--workdir={run}", "--config.decode.checkpoint=7"], "there is no checkpoint 7 .*100, 200"),
        (["decode", "--workdir={run}", "--input={tmp}/none.txt"], "cannot read .*none.txt: No such file"),
        (["decode", "--workdir={run}", "--input={tmp}"], "cannot read .*: Is a directory"),
        (["decode", "--workdir={run}", "--input={run}/config.json", "--output={tmp}/no/out"], "cannot write .*no/out"),
        (["decode", "--workdir={run}", "--config.mesh.data=3"], "config.mesh data=3 .* does not fit 1 device:"),
        (["decode", "--workdir={tmp}/nothing"], "nothing is not a run directory: it has no config.json"),
        (["decode"], "--workdir is missing"),
        (["evaluate", "--workdir={run}", "--split=tets"], "no file for split 'tets'.*test.src"),
        (["score", "--workdir={run}", "--source={tmp}/a"], "--target is missing"),
        (["score", "--workdir={run}", "--source={tmp}/a", "--target={tmp}/b"], "cannot read .*a: No such file"),
        (["score", "--workdir={run}", "--hypotheses={run}/config.json"], "config.json, line 1: not what decode"),
        (["score", "--workdir={run}", "--hypotheses={tmp}/h", "--target={tmp}/b"], "--target is not read beside"),
        (["train", "--workdir={tmp}/x"], "--config is missing"),
        (["train", "--workdir={tmp}/x", "--config={tmp}/none.py"], "there is no config file .*none.py"),
        (["train", "--config={config}"], "--workdir is missing"),
        (["train", "--workdir={tmp}/x", "--config={config}", "--config.train.step=5"], "did you mean .*steps"),
        (["train", "--workdir={tmp}/x", "--config={config}", "--config.trian.steps=5"], "did you mean .*train"),
        (["train", "--workdir={tmp}/x", "--config={config}", "--config.train.steps=many"], "train.steps"),
        (["train", "--workdir={tmp}/x", "--config={config}", "--config.train.steps=0"], "train.steps is 0, but"),
        (["train", "--workdir={run}", "--config={config}", "--config.seed=4"], "config.seed was 0 and is 4"),
        (["train", "--workdir={tmp}/x", "--config={config}", "--config.data.dir={tmp}/no"], "does not exist"),
    ],
    ids=lambda value: " ".join(value[:1] + value[-1:]) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_message_and_exit_code_2(workdir, place, tmp_path, capsys, arguments, message):
    names = {"run": workdir, "tmp": tmp_path, "config": place / "config.py"}
    said = mistake(capsys, *(argument.format(**names) for argument in arguments))
    assert re.search(message, said, re.DOTALL), said
    assert not (tmp_path / "x" / "checkpoints").exists()


def test_input_that_is_not_utf8_names_the_file_and_the_line(workdir, tmp_path, capsys, monkeypatch):
    (tmp_path / "latin1").write_bytes(b"abc\nfed\ncaf\xe9\n")
    said = mistake(
        capsys, "decode", f"--workdir={workdir}", f"--input={tmp_path / 'latin1'}", f"--output={tmp_path / 'o'}"
    )
    assert f"{tmp_path / 'latin1'}, line 3: byte 3 is not valid UTF-8" in said
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n")))
    assert "standard input, line 1" in mistake(capsys, "decode", f"--workdir={workdir}", f"--output={tmp_path / 'o'}")


def test_files_of_different_lengths_cannot_be_scored(workdir, tmp_path, capsys):
    (tmp_path / "a").write_text("abc\nfed\n")
    (tmp_path / "b").write_text("abc\n")
    files = [f"--source={tmp_path / 'a'}", f"--target={tmp_path / 'b'}"]
    assert "has 2 lines and" in mistake(capsys, "score", f"--workdir={workdir}", *files)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"model": 5}', '{"model": {"name": "os"}}', "\x00"])
def test_a_config_of_nonsense_is_a_message(copy, capsys, text):
    (copy / "config.json").write_text(text)
    assert "config" in mistake(capsys, "decode", f"--workdir={copy}")


def change_config(workdir: Path, section: str, **values) -> None:
    config = json.loads((workdir / "config.json").read_text())
    config[section].update(values)
    (workdir / "config.json").write_text(json.dumps(config))


def test_a_checkpoint_of_another_shape_is_a_message(copy, place, capsys):
    change_config(copy, "model", width=48)
    said = mistake(capsys, "decode", f"--workdir={copy}")
    assert "is of another model or optimizer: " in said and "expected float32[" in said
    arguments = [f"--config={place / 'config.py'}", "--config.model.width=48", "--config.train.steps=300"]
    assert "is of another model" in mistake(capsys, "train", f"--workdir={copy}", *arguments)
    assert (copy / "checkpoints" / "200").is_dir(), "nothing is lost"


def damage(workdir: Path, step: int) -> Path:
    """Flip one bit in the largest file of a checkpoint."""
    path = max((workdir / "checkpoints" / str(step)).rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def test_a_damaged_checkpoint_is_named_and_training_goes_on_from_the_one_before(workdir, copy, place, capsys, caplog):
    path = damage(copy, 200)
    said = mistake(capsys, "decode", f"--workdir={copy}", "--config.decode.checkpoint=200")
    assert (
        f"is damaged: file {path.relative_to(copy / 'checkpoints' / '200')}: checksum differs; there are: 100" in said
    )

    assert s2s("decode", f"--workdir={copy}", "--config.decode.checkpoint=last", f"--input={os.devnull}") == 0
    assert "checksum differs; going on from checkpoint 100" in caplog.text
    capsys.readouterr()
    assert s2s("train", f"--config={place / 'config.py'}", f"--workdir={copy}") == 0
    said = capsys.readouterr().err
    assert "checksum differs; going on from checkpoint 100" in said and "resuming at step 100" in said
    assert (copy / "checkpoints" / "damaged-200-1").is_dir(), "what is damaged is kept for whoever wants to look"
    a, b = read_state(workdir), read_state(copy)
    assert all(a[name].tobytes() == b[name].tobytes() for name in a), "the same steps again, the same result"


def test_a_run_whose_checkpoints_are_all_damaged_or_gone_is_a_message(copy, capsys):
    for step in (100, 200):
        damage(copy, step)
    assert "is damaged" in mistake(capsys, "decode", f"--workdir={copy}", "--config.decode.checkpoint=last")
    shutil.rmtree(copy / "checkpoints")
    assert "has no checkpoint yet" in mistake(capsys, "decode", f"--workdir={copy}")


# ---- Trust ----


def test_a_path_in_a_run_directory_is_not_followed(copy, tmp_path, capsys):
    secret = tmp_path / "secret.model"
    shutil.copy(copy / "tokenizer" / "source.model", secret)
    record = json.loads((copy / "tokenizer" / "tokenizer.json").read_text())
    (copy / "tokenizer" / "source.model").unlink()
    for kinds in ({"source": "../../secret.model"}, {"source": str(secret)}, {"../../secret": "char"}):
        (copy / "tokenizer" / "tokenizer.json").write_text(json.dumps(record | {"kinds": kinds, "source": str(secret)}))
        said = mistake(capsys, "decode", f"--workdir={copy}")
        assert "tokenizer" in said


def test_a_split_name_does_not_lead_out_of_the_results(copy, place, capsys):
    shutil.copy(place / "data" / "test.src", place / "other.src")
    shutil.copy(place / "data" / "test.tgt", place / "other.tgt")
    assert s2s("evaluate", f"--workdir={copy}", "--split=../other") == 0
    assert {path.name for path in (copy / "results").iterdir()} == {".._other.json", ".._other.hyp.jsonl"}


# ---- Help ----


def test_a_message_shows_what_would_steer_a_terminal(capsys):
    with pytest.raises(SystemExit):
        run_command(["\x1b[2J\x07\ud800名"])
    assert "'\ufffd[2J\ufffd\ufffd名' is not a command" in capsys.readouterr().err


def test_values_of_a_config_do_not_steer_a_terminal_and_their_lines_are_no_messages(tmp_path, capsys):
    config = experiments.config_dict(experiments.resolve(experiments.base_config())).to_dict()
    config["data"]["train"] = "\x1b[2Jx\ns2sjax: FAKE"
    config["data"]["format"] = "\x1b[2Jx\ns2sjax: FAKE"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert s2s("decode", f"--workdir={tmp_path}") == 2
    told = capsys.readouterr()
    assert told.err.count("s2sjax: FAKE") == 1 and "\x1b" not in told.err and "\ns2sjax: FAKE" not in told.err
    config["data"]["format"] = "text"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert s2s("decode", f"--workdir={tmp_path}", "--help=data.train") == 0
    told = capsys.readouterr()
    assert "[2Jx" in told.out and "\x1b" not in told.out and "\ns2sjax: FAKE" not in told.out


def test_a_message_with_values_as_they_are_steers_no_terminal_and_looks_like_one_message(capsys, monkeypatch):
    class Command:
        @staticmethod
        def run(values):
            raise UserError("it is \x1b[2Jx\ns2sjax: FAKE")

    monkeypatch.setitem(sys.modules, "s2sjax.commands.goodput", Command)
    assert s2s("goodput", "--workdir=x") == 2
    assert capsys.readouterr().err == "s2sjax: it is \ufffd[2Jx\n  s2sjax: FAKE\n"


def test_help_is_printed_and_is_no_mistake(workdir, capsys):
    assert s2s("--help") == 0
    assert "usage: s2sjax COMMAND" in capsys.readouterr().out
    for arguments in ("decode --help", "decode -h", "help decode", "decode --help --workdir=none"):
        assert s2s(*arguments.split()) == 0
        assert "usage: s2sjax decode --workdir=DIR" in capsys.readouterr().out
    assert s2s("--help=decode.beam") == 0
    assert capsys.readouterr().out.startswith("  decode.beam_size=5  (whole number; of text, language)\n")
    assert s2s("decode", f"--workdir={workdir}", "--help") == 0
    assert "decode.beam_size=4  (whole number; default 5)" in capsys.readouterr().out
    assert s2s() == 2
    out, err = capsys.readouterr()
    assert out == "" and "usage: s2sjax COMMAND" in err


def test_both_names_of_the_program_are_the_same(place):
    result = subprocess.run(command("--help"), env=environment(place / "cache"), capture_output=True, timeout=120)
    assert result.returncode == 0 and result.stdout.startswith(b"usage: s2sjax COMMAND")
    program = Path(sys.executable).with_name("s2sjax")
    if not program.exists():
        pytest.skip("the package is not installed, only its source is on the path")
    assert os.access(program, os.X_OK)
