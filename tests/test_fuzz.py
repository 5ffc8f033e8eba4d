"""At least 2,000 spoiled inputs, in this process: each is read or refused in a sentence, within a minute and 300 MiB.

Every case has a seed of its own, which a failure prints: `case(AREA, NUMBER)` makes it again.
"""

import functools
import gzip
import json
import math
import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from s2sjax import experiment as experiments
from s2sjax import models
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.checkpoints.retention import CheckpointConfig
from s2sjax.commands import flags
from s2sjax.commands.records import read_record
from s2sjax.commands.table import COMMANDS
from s2sjax.data import tokenizer as tokenizers_lib
from s2sjax.data.splits import open_split
from s2sjax.learning.optim import make_optimizer
from s2sjax.learning.state import initializer
from s2sjax.ops.linear import Precision
from s2sjax.reporting import events, goodput
from s2sjax.reporting.history import read_history
from s2sjax.runs import average, workdir
from s2sjax.runs.loading import load
from s2sjax.training import skipped
from s2sjax.vocabulary import own_vocabulary
from tests.bombs import FAMILIES
from tests.hostile import VALUES, outcome, peak, reseal, spoil_bytes, spoil_file, spoil_json, train_tiny
from tests.tiny import on_one_device, read_state, tiny

SEED = 20261127
CASES = {"overrides": 500, "numbers": 300, "parts": 500, "runs": 100, "records": 320, "data": 400, "events": 300}
CASES |= dict.fromkeys(FAMILIES, 25)
"""How many of each area: 2,595."""
MOST = 300 << 10
"""KiB that a case may take beyond what the process had."""

Case = Callable[[random.Random, Path, Path], Callable[[], object]]
"""Spoils something of a run, or in a folder of its own, and returns what reads it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run that was trained, on one device."""
    place = tmp_path_factory.mktemp("fuzz")
    with on_one_device(place):
        yield train_tiny(place)


def overrides(rng: random.Random, run: Path, place: Path, values=VALUES) -> Callable[[], object]:
    config = experiments.config_dict(experiments.load(run / "config.json"))
    section = rng.choice([name for name in config if name != "seed"])
    key = rng.choice([f"{section}.{name}" for name in config[section]] + ["seed"])
    value = rng.choice(values)
    text = value if isinstance(value, str) else repr(value)
    if rng.random() < 0.1:
        key = spoil_bytes(rng, key.encode()).decode(errors="replace")

    def act() -> None:
        command = COMMANDS[rng.choice(("decode", "train", "evaluate"))]
        experiment = experiments.resolve(flags.parse([f"--workdir={run}", f"--config.{key}={text}"], command)["config"])
        if rng.random() < 0.1:  # what is accepted has shapes
            ports = experiment.task.ports(own_vocabulary(9), own_vocabulary(9))
            model = models.build(experiment.model_name, experiment.model, ports, precision=Precision.FLOAT32)
            optimizer = make_optimizer(experiment.optimizer, experiment.train.steps)
            jax.eval_shape(initializer(model, ports, optimizer, ema=False), jax.random.key(0))

    return act


NUMBERS = (
    *(0, 1, -1, 2, 3, 17, 10**5, 10**6, 2**31 - 1, 2**31, 2**63, 2**64, 10**11, 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1.0, 1e-320, 1e-45, 1e38, 1e39, 1e308, math.inf, -math.inf, math.nan),
)


def numbers(rng: random.Random, run: Path, place: Path) -> Callable[[], object]:
    return overrides(rng, run, place, NUMBERS)


def parts(rng: random.Random, run: Path, place: Path) -> Callable[[], object]:
    """One file of a run, read by what reads it, without building a model."""
    experiment = experiments.load(run / "config.json")
    readers: dict[str, Callable[[], object]] = {
        "config.json": lambda: workdir.check_workdir(experiment, run),
        "data.json": lambda: workdir._recorded_data(run),
        "skipped.json": lambda: skipped.read_skipped(run),
        "tokenizer/tokenizer.json": lambda: use_tokenizers(run),
        "tokenizer/source.model": lambda: use_tokenizers(run),
        "checkpoints/4/manifest.json": lambda: look_at_checkpoints(run),
        "checkpoints/2/manifest.json": lambda: average._mean(CheckpointReader(run / "checkpoints"), {2: 1.0}, "params"),
    }
    (run / "skipped.json").write_text('{"left_out": [[1, 2], [5, 6]], "roll_backs": ["step 3: x"]}')
    name = rng.choice(sorted(readers))
    if name.endswith("manifest.json") and rng.random() < 0.7:
        reseal((run / name).parent, functools.partial(spoil_json, rng))
    else:
        spoil_file(rng, run / name)
    return readers[name]


def use_tokenizers(run: Path) -> None:
    pair = tokenizers_lib.load(run / "tokenizer")
    rows = pair.source.encode(["abc", "", "日本\x00", "<2de>"])
    for row in rows:
        (
            pair.target.decode(row),
            pair.target.pieces(row),
            pair.target.encode_spans("ab c"),
            pair.target.decode_spans(row),
        )
    pair.source.to_bytes(), pair.source.vocab_size


