"""Training speed of the Multi30k Transformer-Tiny: s2sjax beside a hand-written PyTorch step of the same model.

    .venv/bin/python -m pip install torch        # no dependency of the project; any CPU build of 2.6 or later
    .venv/bin/python tests/benchmarks/train_step.py --data=../shared/data/multi30k

Each contestant is a process of its own, as a user would start it. They take turns of a few seconds, round-robin, one
working and the others blocked on their standard input, so that whatever the machine does meanwhile it does to all.
What counts is real target tokens a second, end-of-sentence counted, padding not; medians over the rounds.

    s2sjax            the config as `s2sjax train` runs it: huge pages, bfloat16 products, packed batches from the
                      real pipeline
    PyTorch float32   `torch_transformer.py`, length buckets without a shape to spare, batches made beforehand
    PyTorch bfloat16  the same under autocast
    ... tuned         the same with glibc's allocator told to keep its memory (MALLOC_*_THRESHOLD_, MALLOC_TOP_PAD_)

Two workloads: `fixed` is 128 sentence pairs of 20+20 tokens, cut from real ones that are longer, so without padding;
`real` is Multi30k itself under the config's token budget, each contestant with the batching that suits it best.
About 7 minutes with the defaults on two cores that have nothing else to do.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import contest
import numpy as np

CONFIG = contest.ROOT / "configs" / "multi30k" / "transformer_tiny.py"
WORKLOADS = ("fixed", "real")
FIXED_ROWS, FIXED_LENGTH = 128, 20
TORCH_BUCKETS = 16  # PyTorch compiles nothing, so many narrow buckets cost it nothing
FIXED_BATCHES, REAL_BATCHES = 24, 400  # made beforehand; contestants go round in them

GIB = 2**30
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(16 * GIB),
    "MALLOC_TRIM_THRESHOLD_": str(16 * GIB),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}

Run = Callable[[str, int], int]
"""(workload, steps) -> real target tokens, returning when all steps are done."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    title: str
    options: Mapping[str, bool] | None
    """For PyTorch's `Trainer`; None is s2sjax."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def group(self) -> str:
        return "s2sjax" if self.options is None else "tuned" if self.environment else "default"


CONTESTANTS = {
    "s2sjax": Contestant("s2sjax", None),
    "float32": Contestant("PyTorch float32", {"bfloat16": False}),
    "bfloat16": Contestant("PyTorch bfloat16 autocast", {"bfloat16": True}),
    "float32-tuned": Contestant("PyTorch float32, tuned", {"bfloat16": False}, TUNED),
    "bfloat16-tuned": Contestant("PyTorch bfloat16, tuned", {"bfloat16": True}, TUNED),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/multi30k"), help="where Multi30k is")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each contestant that count")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn, about")
    parser.add_argument("--contestants", default=",".join(list(CONTESTANTS)), help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument("--json", type=Path, help="also write every turn's figures here")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "DIR"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, directory = arguments.worker
        return work(CONTESTANTS[name], Path(directory))

    names = arguments.contestants.split(",")
    if unknown := set(names) - set(CONTESTANTS):
        parser.error(f"no contestant is called {', '.join(sorted(unknown))}; there are {', '.join(CONTESTANTS)}")
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be above 0")
    if not arguments.data.is_dir():
        parser.error(f"{arguments.data} is not a directory; give the one that holds train.en.gz with --data=DIR")
    if importlib.util.find_spec("torch") is None:
        parser.error(f"PyTorch is missing and no dependency of this project: {sys.executable} -m pip install torch")

    contest.describe_machine(("jax", "torch"))
    with tempfile.TemporaryDirectory() as directory:
        make_workloads(arguments.data.resolve(), Path(directory))
        with contextlib.ExitStack() as stack:
            workers = {name: stack.enter_context(Worker(name, Path(directory))) for name in names}
            turns = race(workers, arguments.rounds, arguments.seconds)
    for workload in WORKLOADS:
        print_table(workload, turns[workload])
    if arguments.json:
        arguments.json.write_text(json.dumps(turns, indent=1) + "\n", encoding="utf-8")


# ---- The race ----


class Worker(contest.Contestant):
    """A contestant's process, which runs steps of a workload."""

    def __init__(self, name: str, directory: Path):
        command = [sys.executable, __file__, "--worker", name, str(directory)]
        super().__init__(f"train_step: {name}", command, CONTESTANTS[name].environment)

    def run(self, workload: str, steps: int) -> dict[str, float]:
        """Run some steps: {"steps", "tokens" (real target tokens), "seconds"}."""
        return self.ask([workload, steps])


