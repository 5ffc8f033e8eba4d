"""What commands make of tiny runs, in processes of their own as a user starts them, and written down as text.

Results depend on the processor, and so does their text; on one machine it is the same every time. Nothing of the
program is imported here: what one commit wrote can be compared with what another writes.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.goldens.stablehlo import normalised, summary

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
CONFIG = Path(__file__).parent / "config.py"
FAMILIES = (
    "transformer", "rnn_seq2seq", "gnmt", "causal_lm", "griffin", "lstm_lm/text", "hmm/text", "encoder/tags",
    "rnn_encoder/tags",
)  # fmt: skip
SECTIONS = (
    "model", "data", "tokenizer", "optimizer", "train", "evaluate", "decode", "checkpoint", "faults", "mesh",
)  # fmt: skip

_QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
"""Compile in a hurry: which bits come out is another matter than whether they are the same ones."""

_TIMED = re.compile(r"seconds|_per_second|^time$")
_CHANGING = re.compile(r'^ *"?(?:seconds|time|bytes)"?[: ].*\n', re.MULTILINE)
"""Lines in which `evaluate` and `checkpoints` say how long something took, when it was, and how large files are, which
depends on which of Orbax's threads was the first."""
_SMALLEST = 100
"""Lines of the smallest programs that are kept: shorter ones are single operations outside any jitted function."""


