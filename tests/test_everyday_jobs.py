"""Ten everyday jobs, each in at most three commands, as the documents show them: data in, a real result out.

Each job makes a little data of its own, and a tiny model learns it by heart.
"""

import contextlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import s2sjax
from s2sjax.cli import run_command
from tests.tiny import on_one_device

pytestmark = pytest.mark.slow

SMALL = '''\
"""A model that learns a few dozen lines by heart in a minute."""

from s2sjax.experiment import base_config


def get_config(family="rnn_seq2seq"):
    config = base_config(model=family)
    config.data.dir = "data"
    config.batching.buckets = 1
    config.batching.tokens = 1024
    config.tokenizer.kind = "char"
    config.model.width = 64
    config.model.dropout = 0.0
    if family == "rnn_seq2seq":
        config.model.encoder_layers = config.model.decoder_layers = 1
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_steps = 20
    config.train.steps = 200
    config.train.label_smoothing = 0.0
    config.evaluate.decode = False
    config.evaluate.samples = 0
    config.evaluate.every_steps = 200
    return config
'''
PHRASES = {
    "good morning": "guten Morgen",
    "good night": "gute Nacht",
    "thank you": "danke",
    "see you soon": "bis bald",
    "how are you": "wie geht es dir",
    "I am fine": "mir geht es gut",
    "excuse me": "Entschuldigung",
    "no problem": "kein Problem",
}


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A directory to work in, with small.py."""
    place = tmp_path_factory.mktemp("jobs")
    with on_one_device(place), contextlib.chdir(place):
        Path("small.py").write_text(SMALL)
        Path("data").mkdir()
        yield place


def shell(commands: str) -> None:
    """Run command lines, loops over words too, as a shell would; each command ends well."""
    lines = [line for line in commands.strip().splitlines() if line.strip()]
    assert len(lines) <= 3, "a job is at most three commands"
    for line in lines:
        if loop := re.fullmatch(r"\s*for (\w+) in ([\w ]+); do (.*); done", line):
            name, words, body = loop.groups()
            each = [part.replace(f"${name}", word) for word in words.split() for part in body.split("; ")]
        else:
            each = [line]
        for command in each:
            program, *arguments = shlex.split(command)
            assert program == "s2sjax"
            with pytest.raises(SystemExit) as ended:
                run_command(arguments)
            assert ended.value.code == 0, command


def write(name: str, lines) -> None:
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_splits(pattern: str, lines: list[str], held_out: int = 4) -> None:
    """A file for each split; what is held out is some of what is learned by heart."""
    for split, part in (("train", lines), ("validation", lines[:held_out]), ("test", lines[:held_out])):
        write(pattern.format(split=split), part)


def results(run: str) -> dict:
    return json.loads(Path(run, "results", "test.json").read_text())


@pytest.fixture(scope="module")
def phrases(place):
    """The first job: a TSV file of one's own."""
    write_splits("data/{split}.tsv", ["english\tgerman", *map("\t".join, PHRASES.items())], held_out=5)
    write("new.txt", ["good night", "no problem"])
    shell(
        """
s2sjax train --config=small.py --workdir=runs/phrases --config.data.format=tsv --config.data.file={split}.tsv --config.data.source=english --config.data.target=german
s2sjax decode --workdir=runs/phrases --input=new.txt --output=new.de
"""  # noqa: E501
    )
    return "runs/phrases"


def test_1_own_tsv(phrases):
    assert Path("new.de").read_text() == "gute Nacht\nkein Problem\n"


def test_2_own_json_lines_with_line_breaks():
    rows = [{"question": f"add\n{a}\n{b}", "answer": f"{a} + {b}\n= {a + b}"} for a in range(3) for b in range(3)]
    write_splits("data/{split}.jsonl", [json.dumps(row) for row in rows])
    shell(
        """
s2sjax train --config=small.py --workdir=runs/sums --config.data.format=jsonl --config.data.file={split}.jsonl --config.data.source=question --config.data.target=answer
s2sjax decode --workdir=runs/sums --split=test --format=jsonl --output=sums.jsonl
"""  # noqa: E501
    )
    decoded = [json.loads(line) for line in Path("sums.jsonl").read_text().splitlines()]
    assert [line["source"] for line in decoded] == [row["question"] for row in rows[:4]]
    assert [line["hypotheses"][0]["text"] for line in decoded] == [row["answer"] for row in rows[:4]]


def test_3_two_references(phrases):
    rows = list(PHRASES.items())[:4]
    write("data/two.tsv", ["english\tfirst\tsecond", *(f"{en}\tetwas anderes\t{de}" for en, de in rows)])
    shell(
        """
s2sjax evaluate --workdir=runs/phrases --split=two --config.data.dir=data --config.data.target="('first', 'second')"
"""
    )
    found = json.loads(Path("runs/phrases/results/two.json").read_text())
    assert found["exact_match"] == 100.0 and found["bleu_signature"].startswith("nrefs:2")


