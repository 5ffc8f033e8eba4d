"""Memory and time of a training step against the length of the source: full attention beside a sliding window.

    .venv/bin/python tests/benchmarks/long_inputs.py --plot=long_inputs.png

A batch is one source of 512 to 8,192 tokens and a target of 64; the model is `base_config("transformer")`, in float32,
and another with `model.encoder_window` and one global token. Of each length, for either:

    temporaries   what XLA sets aside for all that a step makes, forward and backward: exact, and run nowhere
    estimate      what `s2sjax inspect` says of that without compiling
    peak          most resident memory of the process while it makes its steps, with all that the compiler left (Linux)
    step          seconds a step, the median of the rounds, in which both take turns

`--steps=0` compiles only. What would take more than `--most` GB is not run. About 10 minutes on two cores.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import contest

TARGET, VOCAB = 64, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192", help="tokens of the source")
    parser.add_argument("--window", type=int, default=128, help="model.encoder_window")
    parser.add_argument("--remat", default="none", help="model.remat of both")
    parser.add_argument("--rounds", type=int, default=5, help="turns that count")
    parser.add_argument("--steps", type=int, default=3, help="steps in a turn")
    parser.add_argument("--most", type=float, default=6.0, help="GB of temporaries, above which no step is made")
    parser.add_argument("--plot", type=Path, help="also draw memory and time against the length, as PNG")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--worker", nargs=3, metavar=("LENGTH", "WINDOW", "REMAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        length, window, remat = arguments.worker
        return work(int(length), int(window), remat)

    contest.describe_machine(("jax", "jaxlib"))
    rows = []
    for length in map(int, arguments.lengths.split(",")):
        print(f"{length} tokens ...", file=sys.stderr, flush=True)
        rows += race(length, arguments)
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        draw(rows, arguments.plot)


def race(length: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Both ways to attend at one length, which take turns: a mapping of figures each."""
    rows = []
    command = [sys.executable, __file__, "--worker", str(length)]
    with (
        contest.Contestant(f"{length}, full", [*command, "0", arguments.remat]) as full,
        contest.Contestant(f"{length}, window", [*command, str(arguments.window), arguments.remat]) as windowed,
    ):
        contestants = {0: full, arguments.window: windowed}
        rows = {window: {"length": length, "window": window, **c.ask("sizes")} for window, c in contestants.items()}
        contestants = {w: c for w, c in contestants.items() if rows[w]["temporaries"] <= arguments.most * 1e9}
        turns: dict[int, list[float]] = {window: [] for window in contestants}
        for number in range(arguments.rounds + 1 if arguments.steps else 0):  # round 0 does not count
            for window, contestant in contestants.items():
                answer = contestant.ask(arguments.steps)
                rows[window]["peak"] = answer["peak"]
                if number:
                    turns[window].append(answer["seconds"] / arguments.steps)
    for window, seconds in turns.items():
        if seconds:
            rows[window] |= {"step": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
    return list(rows.values())


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    names = ("source tokens", "attention", "temporaries", "estimate", "peak", "s a step", "least to most")
    print(f"\n| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for row in rows:
        attention = f"window {row['window']}" if row["window"] else "full"
        sizes = [f"{row[name] / 1e6:,.0f} MB" if row.get(name) else "" for name in ("temporaries", "estimate", "peak")]
        times = [f"{row['step']:.3f}", f"{row['least']:.3f} to {row['most']:.3f}"] if "step" in row else ["", ""]
        print(f"| {row['length']:,} | {attention} | {' | '.join(sizes + times)} |")


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figures = [("temporaries", 1e6, "MB of temporaries"), ("step", 1, "seconds a step")]
    figures = [each for each in figures if any(each[0] in row for row in rows)]
    figure = Figure(figsize=(5 * len(figures), 4), layout="constrained")
    for axes, (name, unit, label) in zip(figure.subplots(1, len(figures), squeeze=False)[0], figures, strict=True):
        for window in dict.fromkeys(row["window"] for row in rows):
            of_window = [row for row in rows if row["window"] == window and name in row]
            lengths, values = [row["length"] for row in of_window], [row[name] / unit for row in of_window]
            axes.loglog(lengths, values, marker="o", label=f"window {window}" if window else "full attention")
        axes.set(xlabel="source tokens", ylabel=label)
        axes.set_xticks([row["length"] for row in rows], [f"{row['length']:,}" for row in rows], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path)


# ---- One of the two, in a process of its own ----


def work(length: int, window: int, remat: str) -> None:
    answers = contest.reserve_answers()
    import jax
    import numpy as np

    from s2sjax.experiment import base_config, resolve
    from s2sjax.inspection.compiled import compile_step
    from s2sjax.inspection.cost import estimate_cost
    from s2sjax.inspection.subject import describe
    from s2sjax.processes import jax_settings
    from s2sjax.training import step as update

    jax_settings.configure_jax()
    config = base_config("transformer")
    config.batching.max_source_length = config.batching.tokens = length
    config.batching.max_target_length = config.batching.length_multiple = TARGET
    config.batching.row_multiple = config.batching.buckets = 1
    config.model.encoder_window, config.model.encoder_global_tokens = window, min(window, 1)
    config.model.remat, config.model.scan = remat, remat != "none"  # on a CPU it saves memory in loops only
    subject = describe(resolve(config), jax.devices()[:1], VOCAB, None)
    compiled, cost = compile_step(subject), estimate_cost(subject, "cpu")

    rng, shape = np.random.default_rng(0), subject.shape
    tokens = {"inputs": shape.source, "targets": shape.target, "decoder_inputs": shape.target}
    batch = {name: rng.integers(4, VOCAB, (1, n), np.int32) for name, n in tokens.items()}
    for side, n in (("input", shape.source), ("target", shape.target)):
        batch |= {
            f"{side}_segments": np.ones((1, n), np.int32),
            f"{side}_positions": np.arange(n, dtype=np.int32)[None],
        }
    batch["weights"] = np.ones((1, shape.target), np.float32)
    state = None

    def respond(request):
        nonlocal state
        if request == "sizes":
            sizes = {"temporaries": compiled.temporaries, "estimate": cost.memory.step, "flops": cost.flops.total}
            return sizes
        if state is None:
            state = initial_state(subject)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the compiler's peak
        began = time.perf_counter()
        for _ in range(request):
            state, _ = subject.step(state, batch)
        jax.block_until_ready(state)
        return {"seconds": time.perf_counter() - began, "peak": peak()}

    def initial_state(subject):
        from s2sjax.learning.state import shardings
        from s2sjax.runs.assembly import assemble_run
        from s2sjax.vocabulary import own_vocabulary

        init = assemble_run(subject.experiment, (own_vocabulary(VOCAB),) * 2, subject.mesh).init
        # Placed as a step leaves it, or the second step would be compiled anew.
        return jax.jit(init, out_shardings=shardings(subject.state))(update.stream_key(0, "init"))

    contest.serve(answers, respond)


def peak() -> int:
    """Most bytes that were resident at a time."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
