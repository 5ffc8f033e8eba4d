"""Whether a run directory is where it was made, by the user who opens it: what its config asks for is then obeyed.

A config that comes with a run directory may have been written by a stranger. Most of it only says what the model is.
Three things reach out of the directory: where data is read (`data.dir`, patterns with `..`), where SentencePiece models
are read (`tokenizer.source_model`), and where a second copy is sent (`checkpoint.copy_to`). In a run of one's own they
are obeyed, as always. In another's they have to be said again, unless the data there is what the run was made with, as
its hash shows: its maker knows it already.

Training records in `home.json` which directory it is: its number on the file system (inode) and its path. Neither a
copy nor what was unpacked from an archive has the same number, and its maker cannot know it before; a directory that is
another user's belongs to that user. So the record cannot be brought along. It also holds the config that training
wrote: whoever else can write to the directory can edit `config.json`, but cannot make the user's record agree with it.

A config may cost much as well: layers that are compiled one by one, a regular expression that never ends, a search
that fills the memory (`s2sjax.runs.costs`). In a run of one's own that is one's own affair. In another's it has to be
said beyond a limit.
"""

import functools
import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from s2sjax import experiment as experiments
from s2sjax.config import differences, to_json
from s2sjax.data.config import DataConfig
from s2sjax.data.parts import parts_of
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError, flag
from s2sjax.experiment import Experiment
from s2sjax.files import jsontext, rundir
from s2sjax.processes import distributed
from s2sjax.runs import costs
from s2sjax.runs.costs import elsewhere
from s2sjax.upgrade import current_key

RECORD = "home.json"


class Ours(Protocol):
    """Whether a run directory is the user's own; see `is_home`."""

    def __call__(self, *, in_place: bool = False) -> bool: ...


def record(workdir: Path, experiment: Experiment, *, path: Path | None = None) -> None:
    """Make a run directory known as the user's own.

    Args:
        experiment: the config that it holds.
        path: where it will be, if it is renamed after.
    """
    values = {"inode": os.stat(workdir).st_ino, "path": str((path or workdir).resolve())}
    values["config"] = experiments.as_json(experiment)
    rundir.write_json(workdir, RECORD, values, indent=None)


def is_home(workdir: Path, experiment: Experiment, said: Collection[str] = (), *, in_place: bool = False) -> bool:
    """Whether this is a run of the user's own, which may have been moved on its disk, but for `in_place`.

    A run from before there was a record is none: nothing that its maker could not write tells it from a stranger's. A
    record of before it held the config counts where nobody but the user may write to the directory and its config.

    Args:
        experiment: the config that was read from the directory, which has to be the recorded one.
        said: config keys that may differ, because the user gave their values.

    Raises:
        UserError: the record is a link or no file.
    """
    try:
        with rundir.open_for_reading(workdir, RECORD) as handle, open(handle, "rb", closefd=False) as file:
            owner = os.fstat(handle).st_uid  # of the very file that is read: its name may be another's by then
            content = file.read(experiments.LARGEST.size)
            values = jsontext.parse(content, workdir / RECORD, most=experiments.LARGEST)
        moved = in_place and values.get("path") != str(workdir.resolve())
        if owner != os.getuid() or values.get("inode") != os.stat(workdir).st_ino or moved:
            return False
        if "config" not in values:
            return not (_others_write(workdir) or _others_write(workdir / "config.json"))
        recorded, found = (
            experiments.config_dict(each).to_dict() for each in (experiments.from_json(values["config"]), experiment)
        )
    except rundir.ForeignError:
        raise
    except PermissionError as error:
        with rundir.telling(workdir / RECORD):
            mine = os.stat(workdir / RECORD, follow_symlinks=False).st_uid == os.getuid()
        if mine:
            raise rundir.unreadable(workdir / RECORD, error) from error
        return False
    except (OSError, ValueError):
        return False
    # Where this machine caches is never read from a run directory.
    return differences(recorded, found).keys() <= keys(said) | {"data.cache_dir"}


