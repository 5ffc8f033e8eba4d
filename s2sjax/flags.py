"""Flags of one command, overrides of the config among them, and what is said when they are wrong."""

import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from s2sjax.config import nearest
from s2sjax.errors import UserError

USAGE = """\
usage: s2sjax COMMAND --workdir=DIR [--config.KEY=VALUE ...]

  train     --config=FILE.py[:argument] --workdir=DIR     train, or resume DIR (then --config can be left out)
  inspect   --config=FILE.py[:argument] [--devices=N] [--platform=cpu|gpu|tpu] [--vocab=N] [--compile]
            [--format=text|json]
                                                          parameters and how they are split, memory, operations a step;
                                                          of N devices that need not exist, without data if --vocab is
                                                          given; with --compile, XLA's memory and collectives
  decode    --workdir=DIR [--input=FILE|-] [--output=FILE|-] [--format=text|jsonl]
            [--prefix=FILE] [--phrases=FILE]              what each output begins with; what it contains, tabs between
            [--choices=FILE]                              lines, one of which each output has to be
            [--details=none|tokens|attention]             with jsonl: token log-probabilities, alignments, attention
            [--ensemble=DIR,DIR]                          decode with more runs of the same vocabularies
  evaluate  --workdir=DIR [--split=test] [--ensemble=DIR,DIR]
                                                          print a table, write DIR/results/SPLIT.json
  score     --workdir=DIR --source=FILE --target=FILE | --hypotheses=FILE.jsonl [--output=FILE|-]
            [--ensemble=DIR,DIR]                          log-probability a line, in nats (language models: no source)
  rerank    [--input=FILE.jsonl|-] [--output=FILE|-] [--format=text|jsonl]
            --utility=chrf|bleu|exact_match [--weights=uniform|model]
            | [--runs=DIR:WEIGHT,...] [--channel=DIR:WEIGHT,...] [--original=WEIGHT] [--normalize=none|length]
                                                          choose among what decode --format=jsonl wrote, by minimum
                                                          Bayes risk or by the log-probabilities of more runs
                                                          (of several pairs of languages: DIR:en-de:WEIGHT)
  align     --workdir=DIR --source=FILE --target=FILE [--output=FILE|-] [--format=pharaoh|jsonl]
            [--layer=all|N] [--plot=DIR]                  which words belong together, by attention
  tag       --workdir=DIR [--input=FILE|-] [--output=FILE|-] [--format=text|jsonl]
                                                          a hidden Markov model's state for each token
  average   --workdir=DIR --output=DIR --last=N | --best=N | --ema=DECAY
                                                          average checkpoints into a new run
  goodput   --workdir=DIR                                 where a run's wall time went, over all its starts

--config is a Python file that will be run; a run directory is only read. `s2sjax COMMAND --workdir=DIR --help` lists
config keys.
"""


def parse(
    argv: list[str], options: Mapping[str, str | None], *, config_file: bool = False, switches: Sequence[str] = ()
) -> dict:
    """Flags of one command; an option whose default is None is required, and a switch is on when it is named. `config`
    is a ConfigDict, overridden, of a command that has the option `workdir` or begins from a config file."""
    values = flags.FlagValues()
    for name, default in options.items():
        flags.DEFINE_string(name, default, "", flag_values=values)
    for name in switches:
        flags.DEFINE_bool(name, False, "", flag_values=values)
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
    elif "workdir" not in options:
        pass  # it works on files, and no run's config is in play
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
    return {name: values[name].value for name in (*options, *switches, "config") if name in values}


def _given(argv: Sequence[str], name: str) -> str | None:
    """The value of `--name=value` or `--name value`, before flags are defined; of several the last, as absl has it."""
    given = None
    for argument, after in itertools.zip_longest(argv, argv[1:]):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            given = value if equals else after
    return given


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
