"""Opening a split: its files, its slice, its prompt; of a mixture, or pairs of languages, one after the other."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping

from s2sjax.data.config import DataConfig
from s2sjax.data.parts import parts_of
from s2sjax.data.records import Record, Source
from s2sjax.data.sources import open_source
from s2sjax.data.unreadable import leave_out_unreadable
from s2sjax.errors import UserError
from s2sjax.plural import counted

_SLICE = r"\[(-?[0-9]{1,99}%?)?:(-?[0-9]{1,99}%?)?\]"
_SLICED = re.compile(rf"(?P<name>[^\[\]]+)(?P<slices>(?:{_SLICE})+)")


def open_split(config: DataConfig, split: str) -> Source:
    """Opens one split as the config says: the targets beside the sources as a model reads them.

    Args:
      split: "train", "validation", "test" (as the config maps them), or any name used literally. All may be sliced as
        in TFDS: "train[:90%]", "train[-500:]"; of a split that is a slice itself, that is a slice of the slice. Of
        several targets, "train" has the first alone.

    Raises:
      UserError: as `sources.open_source`; a slice that cannot be read; there is no example; too many are bad.
    """
    parts, sources = parts_of(config), {}
    for name, part in parts.items():
        with _of_set(config, name):
            sources[name] = _open_part(part, split)
    whole = _Concatenated(sources) if len(parts) > 1 else next(iter(sources.values()))
    source = leave_out_unreadable(whole, config, split)
    for name, count in (source.parts if config.mixture else {}).items():
        if not count:
            with _of_set(config, name):
                raise UserError(_why_empty(parts[name], split, sources[name]))
    if not len(source):
        raise UserError(_why_empty(config, split, next(iter(sources.values()))))
    return source


@contextlib.contextmanager
def _of_set(config: DataConfig, name: str) -> Iterator[None]:
    """What is wrong with a set of a mixture says which."""
    try:
        yield
    except UserError as error:
        if not config.mixture:
            raise
        raise UserError(f"set {name!r} of config.data.mixture: {error}") from error


def overlap(config: DataConfig, trained: str = "train", other: str = "validation") -> str:
    """A sentence if examples of a split are among those that are trained on; empty if none are.

    It is looked for where both splits are in one file, by the numbers of their records. TFDS slices by itself, and is
    not looked at.
    """
    shared = total = 0
    named = config.split_name(trained), config.split_name(other)
    for part in parts_of(config).values():
        both = [part.split_name(split).partition("[") for split in (trained, other)]
        names = (part.source, part.targets[0]) if part.format == "text" else (part.file,)
        files = [{name.replace("{split}", split) for name in names if name} for split, _, _ in both]
        if part.format in ("tfds", "phrases") or not files[0] & files[1]:
            continue
        single = dataclasses.replace(part, target=part.targets[0])
        (first, end), (start, stop) = (_span(_open_part(single, each)) for each in (trained, other))
        if (common := min(end, stop) - max(first, start)) > 0:
            shared, named = shared + common, (part.split_name(trained), part.split_name(other))
        total += stop - start
    if not shared:
        return ""
    return (
        f"warning: {shared:,} of {counted(total, f'{other} record')} {'is' if shared == 1 else 'are'} trained on too: "
        f"config.data.{trained} is {named[0]!r} and config.data.{other} {named[1]!r}, of one file. "
        f"Choose slices that do not overlap, or {other} tells nothing new"
    )


def _span(source: Source) -> tuple[int, int]:
    """Which records of its file an opened split has: the first, and the one after the last."""
    if isinstance(source, _Prompted):
        return _span(source.whole)
    if isinstance(source, _Slice):
        start, _ = _span(source.whole)
        return start + source.start, start + source.start + len(source)
    return 0, len(source)


def prompt_of(config: DataConfig) -> Callable[[str], str]:
    """What a user's source becomes before it is read.

    Raises:
      UserError: pairs of languages or sets of a mixture have prompts of their own, and it is not said which is meant.
    """
    parts = parts_of(config)
    prompts = {part.prompt for part in parts.values()}
    if len(prompts) > 1:
        kind, key = ("pairs of languages", "pairs") if config.pairs else ("sets, with prompts of their own", "sets")
        raise UserError(
            f"this run knows several {kind}: choose one with --config.data.{key}=\"('{next(iter(parts))}',)\""
        )
    (prompt,) = prompts
    return lambda source: prompt.replace("{source}", source)


def bare_prompts(config: DataConfig) -> set[str]:
    """What becomes of a blank source before it is read, white space aside: an empty text, and each prompt alone."""
    prompts = {part.prompt for part in parts_of(config).values()}
    return {"", *(" ".join(prompt.replace("{source}", blank).split()) for prompt in prompts for blank in ("", " "))}


def blank_of(config: DataConfig) -> Callable[[str], bool]:
    """Whether a source as a model reads it holds nothing beside its prompt, so that there is nothing to translate."""
    bare = bare_prompts(config)
    return lambda source: " ".join(source.split()) in bare


def _open_part(config: DataConfig, split: str) -> Source:
    if split.partition("[")[0] == "train":
        config = dataclasses.replace(config, target=config.targets[0])
    name = config.split_name(split)
    match = _SLICED.fullmatch(name)
    slices = re.findall(_SLICE, match["slices"]) if match else []
    if config.format == "tfds":  # it slices by itself, once, and knows more ways to
        first, slices = (name[: name.index("]") + 1], slices[1:]) if match else (name, [])
        source = open_source(config, first)
    elif "[" in name and not match:
        raise UserError(f"split {name!r} is no slice; expected one such as train[:90%] or train[100:]")
    else:
        source = open_source(config, match["name"] if match else name, sliced=bool(match))
    for start, stop in slices:
        length = len(source)
        source = _Slice(source, _bound(start, length, 0), _bound(stop, length, length))
    return source if config.prompt == "{source}" or not config.source else _Prompted(source, config.prompt)


def _why_empty(config: DataConfig, split: str, source: Source) -> str:
    """A sentence about a split without examples."""
    name = config.split_name(split)
    called = "" if name == split else f" (config.data.{split.partition('[')[0]}={name!r})"
    of = f"config.data.format={config.format!r}, config.data.dir={config.dir!r}"
    if config.file:
        of += f", config.data.file={config.file!r}"
    if isinstance(source, _Prompted):
        source = source.whole
    cut = f": it is a slice of {counted(len(source.whole), 'record')}" if isinstance(source, _Slice) else ""
    return f"split {split!r}{called} has no examples{cut} ({of})"


def _bound(text: str, length: int, default: int) -> int:
    """One end of a slice as an index in 0..length."""
    if not text:
        return default
    value = int(text[:-1]) * length // 100 if text.endswith("%") else int(text)
    return min(max(value + length if text.startswith("-") else value, 0), length)


class _Slice(Source):
    def __init__(self, source: Source, start: int, stop: int) -> None:
        super().__init__("slice", source.fingerprint(), str(start), str(stop))
        self.whole, self.start, self._stop = source, start, max(start, stop)

    def __len__(self) -> int:
        return self._stop - self.start

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.whole[self.start + index]


class _Prompted(Source):
    def __init__(self, source: Source, prompt: str) -> None:
        super().__init__("prompt", source.fingerprint(), prompt)
        self.whole, self._prompt = source, prompt

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Record:
        example = self.whole[index]
        return {**example, "source": self._prompt.replace("{source}", example["source"])}


class _Concatenated(Source):
    """One data set after the other, by their names."""

    def __init__(self, parts: Mapping[str, Source]) -> None:
        super().__init__("concatenated", json.dumps([part.fingerprint() for part in parts.values()]))
        self.parts = {name: len(part) for name, part in parts.items()}
        self._sources = [*parts.values()]

    def __len__(self) -> int:
        return sum(self.parts.values())

    def __getitem__(self, index: int) -> Record:
        for part in self._sources:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(f"example {index} after the last of {len(self)}")
