"""Run directories of November 2026, which every later version decodes with, measures and goes on training.

`runs/numbers` translates numbers from English into German: rnn_seq2seq, pieces of SentencePiece, two checkpoints, a
moving average. `runs/counting` is a language model that counts: lstm_lm, words. Both were trained on `data/` by commit
ac77332, to where no choice is close. The best two hypotheses of `numbers` are 7 nats apart, the best two words of
`counting` a quarter of one; processors differ by millionths. They are as a stranger's runs: without a record of whose
they are, and without pictures.

They are never made anew. A later version that cannot read one has lost its users' runs too: give it the reader that it
lacks. Runs of later formats stand beside these.
"""

import json
import lzma
import math
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.tiny import on_one_device, records, s2s

HERE = Path(__file__).parent
DATA = HERE / "data"
RUNS = ("numbers", "counting")
DATA_SAID = f"--config.data.dir={DATA}"

CONTINUED = {
    "eleven twelve": "one two three four five",
    "ten": "eleven twelve one two three four five",
    "twelve one two": "three four five six",
    "six seven": "eight nine ten eleven twelve one",
    "one two three": "four five six",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for name in RUNS:
        with tarfile.open(HERE / "runs" / f"{name}.tar.xz") as archive:
            archive.extractall(place, filter="data")
    with on_one_device(place):
        yield place


@pytest.fixture
def asked(place, capsys, monkeypatch):
    """A command as a function from its arguments to what it prints, in the folder of the runs."""
    monkeypatch.chdir(place)

    def run(*arguments):
        code, found = s2s(*arguments), capsys.readouterr()
        assert code == 0, found.err
        return found.out

    return run


@pytest.fixture
def copied(place):
    """Copies of runs, for tests that write into them."""
    for name in RUNS:
        shutil.copytree(place / name, place / f"{name}-copy")
    yield place
    for name in RUNS:
        shutil.rmtree(place / f"{name}-copy")


def references() -> list[str]:
    return (DATA / "test.de").read_text(encoding="utf-8").splitlines()


def test_the_translator_still_translates(asked):
    found = [json.loads(line) for line in asked(
        "decode", "--workdir=numbers", f"--input={DATA / 'test.en'}", "--format=jsonl", "--config.decode.nbest=2",
    ).splitlines()]  # fmt: skip
    assert [record["hypotheses"][0]["text"] for record in found] == references()
    for record in found:
        best, second = record["hypotheses"]
        assert best["score"] > -0.01 and second["score"] < -5, "the choices are as wide as they were"


def test_the_language_model_still_counts(asked, place):
    (place / "starts.txt").write_text("".join(f"{start}\n" for start in CONTINUED))
    assert asked("decode", "--workdir=counting", "--input=starts.txt").splitlines() == [*CONTINUED.values()]


def test_listings_of_checkpoints_and_comparisons_read_them(asked):
    listed = json.loads(asked("checkpoints", "--workdir=numbers", "--format=json"))
    assert [(entry["step"], entry["metrics"]["exact_match"]) for entry in listed["checkpoints"]] == [
        (750, 100.0), (1500, 100.0),
    ]  # fmt: skip
    compared = json.loads(asked("compare", *RUNS, "--format=json"))
    text = json.dumps(compared)
    assert all(name in text for name in RUNS) and "4.57042405" in text, "with what evaluate wrote once"


def test_nothing_of_the_machine_that_made_them_is_in_them():
    for name in RUNS:
        content = lzma.decompress((HERE / "runs" / f"{name}.tar.xz").read_bytes())
        assert not [word for word in (b"/tmp", b"/home", b"/root", b"/work", b"home.json") if word in content]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "last"), [("numbers", 1500), ("counting", 300)])
def test_training_goes_on_from_them(name, last, asked, copied):
    workdir = copied / f"{name}-copy"
    before = records(workdir)[-1]
    asked(
        "train", f"--workdir={workdir}", DATA_SAID, f"--config.train.steps={last + 3}", "--config.train.log_every=1",
        "--config.evaluate.decode=False",
    )  # fmt: skip
    steps = [line for line in records(workdir) if line["step"] > last]
    assert [line["step"] for line in steps] == [last + 1, last + 2, last + 3]
    for line in steps:
        assert math.isclose(line["loss"], before["loss"], abs_tol=0.3), "from what was learned, not anew"
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == last + 3
    assert (workdir / "checkpoints" / str(last + 3)).is_dir()


def test_evaluation_says_what_it_said(asked, copied):
    for name in RUNS:
        workdir = copied / f"{name}-copy"
        held = json.loads((workdir / "results" / "test.json").read_text())
        asked("evaluate", f"--workdir={workdir}", DATA_SAID)
        found = json.loads((workdir / "results" / "test.json").read_text())
        assert found.keys() >= held.keys()
        for key in held.keys() - {"seconds"}:
            assert found[key] == (pytest.approx(held[key], rel=1e-3) if isinstance(held[key], float) else held[key])


def test_pairs_are_scored_aligned_and_averaged(asked, copied):
    pairs = (f"--source={DATA / 'test.en'}", f"--target={DATA / 'test.de'}")
    scores = [float(line) for line in asked("score", "--workdir=numbers", *pairs).splitlines()]
    assert len(scores) == len(references()) and min(scores) > -0.01
    links = asked("align", "--workdir=numbers", *pairs).splitlines()
    assert len(links) == len(references())
    asked("average", "--workdir=numbers", "--output=averaged", "--last=2")
    assert asked("decode", "--workdir=averaged", f"--input={DATA / 'test.en'}").splitlines() == references()