def race(workers: Mapping[str, Worker], rounds: int, seconds: float) -> dict[str, dict[str, list]]:
    """{workload: {contestant: its turns}}. Both workloads in every round."""
    steps: dict[tuple[str, str], int] = {}
    for workload in WORKLOADS:
        for name, worker in workers.items():
            print(f"warming up {name}, {workload} ...", file=sys.stderr, flush=True)
            worker.run(workload, 12)  # compiles, meets the shapes, grows the heap
            turn = worker.run(workload, 6)
            steps[workload, name] = max(3, round(seconds * turn["steps"] / turn["seconds"]))
    turns = {workload: {name: [] for name in workers} for workload in WORKLOADS}
    for number in range(rounds + 1):  # round 0 does not count
        line = []
        for workload in WORKLOADS:
            for name, worker in workers.items():
                time.sleep(0.1)  # idle threads of the one before spin for a moment
                turn = worker.run(workload, steps[workload, name])
                line.append(f"{turn['tokens'] / turn['seconds'] / 1000:.1f}k")
                if number:
                    turns[workload][name].append(turn)
        print(f"round {number} of {rounds}: {' '.join(line)}", file=sys.stderr, flush=True)
    return turns


def print_table(workload: str, turns: Mapping[str, list]) -> None:
    """Median target tokens a second, least and most, and how much that is of PyTorch's best."""
    rates = {name: [turn["tokens"] / turn["seconds"] for turn in turns[name]] for name in turns}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = {
        group: max((m for name, m in medians.items() if CONTESTANTS[name].group == group), default=math.nan)
        for group in ("default", "tuned")
    }
    meaning = {
        "fixed": f"{FIXED_ROWS} x ({FIXED_LENGTH}+{FIXED_LENGTH}) tokens, no padding",
        "real": "Multi30k, packed for s2sjax, length buckets for PyTorch",
    }[workload]
    print(f"\n{workload}: {meaning}\n")
    columns = ("", "target tokens/s", "least to most", "ms a step", "of PyTorch's best default", "of its best tuned")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, median in medians.items():
        milliseconds = 1000 * statistics.median(turn["seconds"] / turn["steps"] for turn in turns[name])
        print(
            f"| {CONTESTANTS[name].title} | {median:,.0f} | {min(rates[name]):,.0f} to {max(rates[name]):,.0f} "
            f"| {milliseconds:.0f} | {median / best['default']:.2f} | {median / best['tuned']:.2f} |"
        )


# ---- The workloads ----


def load_experiment(data: str):
    """The config as `s2sjax train --config=... --config.data.dir=DATA` resolves it."""
    from s2sjax.experiment import resolve

    config = runpy.run_path(str(CONFIG))["get_config"]()
    config.data.dir = data
    return resolve(config)


