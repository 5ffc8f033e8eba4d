"""Decoding speed: s2sjax beside CTranslate2 and Hugging Face `generate`, the same random weights in each.

    .venv/bin/python -m pip install torch transformers ctranslate2      # no dependencies of the project
    .venv/bin/python tests/benchmarks/decode.py --data=../shared/data/multi30k

A Transformer of 6+6 layers, 512 wide (MLP 2048, 8 heads, vocabulary 8,000, post-norm) translates sources of Multi30k
with a beam of 4 in batches of 32, sentences of similar length together. End-of-sentence is kept away until the last of
24 tokens, so that every system makes the same 24 steps. What counts is tokens of the best hypothesis a second, encoder
included; medians over the rounds.

Each contestant is a process of its own, with as many threads as there are cores, and they take turns. What they find
is scored by one judge, our model in float32: nats a token of the best hypotheses, their last token aside. So nobody is
fast by searching less, and what int8 and bfloat16 lose can be read off.

    s2sjax          compiled search; batches padded as `s2sjax decode` pads them
    CTranslate2     `Translator.translate_batch`; int8 is its fastest type on a CPU
    Hugging Face    `generate`, scaled dot-product attention

`--curves` adds what a step of ours costs in searches of 8 to 128 steps, and for 1 to 16 hypotheses.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import contest
import numpy as np

from s2sjax.ports import Tokens

LAYERS, WIDTH, HIDDEN, HEADS, VOCAB = 6, 512, 2048, 8, 8000
BEAM, BATCH, STEPS = 4, 32, 24
LONGEST = 128  # positions
CURVE_STEPS, CURVE_WIDTHS = (8, 16, 32, 64, LONGEST), (1, 2, 4, 8, 16)

Decode = Callable[[np.ndarray], np.ndarray]
"""Sources [B, S], padded at their ends -> the best hypotheses [B, STEPS]."""

TITLES = {
    "float32": "s2sjax float32",
    "bfloat16_products": "s2sjax bfloat16 products",
    "bfloat16": "s2sjax bfloat16",
    "ctranslate2-float32": "CTranslate2 float32",
    "ctranslate2-int8": "CTranslate2 int8",
    "hugging-face": "Hugging Face float32",
}
OURS = ("float32", "bfloat16_products", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/multi30k"), help="where Multi30k is")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant that count")
    parser.add_argument("--batches", type=int, default=2, help="batches in a turn")
    parser.add_argument("--contestants", default=",".join(TITLES), help=f"of {', '.join(TITLES)}")
    parser.add_argument("--curves", action="store_true", help="also time a step of ours against length and width")
    parser.add_argument("--json", type=Path, help="also write every turn's figures here")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "DIR"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, directory = arguments.worker
        return work(name, Path(directory))

    names = [name for name in arguments.contestants.split(",") if name]
    if unknown := set(names) - set(TITLES):
        parser.error(f"no contestant is called {', '.join(sorted(unknown))}; there are {', '.join(TITLES)}")
    if arguments.rounds < 1 or arguments.batches < 1:
        parser.error("--rounds and --batches must be above 0")
    if not arguments.data.is_dir():
        parser.error(f"{arguments.data} is not a directory; give the one that holds train.en.gz with --data=DIR")
    packages = needed(names)
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        parser.error(f"missing, no dependencies of the project: {sys.executable} -m pip install {' '.join(missing)}")

    contest.describe_machine(("jax", *packages))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        make_workload(arguments.data.resolve(), directory, arguments.batches)
        with contextlib.ExitStack() as stack:
            workers = {name: stack.enter_context(start(name, directory)) for name in names}
            figures["turns"] = race(workers, arguments.rounds)
        figures["nats"] = {name: judge(directory, name) for name in names}
        print_table(figures["turns"], figures["nats"])
        if arguments.curves:
            for name in (name for name in names if name in OURS):
                with start(name, directory) as worker:
                    figures.setdefault("curves", {})[name] = worker.ask("curves")
                print_curves(name, figures["curves"][name])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def needed(names: Sequence[str]) -> list[str]:
    """Packages that these contestants need beside the project's dependencies."""
    converted = ["torch", "transformers"] if set(names) - set(OURS) else []
    return converted + (["ctranslate2"] if any(name.startswith("ctranslate2") for name in names) else [])


