"""Whether a run directory is where it was made, by the user who opens it: what its config asks for is then obeyed.

A config that comes with a run directory may have been written by a stranger. Most of it only says what the model is.
Three things reach out of the directory: where data is read (`data.dir`, patterns with `..`), where SentencePiece models
are read (`tokenizer.source_model`), and where a second copy is sent (`checkpoint.copy_to`). In a run of one's own they
are obeyed, as always. In another's they have to be said again, unless the data there is what the run was made with, as
its hash shows: its maker knows it already.

Training records in `home.json` which directory it is: its number on the file system (inode) and its path. Neither a
copy nor what was unpacked from an archive has the same number, and its maker cannot know it before; a directory that is
another user's belongs to that user. So the record cannot be brought along.
"""

import dataclasses
import os
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath

from s2sjax import distributed, jsontext, rundir
from s2sjax.data.config import DataConfig
from s2sjax.data.splits import of_each_pair
from s2sjax.data.tokenizer import TokenizerConfig
from s2sjax.errors import UserError, flag
from s2sjax.experiment import Experiment

RECORD = "home.json"


def record(workdir: Path, *, path: Path | None = None) -> None:
    """Make a run directory known as the user's own. Args: path: where it will be, if it is renamed after."""
    values = {"inode": os.stat(workdir).st_ino, "path": str((path or workdir).resolve())}
    rundir.write_json(workdir, RECORD, values, indent=None)


def is_home(workdir: Path, *, in_place: bool = False) -> bool:
    """Whether this is a run of the user's own, which may have been moved on its disk, but for `in_place`.

    A run from before there was a record is none: nothing that its maker could not write tells it from a stranger's.

    Raises:
        UserError: the record is a link or no file.
    """
    try:
        with rundir.open_for_reading(workdir, RECORD) as handle:
            owner = os.fstat(handle).st_uid  # of the very file that is read: its name may be another's by then
            values = jsontext.parse(os.read(handle, 1 << 16), workdir / RECORD)
    except (OSError, ValueError) as error:
        if isinstance(error, rundir.ForeignError):
            raise
        return False
    moved = in_place and values.get("path") != str(workdir.resolve())
    return owner == os.getuid() and values.get("inode") == os.stat(workdir).st_ino and not moved


def check(workdir: Path, experiment: Experiment, said: Collection[str]) -> None:
    """Raise a UserError if training by a saved config would read data or send a second copy that nobody here asked for.

    Args:
        said: config keys whose values are the user's own, such as "data.dir".
    """
    _refuse(
        lambda: (
            unasked_data(workdir, experiment.data, said)
            or unasked_models(workdir, experiment.tokenizer, said)
            or unasked_copy(workdir, experiment, said)
        )
    )


def check_data(workdir: Path, asked: DataConfig, saved: DataConfig, said: Collection[str]) -> None:
    """Raise a UserError if the data is only where the config of a run says that was made elsewhere.

    Args:
        asked: the config to go by.
        saved: that of the run directory: what differs is the user's own.
        said: config keys whose values are the user's own although they are the saved ones.
    """
    names = (field.name for field in dataclasses.fields(asked))
    changed = {f"data.{name}" for name in names if getattr(asked, name) != getattr(saved, name)}
    _refuse(lambda: unasked_data(workdir, asked, changed.union(said)))


def _refuse(find: Callable[[], str]) -> None:
    """Raise a UserError for the reason that process 0 finds, in every process.

    Hosts may number a directory differently, and one that stops leaves the others waiting.
    """
    (reason,) = distributed.shared([find()] if distributed.index() == 0 else None)
    if reason:
        raise UserError(reason)


def unasked_data(workdir: Path, asked: DataConfig, said: Collection[str] = ()) -> str:
    """Why data is not read where the config of a run says; empty if it may be.

    Args:
        asked: the config, with what was changed in it.
        said: config keys whose values are the user's own, such as "data.dir".
    """
    reaching, own = _reaching(asked), _keys(said)
    unsaid = [name for name in ("dir", *reaching) if f"data.{name}" not in own]
    if asked.format == "phrases" or not unsaid or is_home(workdir):
        return ""
    flags = " ".join(flag(f"config.data.{name}", getattr(asked, name)) for name in unsaid)
    return (
        f"{workdir} was made elsewhere, by somebody else or by an old version. The data that its config names is not "
        f"read unasked. If that is the data you want, say so: {flags}"
    )


def _keys(said: Collection[str]) -> set[str]:
    """Config keys without the "config." that they may begin with, on the command line as in Python."""
    return {key.removeprefix("config.") for key in said}


def unasked_models(workdir: Path, tokenizer: TokenizerConfig, said: Collection[str] = ()) -> str:
    """Why SentencePiece models are not read where the config of a run says; empty if they may be."""
    names = [name for name in ("source_model", "target_model") if getattr(tokenizer, name)]
    unsaid = [name for name in names if f"tokenizer.{name}" not in _keys(said)]
    if not unsaid or is_home(workdir):
        return ""
    flags = " ".join(flag(f"config.tokenizer.{name}", getattr(tokenizer, name)) for name in unsaid)
    return (
        f"{workdir} was made elsewhere, by somebody else or by an old version. The SentencePiece models that its "
        f"config names are not read unasked. If you want that, say so: {flags}. Where they are not there, the copies "
        "in the run are used"
    )


def unasked_copy(workdir: Path, experiment: Experiment, said: Collection[str]) -> str:
    """Why no second copy is sent where the saved config of a run says; empty if it may be."""
    url = experiment.checkpoint.copy_to
    if not url or "checkpoint.copy_to" in _keys(said) or is_home(workdir, in_place=True):
        return ""
    return (
        f"{workdir} was made elsewhere, by somebody else or by an old version. Its config asks to send a second copy "
        f"to {url!r}. Say whether you want that: {flag('config.checkpoint.copy_to', url)}, "
        "or --config.checkpoint.copy_to= for none"
    )


_PATTERNS = ("file", "source", "target")
_SPLITS = ("train", "validation", "test")


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
    patterns = [getattr(part, name) for part in of_each_pair(data)]
    each = [text for pattern in patterns for text in ([pattern] if isinstance(pattern, str) else pattern)]
    return [text.replace("{split}", split) for text in each for split in names]


def _leaves(patterns: str | Collection[str]) -> bool:
    """Whether one of these patterns of a file's name leads out of the data directory."""
    paths = map(PurePosixPath, [patterns] if isinstance(patterns, str) else patterns)
    return any(path.is_absolute() or ".." in path.parts or str(path).startswith("~") for path in paths)
