"""The command line: s2sjax train | decode | evaluate | score.

Every command takes `--config.KEY=VALUE`. `train` starts from `--config=FILE.py[:argument]`, a Python file of the user's
own that is run; the others start from the config that the run directory keeps as JSON.
"""

import contextlib
import io
import itertools
import json
import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from absl import flags
from ml_collections import ConfigDict, config_flags

from s2sjax.config import nearest
from s2sjax.errors import UserError

USAGE = """\
usage: s2sjax COMMAND --workdir=DIR [--config.KEY=VALUE ...]

  train     --config=FILE.py[:argument] --workdir=DIR     train, or resume DIR (then --config can be left out)
  decode    --workdir=DIR [--input=FILE|-] [--output=FILE|-] [--format=text|jsonl] [--prefix=FILE]
  evaluate  --workdir=DIR [--split=test]                  print a table, write DIR/results/SPLIT.json
  score     --workdir=DIR --source=FILE --target=FILE | --hypotheses=FILE.jsonl [--output=FILE|-]
                                                          log-probability a line, in nats (language models: no source)

--config is a Python file that will be run; a run directory is only read. `s2sjax COMMAND --help` lists config keys.
"""

WINDOW = 2048
"""Lines decoded together at most: sorted by length among themselves, written as soon as all are done."""