def look_at_checkpoints(run: Path) -> None:
    reader = CheckpointReader(run / "checkpoints", CheckpointConfig().metric)
    reader.best_step(), reader.unreadable()
    for step in reader.steps():
        reader.metrics(step), reader.arrays(step), reader.verify(step)


def runs(rng: random.Random, run: Path, place: Path) -> Callable[[], object]:
    """Any file of a run, which is then opened as decode opens it."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and "plots" not in path.parts]
    path = rng.choice(files)
    spoil_file(rng, path)
    if path.parts[-2] != "2" and "checkpoints" in path.parts and path.name != "lock" and rng.random() < 0.9:
        checkpoint = Path(*path.parts[: path.parts.index("checkpoints") + 2])
        if path.name != "manifest.json":
            reseal(checkpoint)
    return lambda: load(run)


def records(rng: random.Random, run: Path, place: Path) -> Callable[[], object]:
    hypothesis = {"text": "ab", "tokens": ["a", "b"], "ids": [5, 6], "score": -1.5, "ranking_score": -1.5}
    hypothesis |= {"missing": [], "finished": True}
    record = {"source": "ba", "hypotheses": [hypothesis, hypothesis]}
    content = json.dumps(spoil_json(rng, record)).encode()
    if rng.random() < 0.4:
        content = spoil_bytes(rng, content)
    return lambda: read_record(content.decode(errors="replace"), "hypotheses.jsonl", 1)


def data(rng: random.Random, run: Path, place: Path) -> Callable[[], object]:
    kind = rng.choice(("text", "jsonl", "tsv", "csv"))
    rows = [("ab", "ba"), ("c d", "d c"), ("é,\"x\"", "日本"), ("", "")]  # fmt: skip
    lines = {
        "text": lambda row: row[0],
        "jsonl": lambda row: json.dumps({"source": row[0], "target": row[1], "id": 7}),
        "tsv": lambda row: "\t".join(row),
        "csv": lambda row: ",".join('"' + text.replace('"', '""') + '"' for text in row),
    }[kind]
    head = "" if kind in ("text", "jsonl") else {"tsv": "source\ttarget\n", "csv": "source,target\n"}[kind]
    content = (head + "".join(lines(row) + "\n" for row in rows)).encode()
    whole = gzip.compress(content) if (zipped := rng.random() < 0.3) else content
    name = "test.src" if kind == "text" else f"test.{kind}"
    (place / (name + ".gz" * zipped)).write_bytes(spoil_bytes(rng, whole))
    (place / "test.tgt").write_bytes(content)
    fields = {"text": {"data__source": "{split}.src", "data__target": "{split}.tgt"}}.get(
        kind, {"data__file": f"{{split}}.{kind}", "data__source": "source", "data__target": "target"}
    )
    config = tiny(place, data__format=kind, data__max_bad_records=rng.choice((0, 0, 3)), **fields).data

    def act() -> None:
        source = open_split(config, "test")
        for row in source:
            "".join(row.values()).encode()
        source.fingerprint()

    return act


def ledgers(rng: random.Random, run: Path, place: Path) -> Callable[[], object]:
    name = rng.choice(("events.jsonl", "metrics.jsonl"))
    for _ in range(rng.choice((1, 1, 3))):
        spoil_file(rng, run / name)
    if name == "metrics.jsonl":
        return lambda: read_history(run / name)
    return lambda: goodput.table(goodput.of_run(run)) + str([*events.read(run / name)])


AREAS: dict[str, Case] = {
    "overrides": overrides, "numbers": numbers, "parts": parts, "runs": runs, "records": records, "data": data,
    "events": ledgers, **FAMILIES,
}  # fmt: skip


def case(area: str, number: int, run: Path) -> str:
    """One case: what came of it, or the traceback that a user would have seen."""
    rng = random.Random(f"{SEED}:{area}:{number}")
    place = run.parent / "case"
    place.mkdir()
    try:
        if area in ("parts", "runs", "events", *FAMILIES):
            run = shutil.copytree(run, place / "run", ignore=shutil.ignore_patterns("plots"))
        act = AREAS[area](rng, run, place)
        with peak() as taken:
            found = outcome(act)
        return found if taken[0] < MOST else f"{area} {number}: {found}, with {taken[0] >> 10} MiB"
    except Exception as error:
        return f"{area} {number}: " + "".join(traceback.format_exception(error, limit=-4))[-900:]
    finally:
        shutil.rmtree(place)


@pytest.mark.slow
@pytest.mark.parametrize("area", AREAS)
def test_whatever_is_wrong_is_said_in_a_sentence(area, run):
    before = read_state(run)
    found = [case(area, number, run) for number in range(CASES[area])]
    failures = [each for each in found if each not in ("done", "refused")]
    print(f"{area}: {len(found)} cases, {found.count('refused')} refused, {found.count('done')} read, seed {SEED}")
    assert not failures, f"seed {SEED}: {len(failures)} of {len(found)}\n" + "\n".join(failures[:5])
    assert found.count("refused") > len(found) // 30, "the cases are not wrong enough"
    assert read_state(run).keys() == before.keys()