def make_workloads(data: Path, directory: Path) -> None:
    """Write `settings.json`, and the batches: fixed.npz for all, real.npz for PyTorch."""
    from s2sjax.data.columns import Column, Examples
    from s2sjax.data.examples import assemble
    from s2sjax.data.plan import PlannedBatch, Shape, make_plan
    from s2sjax.data.prepare import prepare

    experiment = load_experiment(str(data))
    model, optimizer = experiment.model, experiment.optimizer
    expected = ("transformer", "pre", "all", 0.0, "adamw", 0.0, "cosine", 0.0, 0.0, 1)
    found = (
        experiment.model_name, model.norm, model.tied, model.hidden_dropout, optimizer.name, optimizer.weight_decay,
        optimizer.schedule, optimizer.final_fraction, experiment.train.z_loss, experiment.train.accumulate,
    )  # fmt: skip
    if found != expected or not optimizer.clip_norm > 0:
        sys.exit(f"train_step: {CONFIG} is no longer what torch_transformer.py computes: {found}, expected {expected}")
    print("preparing data ...", file=sys.stderr, flush=True)
    prepared = prepare(experiment.data, experiment.tokenizer, ("train",))
    split = prepared.splits["train"]

    def save(name: str, batches: Iterator[Mapping[str, np.ndarray]]) -> None:
        np.savez(directory / name, **{f"{i}/{key}": a for i, batch in enumerate(batches) for key, a in batch.items()})

    # 20 tokens of each side of the pairs that are as long, end-of-sentence kept.
    long = np.flatnonzero((split["source"].lengths >= FIXED_LENGTH) & (split["target"].lengths >= FIXED_LENGTH))
    long = np.random.default_rng(0).permutation(long)[: FIXED_BATCHES * FIXED_ROWS]

    def cut(ragged: Column) -> Column:
        return Column.from_rows([np.append(ragged[i][: FIXED_LENGTH - 1], ragged[i][-1]) for i in long])

    fixed = Examples.of_pairs(cut(split["source"]), cut(split["target"]))
    shape = Shape(FIXED_ROWS, *2 * (FIXED_LENGTH,))
    parts = np.arange(len(long) // FIXED_ROWS * FIXED_ROWS).reshape(-1, FIXED_ROWS)
    save("fixed.npz", (assemble(PlannedBatch(shape, part, np.arange(FIXED_ROWS)), fixed) for part in parts))

    buckets = dataclasses.replace(experiment.batching, kind="bucket", buckets=TORCH_BUCKETS, length_multiple=1)
    plan = make_plan(split["source"].lengths, split["target"].lengths, buckets, seed=experiment.seed)
    save("real.npz", (assemble(plan.batch(i), split) for i in range(REAL_BATCHES)))

    # What `Recipe` calls its fields, wherever the config has them.
    sections = [dataclasses.asdict(section) for section in (model, optimizer, experiment.train)]
    recipe = {key: value for section in sections for key, value in section.items()}
    recipe["vocab_size"] = prepared.tokenizers.target.vocab_size
    (directory / "settings.json").write_text(json.dumps({"data": str(data), "recipe": recipe}), encoding="utf-8")


def read_batches(path: Path) -> list[dict[str, np.ndarray]]:
    with np.load(path) as arrays:
        batches: dict[int, dict[str, np.ndarray]] = {}
        for name in arrays.files:
            number, key = name.split("/")
            batches.setdefault(int(number), {})[key] = arrays[name]
    return [batches[number] for number in sorted(batches)]


# ---- The contestants ----


def work(contestant: Contestant, directory: Path) -> None:
    """Answer requests on the standard input until it ends."""
    if contestant.options is None:
        from s2sjax.processes.hugepages import restart_with_huge_pages

        restart_with_huge_pages()
    answers = contest.reserve_answers()
    settings = json.loads((directory / "settings.json").read_text(encoding="utf-8"))
    with contextlib.ExitStack() as stack:
        if contestant.options is None:
            run = s2sjax_runner(settings, directory, stack)
        else:
            run = torch_runner(settings, directory, contestant.options)

        def respond(request: tuple[str, int]) -> dict[str, float]:
            workload, steps = request
            began = time.perf_counter()
            tokens = run(workload, steps)
            return {"steps": steps, "tokens": tokens, "seconds": time.perf_counter() - began}

        contest.serve(answers, respond)


def torch_runner(settings: Mapping, directory: Path, options: Mapping[str, bool]) -> Run:
    import torch
    import torch_transformer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    fields = [field.name for field in dataclasses.fields(torch_transformer.Recipe)]
    recipe = torch_transformer.Recipe(**{name: settings["recipe"][name] for name in fields})
    trainer = torch_transformer.Trainer(recipe, **options)
    feeds = {
        name: _forever([torch_transformer.to_torch(batch) for batch in read_batches(directory / f"{name}.npz")])
        for name in WORKLOADS
    }

    def run(workload: str, steps: int) -> int:
        tokens = 0
        for _ in range(steps):
            batch = next(feeds[workload])
            trainer.step(batch)
            tokens += len(batch.labels)
        return tokens

    return run


def s2sjax_runner(settings: Mapping, directory: Path, stack: contextlib.ExitStack) -> Run:
    import jax
    from absl import flags

    from s2sjax import sharding
    from s2sjax.data import pipeline
    from s2sjax.data.examples import assemble
    from s2sjax.data.plan import make_plan
    from s2sjax.data.prepare import prepare
    from s2sjax.learning import state
    from s2sjax.processes import jax_settings
    from s2sjax.runs.assembly import assemble_run
    from s2sjax.training import step as update

    flags.FLAGS.mark_as_parsed()  # grain waits for it
    jax_settings.configure_jax()
    experiment = load_experiment(settings["data"])
    mesh = sharding.make_mesh(experiment.mesh)
    prepared = prepare(experiment.data, experiment.tokenizer, ("train",))
    split = prepared.splits["train"]
    plan = make_plan(split["source"].lengths, split["target"].lengths, experiment.batching, seed=experiment.seed)

    parts = assemble_run(experiment, prepared.tokenizers.vocabularies, mesh)
    shardings = state.shardings(parts.state)
    current = jax.jit(parts.init, out_shardings=shardings)(update.stream_key(experiment.seed, "init"))
    step_fn = update.make_step(parts.model, parts.optimizer, experiment, mesh, shardings)

    sources = {
        "fixed": _forever(read_batches(directory / "fixed.npz")),
        "real": pipeline.batches(plan, functools.partial(assemble, split=split), range(10**6)),
    }
    place = sharding.batch_sharding(mesh)
    feeds = {
        name: sharding.prefetch(source, lambda batch: sharding.to_devices(batch, place))
        for name, source in sources.items()
    }
    for feed in feeds.values():
        stack.callback(feed.close)

    def run(workload: str, steps: int) -> int:
        # As the training loop does it: a step's metrics are read after the next one is on its way.
        nonlocal current
        tokens, pending = 0.0, None
        for _ in range(steps):
            current, metrics = step_fn(current, next(feeds[workload]))
            if pending is not None:
                tokens += {name: float(value) for name, value in pending.items()}["weight"]
            pending = metrics
        jax.block_until_ready(current)
        return round(tokens + float(pending["weight"]))

    return run


def _forever(items: list) -> Iterator:
    while True:
        yield from items


if __name__ == "__main__":
    main()