def run_command(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0, 2 for a mistake of the user's, 75 for a training run told to stop that saved."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"s2sjax: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does. Nothing more can be said to it.
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.close()
        code = 141
    except KeyboardInterrupt:
        print("s2sjax: interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def _dispatch(argv: list[str]) -> int:
    commands = {"train": _train, "decode": _decode, "evaluate": _evaluate, "score": _score}
    if not argv or argv[0] in ("help", "-h", "--help"):
        print(USAGE, end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] not in commands:
        raise UserError(f"'{argv[0]}' is not a command: {nearest(argv[0], commands)}\n\n{USAGE}")
    # grain reads absl flags, and refuses to work until they are parsed.
    flags.FLAGS.mark_as_parsed()
    return commands[argv[0]](argv[1:])


# ---- Commands ----


def _train(argv: list[str]) -> int:
    values = _parse(argv, {"workdir": None}, config_file=True)
    from s2sjax import environment, train
    from s2sjax.experiment import resolve

    environment.configure_jax()
    return train.train(resolve(values["config"]), Path(values["workdir"]))


def _decode(argv: list[str]) -> int:
    values = _parse(argv, {"workdir": None, "input": "-", "output": "-", "format": "text", "prefix": ""})
    if values["format"] not in ("text", "jsonl"):
        raise UserError(f"--format is '{values['format']}': {nearest(values['format'], ('text', 'jsonl'))}")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_reading(values["input"]))
        prefixes = None
        if values["prefix"] == "-":
            raise UserError("--prefix is -, but standard input cannot hold sources and prefixes; give it a file")
        if values["prefix"]:
            prefixes = list(_lines(stack.enter_context(_reading(values["prefix"])), values["prefix"]))
        run = _load(values)
        output = stack.enter_context(_writing(values["output"]))
        done = 0
        advance = stack.enter_context(_progress("decoding", _count_lines(values["input"])))
        for lines in _windows(_lines(source, values["input"])):
            begun = prefixes and prefixes[done : done + len(lines)]
            if begun is not None and len(begun) < len(lines):
                raise UserError(f"{values['prefix']} has only {done + len(begun)} lines; each source needs one")
            for line, hypotheses in zip(lines, run.decode(lines, prefixes=begun, progress=advance), strict=True):
                output.write(_format(line, hypotheses, values["format"]))
            output.flush()
            done += len(lines)
    if prefixes is not None and done < len(prefixes):
        raise UserError(f"{values['prefix']} has {len(prefixes)} lines, but there were only {done} sources")
    if run.translator.truncated:
        limit = run.experiment.data.max_source_length
        print(
            f"s2sjax: {run.translator.truncated} of {done} sources were longer than config.data.max_source_length "
            f"{limit} tokens and were cut there",
            file=sys.stderr,
        )
    if run.translator.unmet:
        print(
            f"s2sjax: for {run.translator.unmet} of {done} sources nothing was found that meets the constraints; their "
            "lines are empty (try a wider config.decode.beam_size)",
            file=sys.stderr,
        )
    return 0


def _evaluate(argv: list[str]) -> int:
    values = _parse(argv, {"workdir": None, "split": "test"})
    run = _load(values)
    results = run.evaluate(values["split"])
    from s2sjax.report import align

    rows = [(name, _shown(value)) for name, value in results.items()]
    print(f"{values['workdir']}, {values['split']}:", *align(rows), sep="\n  ")
    return 0


def _shown(value: float | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _score(argv: list[str]) -> int:
    values = _parse(argv, {"workdir": None, "source": "", "target": "", "hypotheses": "", "output": "-"})
    wanted = ("hypotheses",) if values["hypotheses"] else ("source", "target")
    if not (values["hypotheses"] or values["config"].data.source):
        wanted = ("target",)  # of a language model of plain text
    for name in ("source", "target", "hypotheses"):
        if (name in wanted) != bool(values[name]):
            raise UserError(
                f"--{name} is {'missing' if name in wanted else 'not read beside --' + wanted[-1]}\n\n{USAGE}"
            )
    with contextlib.ExitStack() as stack:
        read = [list(_lines(stack.enter_context(_reading(values[name])), values[name])) for name in wanted]
        if values["hypotheses"]:
            pairs = list(_hypotheses(read[0], values["hypotheses"]))
        elif len(wanted) == 1:
            pairs = [("", target) for target in read[0]]
        elif len(read[0]) == len(read[1]):
            pairs = list(zip(*read, strict=True))
        else:
            raise UserError(
                f"{values['source']} has {len(read[0])} lines and {values['target']} has {len(read[1])}; "
                "line N of one must belong to line N of the other"
            )
        run = _load(values)
        output = stack.enter_context(_writing(values["output"]))
        advance = stack.enter_context(_progress("scoring", len(pairs)))
        for score in run.score([source for source, _ in pairs], [target for _, target in pairs], progress=advance):
            output.write(f"{score:.6f}\n")
    return 0


# ---- Flags ----


def _parse(argv: list[str], options: dict[str, str | None], *, config_file: bool = False) -> dict:
    """Flags of one command; an option whose default is None is required. `config` is a ConfigDict, overridden."""
    values = flags.FlagValues()
    for name, default in options.items():
        flags.DEFINE_string(name, default, "", flag_values=values)
    flags.DEFINE_bool("help", False, "", short_name="h", flag_values=values)
    argv = ["s2sjax", *argv]
    workdir, path = _given(argv, "workdir"), _given(argv, "config")
    # Training begins from a config file; a run that exists, from the config that it keeps.
    config_file = config_file and not (
        path is None and workdir is not None and (Path(workdir) / "config.json").is_file()
    )
    if config_file:
        if path is not None and not Path(path.partition(":")[0]).is_file():
            raise UserError(f"there is no config file {path}; give --config=FILE.py, for instance one in configs/")
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    elif workdir is not None:
        saved = _saved_config(Path(workdir))
        _check_overrides(argv, saved)
        config_flags.DEFINE_config_dict("config", saved, flag_values=values, sys_argv=argv)
    elif "--help" not in argv:
        raise UserError(f"--workdir is missing\n\n{USAGE}")
    try:
        rest = values(argv)
    except UserError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError, NameError) as error:
        raise UserError(_flag_message(error, argv, values)) from error
    if len(rest) > 1:
        raise UserError(f"'{rest[1]}' is not expected: options are written --name=value\n\n{USAGE}")
    missing = [name for name, default in options.items() if default is None and values[name].value is None]
    if config_file and values["config"].value is None:
        missing.append("config")
    if values["help"].value:
        print(USAGE, end="")
        if "config" in values and isinstance(values["config"].value, ConfigDict):
            print(f"\nconfig keys and values:\n\n{values['config'].value}")
        raise SystemExit(0)
    if missing:
        raise UserError(f"--{missing[0]} is missing\n\n{USAGE}")
    return {name: values[name].value for name in (*options, "config")}


def _given(argv: Sequence[str], name: str) -> str | None:
    """The value of `--name=value` or `--name value`, before flags are defined."""
    for argument, after in itertools.zip_longest(argv, argv[1:]):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            return value if equals else after
    return None


def _saved_config(workdir: Path) -> ConfigDict:
    from s2sjax import experiment

    return experiment.config_dict(experiment.load(workdir / "config.json"))


def _check_overrides(argv: Iterable[str], config: ConfigDict) -> None:
    """Raise a `UserError` for the first `--config.a.b` that names no key."""
    for argument in argv:
        if argument.startswith(("--config.", "-config.")):
            section, where = config, "config"
            for key in argument.split("=", 1)[0].split(".")[1:]:
                if not isinstance(section, ConfigDict) or key not in section:
                    known = section.keys() if isinstance(section, ConfigDict) else ()
                    raise UserError(f"{where}.{key} is not a config key: {nearest(key, known)}")
                section, where = section[key], f"{where}.{key}"


def _flag_message(error: Exception, argv: list[str], values: flags.FlagValues) -> str:
    """An absl or ml-collections error as one sentence of ours."""
    path = _given(argv, "config")
    if path is not None and "config" in values:
        config = ConfigDict()
        with contextlib.suppress(Exception):  # a mistake in the file itself is what `error` is about
            config = _run_config_file(path)
        if config:
            _check_overrides(argv, config)
    return str(error).strip()


def _run_config_file(path: str) -> ConfigDict:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["s2sjax"])
    values(["s2sjax", f"--config={path}"])
    return values["config"].value


