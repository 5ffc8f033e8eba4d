"""The `data` section of the config: which examples there are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2sjax.config import check_at_least, check_choices, named, nearest, one_of, shown_value
from s2sjax.errors import UserError, shown

FORMATS = ("text", "jsonl", "tsv", "csv", "tfds", "phrases")
QUOTINGS = ("auto", "double", "none")

Sets = Mapping[str, Mapping[str, Any]]
"""Of each set of a mixture, by its name, what differs from `data`, and its weight."""


@dataclass(frozen=True)
class DataConfig:
    """The `data` section: which pairs there are, and where they are read.

    Attributes:
      format: "text" (line N of one file belongs to line N of the other), "jsonl", "tsv", "csv", "tfds" or "phrases".
      dir: directory of the files; for TFDS its `data_dir` (empty: TFDS's own default).
      name: TFDS builder name; may hold a config and a version, "ted_hrlr_translate/pt_to_en:1.0.0".
      file: pattern of the file name for jsonl, tsv and csv: "{split}.jsonl". Without {split} in it, as in "pairs.tsv",
        each split is a slice: train="all[:90%]", validation="all[90%:]".
      header: tsv and csv begin with a row of column names.
      separator: tsv and csv: what stands between columns, "\\t" for a tab (empty: tab for tsv, comma for csv).
      quoting: tsv and csv: "double" (a field may stand in double quotes, and then holds separators and line ends; a
        quote in it is doubled), "none" (quotes are text) or "auto" ("none" for tsv, "double" for csv).
      source, target: text: patterns of file names, "{split}.en". jsonl and tfds: names of fields, dots for nested ones
        ("translation.en"). tsv and csv: names of columns, or without a header their numbers, from 0. Fields may stand
        in text, "{lemma} {features}", where "{{" and "}}" are braces. An empty source makes it language modelling:
        there are targets only. Several targets, ("{split}.de.0", "{split}.de.1"), or a field that is a list of
        texts, are references for evaluation: the first is trained on, and it alone is read of the training split.
      pairs: languages to translate between, such as ("en-de", "de-en"): one data set after the other. File, source,
        target and prompt may then hold {source_language} and {target_language}.
      prompt: what is read in place of a source, "Translate into German: {source}".
      mixture: data sets that are trained on together, by names of your own: {"news": {"dir": "news", "weight": 2.0},
        "talks": {"dir": "talks"}}. What a set leaves out is as in `data`; it may have its own format, dir, name, file,
        header, separator, quoting, source, target, prompt, train, validation and test. All sets have a weight or none
        has: twice the weight is twice as many examples of an epoch, however many the set has. An epoch has as many
        examples as all sets together; of a set none is seen twice before all were seen.
      mixture_temperature: T of a mixture without weights, or of pairs: the share of a set is proportional to the number
        of its examples to the power of 1/T. 1: each example once an epoch. More favours small sets; 5 is common for
        languages (Arivazhagan et al. 2019, arXiv:1907.05019).
      sets: names of the sets of the mixture to use (empty: all). Evaluate and decode with one of them:
        --config.data.sets="('news',)".
      train, validation, test: what each split is called in file names or in TFDS; a slice of one is "train[:90%]".
      max_bad_records: records of a split that may be left out because they cannot be read: text that is not UTF-8,
        broken JSON, a field that is missing, a row with more or fewer columns than the first. They are counted and
        listed. 0: the first stops everything.
      cache_dir: where prepared data is kept (empty: $S2SJAX_CACHE, else ~/.cache/s2sjax).
    """

    format: str = one_of(FORMATS, "text")
    dir: str = ""
    name: str = ""
    file: str = ""
    header: bool = True
    separator: str = ""
    quoting: str = one_of(QUOTINGS, "auto")
    source: str = "source"
    target: str | tuple[str, ...] = "target"
    pairs: tuple[str, ...] = ()
    prompt: str = "{source}"
    mixture: Sets = named()
    mixture_temperature: float = 1.0
    sets: tuple[str, ...] = ()
    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    max_bad_records: int = 0
    cache_dir: str = ""

    def __post_init__(self) -> None:
        check_choices(self, "config.data")
        if not self.targets or len({*self.targets}) < len(self.targets):
            raise UserError(
                f"config.data.target is {shown_value(self.target)}; expected one target, or several different ones"
            )
        self._check_separator()
        check_at_least(0, self, "max_bad_records", where="config.data")
        names = "".join((self.file, self.source, *self.targets))
        if self.pairs and not ("{source_language}" in names and "{target_language}" in names):
            raise UserError(
                "config.data.pairs is set, but config.data.file, source and target do not hold {source_language} and "
                "{target_language}: every pair would read the same text"
            )
        if not self.pairs and re.search(r"\{(source|target)_language\}", names + self.prompt):
            raise UserError(
                "config.data.pairs is empty, but config.data.file, source, target or prompt names a language"
            )
        if not self.source and self.prompt != "{source}":
            raise UserError(
                f"config.data.prompt is {self.prompt!r}, but without config.data.source there is nothing to put into it"
            )
        for pair in self.pairs:
            if len(pair.split("-")) != 2 or "/" in pair:  # languages become parts of files' names
                raise UserError(f"config.data.pairs holds {pair!r}; expected languages as in 'en-de'")
        if "{source}" not in self.prompt:
            raise UserError(
                f"config.data.prompt is {shown(self.prompt)}; expected {{source}} in it, where the source belongs"
            )
        self._check_mixture()

    def _check_mixture(self) -> None:
        check_at_least(1, self, "mixture_temperature", where="config.data")
        if self.mixture and self.pairs:
            raise UserError(
                "config.data.mixture and config.data.pairs are both set: make each pair a set of the mixture, with its "
                "own source, target and prompt"
            )
        # In the order of their names, as a saved config has them; lists, as JSON has them, are tuples.
        plain = {
            name: {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
            if isinstance(own, Mapping) else own
            for name, own in sorted(self.mixture.items(), key=lambda item: str(item[0]))
        }  # fmt: skip
        object.__setattr__(self, "mixture", plain)
        weighted = [name for name, own in self.mixture.items() if isinstance(own, Mapping) and "weight" in own]
        if weighted and len(weighted) < len(self.mixture):
            without = next(name for name in self.mixture if name not in weighted)
            raise UserError(
                f"config.data.mixture gives {weighted[0]!r} a weight and {without!r} none: give one to every set, or "
                "to none for shares by the number of examples"
            )
        for name in self.sets:
            if name not in self.mixture:
                raise UserError(f"config.data.sets holds {shown(name)}: {nearest(name, self.mixture)}")
        if len(set(self.sets)) < len(self.sets):
            raise UserError(f"config.data.sets holds a name twice: {shown_value(self.sets)}")
        if self.mixture_temperature != 1 and (weighted or not (self.mixture or self.pairs)):
            why = "its sets have weights" if weighted else "there is no config.data.mixture, nor config.data.pairs"
            raise UserError(f"config.data.mixture_temperature is {self.mixture_temperature}, but {why}; leave it out")

    def _check_separator(self) -> None:
        if self.format not in ("tsv", "csv"):
            if self.separator or self.quoting != "auto":
                raise UserError(
                    "config.data.separator and config.data.quoting are for tsv and csv, and config.data.format is "
                    f"{self.format!r}; leave them out"
                )
            return
        separator = self.column_separator
        if set(separator) & set("\r\n") or (self.quoted and (len(separator) > 1 or separator == '"')):
            raise UserError(
                f"config.data.separator is {self.separator!r}; expected text without line ends, and where quotes stand "
                "around fields (config.data.quoting) one character that is no quote"
            )

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else self.target

    @property
    def column_separator(self) -> str:
        return self.separator.replace("\\t", "\t") or {"tsv": "\t", "csv": ","}.get(self.format, "")

    @property
    def quoted(self) -> bool:
        """Whether fields of rows may stand in quotes."""
        return self.format in ("tsv", "csv") and (
            self.format == "csv" if self.quoting == "auto" else self.quoting == "double"
        )

    def split_name(self, split: str) -> str:
        """What `split` is called on disk; a name other than train, validation and test stands for itself.

        A slice keeps its brackets: "test[:10]" is a slice of what the test split is called.
        """
        name, bracket, rest = split.partition("[")
        return {"train": self.train, "validation": self.validation, "test": self.test}.get(name, name) + bracket + rest