def _others_write(path: Path) -> bool:
    return bool(os.stat(path).st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def check(workdir: Path, experiment: Experiment, said: Collection[str] | None) -> None:
    """Raise a UserError if training by a saved config would read data or send a second copy that nobody here asked for,
    or would cost what nobody here can mean.

    Args:
        said: config keys whose values are the user's own, such as "data.dir"; None if the whole config is.
    """
    if said is None:
        return
    ours = functools.partial(is_home, workdir, experiment, said)
    _refuse(
        lambda: (
            unasked_data(workdir, experiment.data, said, ours)
            or unasked_models(workdir, experiment.tokenizer, said, ours)
            or unasked_pattern(workdir, experiment.tokenizer, said, ours)
            or unasked_copy(workdir, experiment, said, ours)
            or unasked_costs(workdir, experiment, said, ours, training=True)
        )
    )


def check_data(workdir: Path, asked: DataConfig, saved: Experiment, said: Collection[str]) -> None:
    """Raise a UserError if the data is only where the config of a run says that was made elsewhere.

    Args:
        asked: the section to go by.
        saved: the config of the run directory: what differs is the user's own.
        said: config keys whose values are the user's own although they are the saved ones.
    """
    changed = differences(to_json(saved.data), to_json(asked), "data.").keys()
    _refuse(lambda: unasked_data(workdir, asked, {*changed, *said}, functools.partial(is_home, workdir, saved)))


def check_costs(workdir: Path, asked: Experiment, saved: Experiment, said: Collection[str]) -> frozenset[str] | None:
    """Raise a UserError if a run that was made elsewhere costs what nobody here can mean.

    Args: as `check_data`, of all sections.

    Returns:
        config keys whose values are the user's own; None if all are, because the run is.
    """
    changed = differences(*(experiments.config_dict(each).to_dict() for each in (saved, asked)))
    own = frozenset(keys(said) | changed.keys())
    ours = functools.partial(is_home, workdir, saved)
    _refuse(lambda: unasked_costs(workdir, asked, own, ours))
    return None if decided(ours) else own


def check_tokens(
    workdir: Path, saved: Experiment, said: Collection[str] | None, tokenizers: TokenizerPair | None
) -> None:
    """Raise a UserError if the vocabularies of a run that was made elsewhere would make texts much longer.

    Args:
        saved: the config of the run directory.
        said: config keys whose values are the user's own; None if all are, or the run is.
        tokenizers: the run's own, if it has any yet.
    """
    if said is None or tokenizers is None:
        return
    ours = functools.partial(is_home, workdir, saved, said)
    _refuse(lambda: unasked_tokens(workdir, saved.tokenizer, tokenizers, said, ours))


def decided(ours: Ours) -> bool:
    """What process 0 finds, in every process."""
    (found,) = distributed.shared([ours()] if distributed.index() == 0 else None)
    return found


def _refuse(find: Callable[[], str]) -> None:
    """Raise a UserError for the reason that process 0 finds, in every process.

    Hosts may number a directory differently, and one that stops leaves the others waiting.
    """
    (reason,) = distributed.shared([find()] if distributed.index() == 0 else None)
    if reason:
        raise UserError(reason)


def unasked_data(workdir: Path, asked: DataConfig, said: Collection[str], ours: Ours) -> str:
    """Why data is not read where the config of a run says; empty if it may be.

    Args:
        asked: the config, with what was changed in it.
        said: config keys whose values are the user's own, such as "data.dir".
    """
    places, own = _places(asked), keys(said)
    unsaid = [name for name in places if f"data.{name}" not in own]
    if "data.mixture" in own:  # in Python it is said as a whole
        unsaid = [name for name in unsaid if not name.startswith("mixture.")]
    if not unsaid or ours():
        return ""
    flags = " ".join(flag(f"config.data.{name}", places[name]) for name in unsaid)
    return (
        f"{elsewhere(workdir)} The data that its config names is not "
        f"read unasked. If that is the data you want, say so: {flags}"
    )


def keys(said: Collection[str]) -> set[str]:
    """Config keys without the "config." that they may begin with, on the command line as in Python, and with the
    section that may be left out in Python; by their names of today."""
    plain = {current_key(key.removeprefix("config.")) for key in said}
    return {key if "." in key or key == "seed" else f"decode.{key}" for key in plain}


def unasked_models(workdir: Path, tokenizer: TokenizerConfig, said: Collection[str], ours: Ours) -> str:
    """Why SentencePiece models are not read where the config of a run says; empty if they may be."""
    names = [name for name in ("source_model", "target_model") if getattr(tokenizer, name)]
    unsaid = [name for name in names if f"tokenizer.{name}" not in keys(said)]
    if not unsaid or ours():
        return ""
    flags = " ".join(flag(f"config.tokenizer.{name}", getattr(tokenizer, name)) for name in unsaid)
    return (
        f"{elsewhere(workdir)} The SentencePiece models that its "
        f"config names are not read unasked. If you want that, say so: {flags}. Where they are not there, the copies "
        "in the run are used"
    )


def unasked_pattern(workdir: Path, tokenizer: TokenizerConfig, said: Collection[str], ours: Ours) -> str:
    """Why no vocabulary is learned by the regular expression of a run's config; empty if it may be, or there is one.

    Whether a regular expression ends within a lifetime cannot be told from it, so none of a stranger's is matched.
    """
    pattern = tokenizer.symbol_pattern
    if not pattern or "tokenizer.symbol_pattern" in keys(said) or rundir.exists(workdir, "data.json") or ours():
        return ""
    return (
        f"{elsewhere(workdir)} Its config asks to match a regular expression, which may take for ever, and it has no "
        f"vocabulary of its own yet. If you trust it, say so: {flag('config.tokenizer.symbol_pattern', pattern)}"
    )


def unasked_costs(
    workdir: Path, experiment: Experiment, said: Collection[str], ours: Ours, *, training: bool = False
) -> str:
    """Why what a run's config says is too much to be done; empty if it may be."""
    found = costs.beyond(experiment, training=training)
    unsaid = {key: why for key, why in found.items() if key not in keys(said)}
    if not unsaid or ours():
        return ""
    flags = " ".join(flag(f"config.{key}", costs.value_of(experiment, key)) for key in unsaid)
    return (
        f"{elsewhere(workdir)} Its config asks for {'; '.join(dict.fromkeys(unsaid.values()))}, which may take hours "
        f"or all of the memory. If you want that, say so: {flags}"
    )


def unasked_tokens(
    workdir: Path, tokenizer: TokenizerConfig, tokenizers: TokenizerPair, said: Collection[str], ours: Ours
) -> str:
    """Why the vocabularies of a run are not used; empty if they may be."""
    if "tokenizer.kind" in keys(said) or ours() or not (found := costs.beyond_tokens(tokenizers)):
        return ""
    return (
        f"{elsewhere(workdir)} Its vocabulary has {found}, by which texts may grow until they take all of the memory. "
        f"If you want that, say so: {flag('config.tokenizer.kind', tokenizer.kind)}"
    )


def unasked_copy(workdir: Path, experiment: Experiment, said: Collection[str], ours: Ours) -> str:
    """Why no second copy is sent where the saved config of a run says; empty if it may be."""
    url = experiment.checkpoint.copy_to
    if not url or "checkpoint.copy_to" in keys(said) or ours(in_place=True):
        return ""
    return (
        f"{elsewhere(workdir)} Its config asks to send a second copy "
        f"to {url!r}. Say whether you want that: {flag('config.checkpoint.copy_to', url)}, "
        "or --config.checkpoint.copy_to= for none"
    )


_PATTERNS = ("file", "source", "target")
_SPLITS = ("train", "validation", "test")


def _places(data: DataConfig) -> dict[str, Any]:
    """The keys of `data`, with their values, by which it says where to read: those of each set of a mixture too."""
    found = {}
    for name, part in parts_of(data).items() if data.mixture else [("", data)]:
        for field in ("dir", *_reaching(part)) if part.format != "phrases" else ():
            its_own = field in data.mixture.get(name, {})
            found[f"mixture.{name}.{field}" if its_own else field] = getattr(part, field)
    return found


def _reaching(data: DataConfig) -> list[str]:
    """The fields of `data` by which a file's name leads out of the data directory.

    A name is made of several: a pattern, what a split is called, and the languages of a pair. Each alone may look
    harmless, so what they make together is looked at. A field that leads out by itself is to blame, else all of them.
    """
    found = {name for name in (*_PATTERNS, *_SPLITS) if _leaves(getattr(data, name))}
    for name in _PATTERNS:
        pattern = "".join(getattr(data, name))
        makers = {name, *(_SPLITS if "{split}" in pattern else ()), *(("pairs",) if "_language}" in pattern else ())}
        if not makers & found and _leaves(_filled(data, name)):
            found |= makers
    return [name for name in (*_PATTERNS, "pairs", *_SPLITS) if name in found]


def _filled(data: DataConfig, name: str) -> list[str]:
    """What a pattern becomes for each pair of languages and each split."""
    names = [data.split_name(split).partition("[")[0] for split in _SPLITS]
    patterns = [getattr(part, name) for part in parts_of(data).values()]
    each = [text for pattern in patterns for text in ([pattern] if isinstance(pattern, str) else pattern)]
    return [text.replace("{split}", split) for text in each for split in names]


def _leaves(patterns: str | Collection[str]) -> bool:
    """Whether one of these patterns of a file's name leads out of the data directory."""
    paths = map(PurePosixPath, [patterns] if isinstance(patterns, str) else patterns)
    return any(path.is_absolute() or ".." in path.parts or str(path).startswith("~") for path in paths)