def _load(values: dict):
    from s2sjax import environment
    from s2sjax.experiment import resolve
    from s2sjax.run import load

    environment.configure_jax()
    return load(values["workdir"], experiment=resolve(values["config"]))


# ---- Text in and out ----


def _progress(description: str, total: int | None):
    from s2sjax.report import progress

    return progress(description, total)


@contextlib.contextmanager
def _reading(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    with stream:
        yield stream


@contextlib.contextmanager
def _writing(path: str) -> Iterator[IO[str]]:
    if path == "-":
        cast(io.TextIOWrapper, sys.stdout).reconfigure(encoding="utf-8", newline="\n")
        yield sys.stdout
        return
    try:
        stream = open(path, "w", encoding="utf-8", newline="\n")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    try:
        with stream:
            yield stream
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _lines(stream: IO[bytes], path: str) -> Iterator[str]:
    """Lines without their ends; only "\\n" and "\\r\\n" end a line."""
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            name = "standard input" if path == "-" else path
            raise UserError(
                f"{name}, line {number}: byte {error.start} is not valid UTF-8; convert the file first"
            ) from error


def _count_lines(path: str) -> int | None:
    if not Path(path).is_file():  # reading a pipe to count its lines would use them up
        return None
    with open(path, "rb") as stream:
        return sum(1 for _ in stream)


def _windows(lines: Iterable[str]) -> Iterator[list[str]]:
    """Lists of the lines that are there: at most `WINDOW`, but never waiting for more once there is one.

    A reader thread keeps up with the input, so that a pipe gets its answers line by line and a file is read in windows.
    """
    ready: queue.Queue = queue.Queue(maxsize=WINDOW)
    end = object()

    def read() -> None:
        try:
            for line in lines:
                ready.put(line)
            ready.put(end)
        except BaseException as error:
            ready.put(error)

    threading.Thread(target=read, name="input", daemon=True).start()
    last = None
    while last is None:
        window, last = _take(ready, end)
        if window:
            yield window
    if last is not end:
        raise last


def _take(ready: queue.Queue, end: object):
    """Wait for one item, then take what is there: the lines, and what ended them (`end`, an error, or None yet)."""
    window: list[str] = []
    item = ready.get()
    while isinstance(item, str):
        window.append(item)
        if len(window) == WINDOW:
            return window, None
        try:
            # A moment's patience lets a file fill a window, and a person typing not notice.
            item = ready.get(timeout=0.02)
        except queue.Empty:
            return window, None
    return window, item


def _format(source: str, hypotheses, kind: str) -> str:
    if kind == "text":
        return (hypotheses[0].text.replace("\n", " ") if hypotheses else "") + "\n"
    listed = [
        {"text": h.text, "tokens": h.tokens, "score": h.score, "ranking_score": h.ranking_score, "ids": h.ids}
        for h in hypotheses
    ]
    return json.dumps({"source": source, "hypotheses": listed}, ensure_ascii=False) + "\n"


def _hypotheses(lines: Sequence[str], path: str) -> Iterator[tuple[str, Any]]:
    """The pairs of source and hypothesis in what `decode --format=jsonl` wrote."""
    from s2sjax.tasks.translate import Hypothesis

    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["source"].encode()  # text, and none that cannot be written
            for entry in record["hypotheses"]:
                entry = Hypothesis(**entry)
                if not all(type(i) is int and 0 <= i < 2**31 for i in entry.ids):
                    raise TypeError("ids")
                yield record["source"], entry
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not what decode --format=jsonl writes ({error!r:.80})") from error
