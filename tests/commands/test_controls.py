"""What stands in the files of a run directory steers no terminal: not by what a command prints, nor by what it says."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from s2sjax import experiment as experiments
from s2sjax.processes.root_logger import Formatter
from tests.hostile import command, reseal
from tests.tiny import on_one_device, random_state, tiny, write_run

NASTY = "\x1b[31m\x9b2J\x7f\x85\u202e\u2066\u2028\rx\x07"
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
KEYS = ("data.dir", "data.train", "data.validation", "checkpoint.copy_to", "tokenizer.symbol_pattern")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose files have control characters wherever they may have text."""
    place = tmp_path_factory.mktemp("controls")
    with on_one_device(place):
        experiment = tiny(place / "data", data__prompt="{source}" + NASTY, tokenizer__symbol_pattern=NASTY)
        for key in KEYS:
            experiment = experiments.override(experiment, {key: NASTY})
        run = write_run(place / "run", experiment, {step: (random_state(experiment, 0), {}) for step in (1, 2)})
        (run / "results").mkdir()
        (run / "results" / f"{NASTY}.json").write_text(json.dumps({NASTY: 1.0, "loss": 2.0}))
        lines = [{"step": 1, "kind": kind, "loss": 1.0, NASTY: 2.0} for kind in ("train", "validation")]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        starts = [{"time": "2026-11-28T00:00:00Z", "event": event, "process": 0, "step": 1, "seconds": 0.1,
                   "reason": NASTY} for event in ("start", NASTY, "stop")]  # fmt: skip
        (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in starts))
        reseal(run / "checkpoints" / "2", lambda body: body | {"metrics": {NASTY: 1.0, "loss": 2.0}})
        yield run


def spoilt(run, to, kind):
    """Another way to have them: in what is wrong with a file."""
    shutil.copytree(run, to)
    checkpoint = to / "checkpoints" / "2"
    match kind:
        case "key of the config":
            (to / "config.json").write_text(json.dumps({NASTY: 1}))
        case "name of a family":
            (to / "config.json").write_text(json.dumps({"model": {"name": NASTY}}))
        case "file of a checkpoint":
            (checkpoint / f"{NASTY}".replace("/", "")).write_text("x")
        case "array of a checkpoint":
            reseal(checkpoint, lambda body: body | {"arrays": {f"params/{NASTY}": {"shape": [1], "dtype": "int32"}}})
        case "type of an array":
            reseal(checkpoint, lambda body: body | {"arrays": {"params/x": {"shape": [1], "dtype": NASTY}}})
        case "symbol":
            (to / "tokenizer" / "source.model").write_text(json.dumps({"symbols": [NASTY, NASTY], "characters": "a"}))
        case "kind of a tokenizer":
            (to / "tokenizer" / "tokenizer.json").write_text(json.dumps({"format": NASTY, "kinds": {"source": NASTY}}))
        case "data":
            (to / "data.json").write_text(json.dumps({"train": NASTY}))
        case "skipped":
            (to / "skipped.json").write_text(json.dumps({"left_out": NASTY, "roll_backs": [NASTY]}))
        case "choice of a checkpoint":
            config = json.loads((to / "config.json").read_text())
            config["decode"]["checkpoint"] = NASTY
            (to / "config.json").write_text(json.dumps(config))
    return to


KINDS = ("", "key of the config", "name of a family", "file of a checkpoint", "array of a checkpoint",
         "type of an array", "symbol", "kind of a tokenizer", "data", "skipped", "choice of a checkpoint")  # fmt: skip


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize("kind", KINDS)
def test_no_command_prints_what_steers_a_terminal(kind, run, tmp_path, capfd, caplog):
    there = spoilt(run, tmp_path / "run", kind)
    (tmp_path / "lines").write_text("ab\n")
    workdir, lines = f"--workdir={there}", tmp_path / "lines"
    for argv in (
        ["checkpoints", workdir], ["checkpoints", workdir, "--format=json"], ["compare", there, run],
        ["compare", there, run, "--format=json"], ["goodput", workdir], ["evaluate", workdir],
        ["decode", workdir, f"--input={lines}", "--config.decode.checkpoint=7"], ["decode", workdir, "--help=data"],
        ["decode", workdir, "--split=test", "--config.decode.checkpoint=last"], ["train", workdir],
        ["train", workdir, "--config.data.dir=x", "--config.checkpoint.copy_to="],
        ["average", workdir, f"--output={tmp_path / 'average'}", "--last=2"],
        ["inspect", workdir], ["rerank", f"--input={there / 'config.json'}", f"--runs={there}:1"],
    ):  # fmt: skip
        code, said = command(*argv)
        out, err = capfd.readouterr()
        assert code in (0, 2), (argv, said)
        logged = map(Formatter("%(levelname)s: %(message)s").format, caplog.records)
        found = STEERS.findall("".join((said, out, err, *logged)))
        assert not found, f"{argv} prints {found}: {said!r}"


@pytest.mark.slow
def test_a_warning_of_the_program_steers_no_terminal_either(run, tmp_path):
    there = spoilt(run, tmp_path / "run", "file of a checkpoint")
    arguments = ["decode", f"--workdir={there}", "--prompt=", "--config.decode.checkpoint=last"]
    said = subprocess.run([sys.executable, "-m", "s2sjax", *arguments], capture_output=True)
    assert said.returncode == 0 and "warning: checkpoint 2: file" in said.stderr.decode()
    assert not STEERS.search(said.stderr.decode())