# ---- The race ----


def start(name: str, directory: Path) -> contest.Contestant:
    return contest.Contestant(f"decode: {name}", [sys.executable, __file__, "--worker", name, str(directory)])


def race(workers: Mapping[str, contest.Contestant], rounds: int) -> dict[str, list]:
    """{contestant: its turns}, each {"tokens", "seconds"}."""
    for name, worker in workers.items():
        print(f"warming up {name} ...", file=sys.stderr, flush=True)
        worker.ask("decode")
    turns: dict[str, list] = {name: [] for name in workers}
    for number in range(1, rounds + 1):
        for name, worker in workers.items():
            time.sleep(0.1)  # idle threads of the one before spin for a moment
            turns[name].append(worker.ask("decode"))
        rates = " ".join(f"{turn[-1]['tokens'] / turn[-1]['seconds']:.0f}" for turn in turns.values())
        print(f"round {number} of {rounds}: {rates}", file=sys.stderr, flush=True)
    return turns


def print_table(turns: Mapping[str, list], nats: Mapping[str, float]) -> None:
    """Median tokens a second, least and most, how much that is of each system we compare with, and what was found."""
    rates = {name: [turn["tokens"] / turn["seconds"] for turn in turns[name]] for name in turns}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    others = [name for name in turns if name not in OURS]
    columns = ("", "tokens/s", "least to most", "ms a step", *(f"of {TITLES[name]}" for name in others), "nats a token")
    print(f"\nBeam {BEAM}, batches of {BATCH}, {STEPS} steps\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, median in medians.items():
        ratios = "".join(f"| {median / medians[other]:.2f} " for other in others)
        print(
            f"| {TITLES[name]} | {median:,.0f} | {min(rates[name]):,.0f} to {max(rates[name]):,.0f} "
            f"| {1000 * BATCH / median:.1f} {ratios}| {nats[name]:.3f} |"
        )


def print_curves(name: str, curves: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{TITLES[name]}, milliseconds a step, encoder and first step aside\n")
    for title, points in curves.items():
        print(f"| {title} | {' | '.join(points)} |\n{'|---' * (1 + len(points))}|")
        print(f"| | {' | '.join(f'{value:.1f}' for value in points.values())} |\n")


# ---- The workload, and the judge ----


def make_workload(data: Path, directory: Path, batches: int) -> None:
    """Write `batches.npz`, tokens of sources, and `params.npz`, random parameters."""
    import jax
    import train_step

    from s2sjax.data.prepare import prepare

    experiment = train_step.load_experiment(str(data))
    print("preparing data ...", file=sys.stderr, flush=True)
    sources = prepare(experiment.data, experiment.tokenizer, ("validation",)).splits["validation"]["source"]
    order = np.argsort(sources.lengths, kind="stable")
    parts = order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
    if batches > len(parts):
        sys.exit(f"decode: there are {len(parts)} batches of {BATCH} sources, not --batches={batches}")
    chosen = parts[((np.arange(batches) + 0.5) * len(parts) / batches).astype(int)]
    arrays = {}
    for number, part in enumerate(chosen):
        rows = [sources[i][:LONGEST] for i in part]
        longest = max(map(len, rows))
        arrays[str(number)] = np.array([np.pad(row, (0, longest - len(row))) for row in rows], np.int32)
    np.savez(directory / "batches.npz", **arrays)

    model, batch = our_model("float32"), teacher_forcing(np.ones((1, 8), np.int32), np.ones((1, 8), np.int32))
    init = jax.jit(functools.partial(model.init, train=False))
    flat = jax.tree.leaves_with_path(init(jax.random.key(0), batch)["params"])
    names = ("/".join(key.key for key in path) for path, _ in flat)
    np.savez(directory / "params.npz", **dict(zip(names, (np.asarray(x) for _, x in flat), strict=True)))


def read_batches(directory: Path) -> list[np.ndarray]:
    with np.load(directory / "batches.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def read_params(directory: Path) -> dict[str, Any]:
    """The nested parameters of `params.npz`."""
    params: dict[str, Any] = {}
    with np.load(directory / "params.npz") as arrays:
        for name in arrays.files:
            *path, last = name.split("/")
            functools.reduce(lambda tree, key: tree.setdefault(key, {}), path, params)[last] = arrays[name]
    return params


def our_model(precision: str):
    from s2sjax.models import transformer
    from s2sjax.ops.linear import Precision

    config = transformer.Config(
        encoder_layers=LAYERS, decoder_layers=LAYERS, width=WIDTH, hidden=HIDDEN, heads=HEADS, dropout=0.0,
        norm="post", norm_epsilon=1e-5, positions="learned", max_positions=LONGEST + 1, mlp="swish",
    )  # fmt: skip
    return transformer.build(config, Tokens(VOCAB), Tokens(VOCAB), precision=Precision(precision))


def teacher_forcing(inputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """A batch of padded sources [B, S] and targets [B, T] without padding."""
    import jax.numpy as jnp

    from s2sjax.inference.sentences import source_batch
    from s2sjax.vocabulary import BOS, PAD

    ones = jnp.ones(targets.shape, jnp.int32)
    return {
        **source_batch(jnp.asarray(inputs), (inputs != PAD).sum(axis=1)),
        "targets": jnp.asarray(targets),
        "decoder_inputs": jnp.concatenate([ones[:, :1] * BOS, targets[:, :-1]], axis=1),
        "target_segments": ones,
        "target_positions": jnp.cumsum(ones, axis=1) - 1,
        "weights": ones.astype(jnp.float32),
    }


def judge(directory: Path, name: str) -> float:
    """Nats a token of what this contestant found, by our model in float32."""
    import jax
    import jax.numpy as jnp

    model, params = our_model("float32"), read_params(directory)

    @jax.jit
    def nats(batch):
        output = model.apply({"params": params}, batch, train=False)
        log_probs = jax.nn.log_softmax(output.features @ output.kernel)
        return -jnp.take_along_axis(log_probs, batch["targets"][..., None], axis=2).mean()

    with np.load(directory / f"{name}.npz") as found:
        # At their last step ours ends, and the others go on.
        best = [found[str(number)][:, : STEPS - 1] for number in range(len(found.files))]
    batches = read_batches(directory)
    return float(np.mean([nats(teacher_forcing(*pair)) for pair in zip(batches, best, strict=True)]))


# ---- The contestants ----


def work(name: str, directory: Path) -> None:
    """A contestant's process: "decode" is a turn, "curves" are those of `our_curves`."""
    if name in OURS:
        from s2sjax.processes.hugepages import restart_with_huge_pages
        from s2sjax.processes.jax_settings import configure_jax

        restart_with_huge_pages()
        configure_jax()
    answers = contest.reserve_answers()
    batches, threads = read_batches(directory), len(os.sched_getaffinity(0))
    if name in OURS:
        decode = our_decoder(name, directory)
    elif name == "hugging-face":
        decode = hugging_face_decoder(directory, threads)
    else:
        decode = ctranslate2_decoder(directory, name.removeprefix("ctranslate2-"), threads)

    def respond(request: str) -> dict[str, Any]:
        if request == "curves":
            return our_curves(name, directory, batches[0])
        began = time.perf_counter()
        found = [decode(batch) for batch in batches]
        seconds = time.perf_counter() - began
        if any(best.shape != (BATCH, STEPS) for best in found):
            sys.exit(f"decode: {name} found {[best.shape for best in found]}, expected {(BATCH, STEPS)} each")
        np.savez(directory / f"{name}.npz", **{str(number): best for number, best in enumerate(found)})
        return {"tokens": BATCH * STEPS * len(batches), "seconds": seconds}

    contest.serve(answers, respond)


def our_search(precision: str, directory: Path):
    """`search(inputs [B, S], config) -> BeamResult`, compiled for each shape and config."""
    import jax
    import jax.numpy as jnp

    from s2sjax.decode.beam import beam_search
    from s2sjax.decode.constraints import Asked
    from s2sjax.decode.stepping import narrow
    from s2sjax.inference.scorers import Single
    from s2sjax.inference.sentences import source_batch
    from s2sjax.ops.linear import Precision
    from s2sjax.vocabulary import BOS, PAD

    model = our_model(precision)
    # As `Translator` holds them, and searches: the first step is made once.
    params = Single(model, Precision(precision)).rounded(jax.device_put(read_params(directory)))

    @functools.partial(jax.jit, static_argnames="config")
    def search(params, inputs, config):
        def method(name):
            return lambda *args, **kwargs: model.apply({"params": params}, *args, method=name, **kwargs)

        memory = method("encode")(source_batch(inputs, (inputs != PAD).sum(axis=1)))
        cache = method("init_cache")(memory, width=config.beam_size, max_len=config.max_len)
        step = lambda tokens, cache: method("decode_step")(tokens, cache, memory)  # noqa: E731
        first = jnp.full(len(inputs), BOS, jnp.int32)
        cache = narrow(cache)
        asked = Asked(min_lengths=jnp.full(len(inputs), config.max_len, jnp.int32))
        return beam_search(step, cache, first, config, asked)

    return lambda inputs, config: search(params, inputs, config)


def our_decoder(precision: str, directory: Path) -> Decode:
    from s2sjax.decode.beam_config import BeamConfig
    from s2sjax.inference.batching import padded_length

    search = our_search(precision, directory)
    config = BeamConfig(beam_size=BEAM, max_len=STEPS, length_penalty="none")

    def decode(inputs: np.ndarray) -> np.ndarray:
        missing = padded_length(inputs.shape[1]) - inputs.shape[1]
        return np.asarray(search(np.pad(inputs, ((0, 0), (0, missing))), config).tokens[:, 0])

    return decode


def our_curves(precision: str, directory: Path, inputs: np.ndarray) -> dict[str, dict[str, float]]:
    """Milliseconds a step, in searches of so many steps and for so many hypotheses: medians of 5 searches."""
    import jax

    from s2sjax.decode.beam_config import BeamConfig

    search = our_search(precision, directory)

    def seconds(steps: int, beam: int) -> float:
        config = BeamConfig(beam_size=beam, max_len=steps, length_penalty="none")
        times = []
        for _ in range(6):
            began = time.perf_counter()
            jax.block_until_ready(search(inputs, config))
            times.append(time.perf_counter() - began)
        return statistics.median(times[1:])  # the first compiles

    def milliseconds(steps: int, beam: int) -> float:
        return 1000 * (seconds(steps, beam) - seconds(1, beam)) / (steps - 1)

    return {
        "steps": {str(steps): milliseconds(steps, BEAM) for steps in CURVE_STEPS},
        "hypotheses": {str(width): milliseconds(STEPS, width) for width in CURVE_WIDTHS},
    }


def hugging_face_decoder(directory: Path, threads: int) -> Decode:
    import hugging_face
    import torch

    torch.set_num_threads(threads)
    model = hugging_face.marian(read_params(directory), heads=HEADS)

    def decode(inputs: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(inputs.astype(np.int64))
        with torch.inference_mode():
            best = model.generate(
                ids, attention_mask=(ids != 0).long(), num_beams=BEAM, do_sample=False, length_penalty=0.0,
                min_new_tokens=STEPS, max_new_tokens=STEPS,
            )  # fmt: skip
        return best[:, 1:].numpy()

    return decode


def ctranslate2_decoder(directory: Path, compute_type: str, threads: int) -> Decode:
    import ctranslate2
    import hugging_face
    from ctranslate2.converters.transformers import BartLoader

    model = hugging_face.marian(read_params(directory), heads=HEADS)
    # Not `MarianMTLoader`: that one has the decoder begin from a zero vector in place of begin-of-sentence.
    model.config.normalize_before = model.config.normalize_embedding = False
    spec = BartLoader().get_model_spec(model)
    words = ["<pad>", "<unk>", "<s>", "</s>", *map(str, range(4, VOCAB))]
    numbers = {word: number for number, word in enumerate(words)}
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "<s>", "</s>", "<unk>"
    spec.config.decoder_start_token = "<s>"
    spec.validate()
    spec.optimize()
    with tempfile.TemporaryDirectory() as converted:
        spec.save(converted)
        translator = ctranslate2.Translator(
            converted, device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
        )

    def decode(inputs: np.ndarray) -> np.ndarray:
        sources = [[words[token] for token in row if token] for row in inputs.tolist()]
        results = translator.translate_batch(
            sources, beam_size=BEAM, length_penalty=0, min_decoding_length=STEPS, max_decoding_length=STEPS
        )
        return np.array([[numbers[word] for word in result.hypotheses[0]] for result in results], np.int32)

    return decode


if __name__ == "__main__":
    main()