def test_4_chinese_target():
    pairs = [
        "good morning\t早上好",
        "good night\t晚安",
        "thank you very much\t非常感谢你",
        "see you tomorrow\t我们明天见",
    ]
    write_splits("data/{split}.zh.tsv", ["english\tchinese", *pairs], held_out=5)
    shell(
        """
s2sjax train --config=small.py --workdir=runs/chinese --config.data.format=tsv --config.data.file={split}.zh.tsv --config.data.source=english --config.data.target=chinese --config.evaluate.bleu_tokenize=zh
s2sjax evaluate --workdir=runs/chinese
"""  # noqa: E501
    )
    found = results("runs/chinese")
    assert "tok:zh" in found["bleu_signature"] and found["bleu"] == pytest.approx(100)


def test_5_summaries_with_rouge():
    animals, places = ("cat", "dog", "fox"), ("barn", "wood")
    rows = [
        {"article": f"We saw a {a}. It was old. It lived in the {p}.", "summary": f"A {a}.\nIn the {p}."}
        for a in animals
        for p in places
    ]
    write_splits("data/{split}.summaries.jsonl", [json.dumps(row) for row in rows])
    shell(
        """
s2sjax train --config=small.py --workdir=runs/summaries --config.data.format=jsonl --config.data.file={split}.summaries.jsonl --config.data.source=article --config.data.target=summary
s2sjax evaluate --workdir=runs/summaries --config.evaluate.metrics="('rouge1', 'rouge2', 'rougeL', 'rougeLsum')"
"""  # noqa: E501
    )
    found = results("runs/summaries")
    assert [found[name] for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")] == [pytest.approx(100)] * 4
    assert "bleu" not in found


def test_6_inflection_from_three_columns():
    verbs = ("walk", "play", "jump", "look")
    forms = {"V;PST": "ed", "V;3;SG;PRS": "s", "V;V.PTCP;PRS": "ing"}
    rows = [f"{verb}\t{verb}{ending}\t{features}" for verb in verbs for features, ending in forms.items()]
    write_splits("data/{split}.inflection", rows, held_out=6)
    shell(
        """
s2sjax train --config=small.py --workdir=runs/inflection --config.data.format=tsv --config.data.header=False --config.data.file={split}.inflection --config.data.source="{0} {2}" --config.data.target=1
s2sjax evaluate --workdir=runs/inflection --config.evaluate.metrics="('accuracy', 'character_error_rate')"
"""  # noqa: E501
    )
    found = results("runs/inflection")
    assert (found["accuracy"], found["character_error_rate"]) == (100.0, 0.0)


def test_7_sampling_a_play_from_a_character_model():
    lines = ["ROMEO:", "My love.", "", "JULIET:", "My lord.", ""]
    for split, times in (("train", 40), ("validation", 4), ("test", 4)):
        write(f"data/{split}.play", lines * times)
    shell(
        r"""
s2sjax train --config=small.py:causal_lm --workdir=runs/play --config.data.source= --config.data.target={split}.play --config.task.join=True --config.task.context=64 --config.model.layers=2 --config.model.heads=2 --config.model.hidden=128
s2sjax decode --workdir=runs/play --prompt='ROMEO:\n' --config.decode.method=sample --config.decode.max_new_tokens=60 --config.decode.temperature=0.5 --output=play.txt
"""  # noqa: E501
    )
    text = Path("play.txt").read_text()
    assert text.startswith("My lo") and text.count("\n") > 4 and 50 < len(text) <= 62
    assert set(text.split("\n")) & {"JULIET:", "ROMEO:"}


def test_8_comparing_three_seeds(phrases, capsys):
    shell(
        """
for seed in 0 1 2; do s2sjax train --config=small.py --workdir=runs/seed-$seed --config.seed=$seed --config.train.steps=20 --config.data.format=tsv --config.data.file={split}.tsv --config.data.source=english --config.data.target=german; s2sjax evaluate --workdir=runs/seed-$seed; done
s2sjax compare runs/seed-0 runs/seed-1 runs/seed-2 --plot=seeds.png
"""  # noqa: E501
    )
    table = capsys.readouterr().out
    losses = [results(f"runs/seed-{seed}")["loss"] for seed in range(3)]
    assert len(set(losses)) == 3 and "seed" in table
    assert f"{np.mean(losses):.4f}"[:5] in table
    assert Path("seeds.png").read_bytes().startswith(b"\x89PNG")


def test_9_decoding_a_split(phrases):
    shell("s2sjax decode --workdir=runs/phrases --split=test --output=test.de")
    assert Path("test.de").read_text().splitlines() == list(PHRASES.values())[:4]


def test_10_logits_in_python(phrases):
    run = s2sjax.load("runs/phrases")
    (pair,) = run.logits(["thank you"], ["danke"])
    assert pair.tokens == (*"danke", "</s>") and pair.values.shape == (6, run.tokenizers.target.vocab_size)
    assert run.tokenizers.target.decode(pair.values.argmax(axis=-1).tolist()) == "danke"
    assert pair.log_probs[range(6), list(pair.ids)].sum() == pytest.approx(
        run.score(["thank you"], ["danke"])[0], abs=1e-5
    )