@dataclass(frozen=True)
class Work:
    """Where commands run, and where what they made is written."""

    place: Path
    """Their working directory: run directories and caches."""
    out: Path

    def run(self, name: str, *arguments: str, devices: int = 1, fails: bool = False) -> str:
        """Run a command, keep its programs and its standard output in `out/name`. Returns the output.

        Raises:
            RuntimeError: it failed, or succeeded where it `fails`.
        """
        programs = self.place / "programs" / name
        flags = f"{_QUICK} --xla_force_host_platform_device_count={devices}"
        environment = os.environ | {
            "XLA_FLAGS": flags,
            "S2SJAX_CACHE": str(self.place / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_DUMP_IR_TO": str(programs),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "100",
        }
        command = [sys.executable, "-m", "s2sjax", *arguments]
        done = subprocess.run(command, cwd=self.place, env=environment, capture_output=True, check=False)
        if (done.returncode != 0) != fails:
            errors = done.stderr.decode(errors="replace")[-2000:]
            raise RuntimeError(f"{name}: s2sjax {' '.join(arguments)} ended with code {done.returncode}:\n{errors}")
        output = (done.stdout + (done.stderr if fails else b"")).decode()
        kept = _CHANGING.sub("", output) if arguments[0] in ("evaluate", "checkpoints") else output
        self.write(f"{name}/stdout.txt", kept)
        self._keep_programs(name, programs)
        return output

    def train(self, name: str, family: str, *flags: str, devices: int = 1) -> str:
        """Train five steps, keep metrics and state in `out/name`. Returns the run directory, as commands see it."""
        self.run(
            f"{name}/train", "train", f"--config={CONFIG}:{family}", f"--workdir={name}", f"--config.data.dir={DATA}",
            *flags, devices=devices,
        )  # fmt: skip
        self.keep_run(name)
        return name

    def keep_run(self, name: str) -> None:
        """Write down what a run directory holds: metrics of each step, samples, and hashes of the newest state."""
        from tests.goldens.inside import state_text  # the only thing that asks the program

        workdir = self.place / name
        self.write(f"{name}/state.txt", state_text(workdir))
        for kept in ("metrics.jsonl", "samples.jsonl"):
            if (workdir / kept).exists():
                lines = (workdir / kept).read_text(encoding="utf-8").splitlines()
                self.write(f"{name}/{kept}", "".join(json.dumps(without_times(json.loads(x))) + "\n" for x in lines))
        for result in sorted((workdir / "results").glob("*.json*")) if (workdir / "results").is_dir() else ():
            lines = result.read_text(encoding="utf-8")
            parts = [lines] if result.suffix == ".json" else lines.splitlines()
            self.write(f"{name}/results/{result.name}", "".join(json.dumps(without_times(json.loads(x))) + "\n"
                                                                for x in parts))  # fmt: skip

    def write(self, name: str, text: str) -> None:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _keep_programs(self, name: str, programs: Path) -> None:
        """In an order and under names that follow from their content: processes compile in any order."""
        texts = [normalised(path.read_text()) for path in programs.glob("*.mlir")] if programs.is_dir() else []
        texts = [text for text in texts if text.count("\n") >= _SMALLEST]
        kept = {summary(text)["sha256"][:16]: text for text in texts}
        for digest, text in kept.items():
            self.write(f"{name}/programs/{text.count(chr(10))}-{digest}.mlir", text)


def without_times(values: Any) -> Any:
    """JSON values without those that say when something was or how long it took."""
    if isinstance(values, Mapping):
        return {key: without_times(value) for key, value in values.items() if not _TIMED.search(key)}
    return [without_times(value) for value in values] if isinstance(values, list) else values


def family(work: Work, name: str) -> None:
    """Five steps of a family, and what it decodes, scores and measures then."""
    run = work.train(name.replace("/", "-"), name)
    files = {"": ("test.en", "test.de"), "text": ("", "test.count"), "tags": ("test.count", "test.count")}
    source, target = files[name.partition("/")[2]]
    given = [f"--input={DATA / source}"] if source else ["--prompt=two three"]
    work.run(f"{run}/decode", "decode", f"--workdir={run}", *given, "--format=jsonl", "--config.decode.nbest=2")
    sources = [f"--source={DATA / source}"] if source else []
    work.run(f"{run}/score", "score", f"--workdir={run}", *sources, f"--target={DATA / target}")


def ways_to_train(work: Work) -> None:
    """One family by every way to make batches, parts and shares of them."""
    scan = ("--config.model.scan=True", "--config.model.remat=full")
    work.train("accumulated", "transformer", "--config.train.accumulate=2")
    work.train("packed", "transformer", "--config.batching.kind=pack")
    work.train(
        "devices", "transformer", *scan, "--config.mesh.fsdp=2", "--config.mesh.tensor=2", "--config.mesh.data=1",
        devices=4,
    )  # fmt: skip
    # By the names that the keys had once: old commands go on working.
    work.train("windows", "causal_lm/text", "--config.data.join=True", "--config.data.context=12")
    work.train("bfloat16", "rnn_seq2seq", "--config.train.precision=bfloat16_products")


def ways_to_ask(work: Work) -> None:
    """Everything that commands ask of one run: needs `family(work, "transformer")`."""
    run, text = "transformer", f"--input={DATA / 'test.en'}"
    pairs = (f"--source={DATA / 'test.en'}", f"--target={DATA / 'test.de'}")
    draws = ("--config.decode.method=sample", "--config.decode.samples=2", "--config.decode.temperature=0.8")
    ask = {
        "decode text": ("decode", text),
        "decode sampled": ("decode", text, *draws, "--format=jsonl"),
        "decode stochastic": ("decode", text, "--config.decode.method=stochastic", "--config.decode.samples=2"),
        "decode details": ("decode", text, "--format=jsonl", "--details=tokens"),
        "decode choices": ("decode", text, f"--choices={DATA / 'test.de'}"),
        "decode ensemble": ("decode", text, "--ensemble=rnn_seq2seq"),
        "align": ("align", *pairs),
        "evaluate": ("evaluate", "--split=test"),
        "checkpoints": ("checkpoints", "--format=json"),
    }
    for name, (command, *arguments) in ask.items():
        output = work.run(f"asked/{name}", command, f"--workdir={run}", *arguments)
        if name == "decode sampled":
            (work.place / "drawn.jsonl").write_text(output, encoding="utf-8")
    work.run("asked/rerank", "rerank", "--input=drawn.jsonl", "--utility=chrf", "--format=jsonl")
    work.run("asked/average", "average", f"--workdir={run}", "--output=averaged", "--last=1")
    work.keep_run("averaged")
    work.keep_run(run)  # with what evaluate wrote


def inspections(work: Work) -> None:
    """What `inspect` says of one run's config, here and on devices that are not there."""
    config = (f"--config={CONFIG}:transformer", f"--config.data.dir={DATA}")
    work.run("inspect/data", "inspect", *config, "--format=json")
    work.run("inspect/devices", "inspect", *config, "--devices=8", "--vocab=100", "--config.mesh.fsdp=4")
    work.run("tag", "tag", "--workdir=hmm-text", f"--input={DATA / 'test.count'}")


def resumed(work: Work) -> None:
    """Three steps, and two more in another process."""
    name = "resumed"
    work.train(name, "transformer", "--config.train.steps=3")
    work.run(f"{name}/again", "train", f"--workdir={name}", "--config.train.steps=5")
    work.keep_run(name)


def helps(work: Work) -> None:
    """Help of every command that the overview lists, and of every section of the config."""
    overview = work.run("help/overview", "--help")
    names = re.findall(r"^  ([a-z]+)  ", overview, re.MULTILINE)
    assert "train" in names, overview
    for name in names:
        work.run(f"help/{name}", name, "--help")
    for section in SECTIONS:
        work.run(f"help/config.{section}", "train", f"--help={section}")


def chains() -> Sequence[Sequence[Callable[[Work], None]]]:
    """What can run side by side; of one chain, one after the other."""

    def of(name: str) -> Callable[[Work], None]:
        def job(work: Work) -> None:
            family(work, name)

        job.__name__ = name
        return job

    first, second, *others = FAMILIES
    return ([of(first), of(second), ways_to_ask, resumed], [*map(of, others), inspections, ways_to_train, helps])


def run_all(work: Work, say: Callable[[str], None]) -> None:
    """All commands, two at a time."""

    def one_after_the_other(jobs: Sequence[Callable[[Work], None]]) -> None:
        for job in jobs:
            job(work)
            say(job.__name__)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one_after_the_other, chains()))
