"""Text to token ids and back: SentencePiece, characters, bytes and words behind one interface.

Every tokenizer that is learned here has pad 0, unk 1, bos 2, eos 3; a model that is given may have others, and says so
(`vocabulary`). `encode` adds no special token; `decode` stops at the first end-of-sentence and drops the others.

What `decode(encode(text))` keeps: bytes keep everything; characters keep what the training text held; words too, but
not how much white space stood between them. SentencePiece is trained with the identity normalisation, so spaces, case
and Unicode forms stay as they are and a reference can be rebuilt from its tokens; its default, nmt_nfkc, would rewrite
full-width characters, ligatures and runs of spaces. What it does not keep: U+2581 "▁", its own mark for a space, comes
back as a space, and a character that training did not see is unk and vanishes, unless `byte_fallback` spells it in
bytes.
"""

import dataclasses
import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np

from s2sjax.data.labels import LABEL_KINDS, LabelTokenizer, TagTokenizer
from s2sjax.data.pieces import LONGEST, SentencePieceTokenizer, sentences
from s2sjax.data.tokenizer_config import TokenizerConfig, check_symbol
from s2sjax.data.units import LARGEST, SPECIALS, ByteTokenizer, CharTokenizer, WordTokenizer
from s2sjax.errors import UserError, listed
from s2sjax.files import jsontext, paths, rundir
from s2sjax.plural import counted
from s2sjax.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

_FORMAT = 1
_log = logging.getLogger(__name__)


class Tokenizer(Protocol):
    kind: str  # "sentencepiece", "char", "byte", "word", "label" or "tag": which class reads `to_bytes()` again

    @property
    def vocabulary(self) -> Vocabulary:
        """Its size and its special tokens."""
        ...

    @property
    def vocab_size(self) -> int: ...

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids, int32, one array a text; no end-of-sentence added."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of the ids before the first end-of-sentence; the other specials are dropped."""
        ...

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Each id, specials too, as something to show."""
        ...

    def encode_spans(self, text: str) -> np.ndarray:
        """Where each token of `encode([text])` stands in the text: [n, 2], its first character and the one after
        its last.

        SentencePiece's mark "▁" alone, a space, reaches to the first character of the word that it begins.
        """
        ...

    def decode_spans(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where each id stands in `decode(ids)`, likewise; an empty span for what is not in that text."""
        ...

    @property
    def longest(self) -> int:
        """The most characters that one token is written as, or bytes that one character of a text is read as."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """User symbols that are searched for in each text before it is cut."""
        ...

    def to_bytes(self) -> bytes: ...


@dataclass(frozen=True)
class TokenizerPair:
    """Source and target tokenizers; the same object when the vocabulary is joint."""

    source: Tokenizer
    target: Tokenizer

    @property
    def joint(self) -> bool:
        return self.source is self.target

    @property
    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Of source and target."""
        return self.source.vocabulary, self.target.vocabulary


def train_tokenizers(
    config: TokenizerConfig, pairs: Sequence[tuple[str, str]], *, line_ends: bool = False
) -> TokenizerPair:
    """Trains on (source, target) pairs; deterministic. See `sample_indices` for which pairs to give.

    Args:
      line_ends: a line end is one token; then texts follow each other, and none is begun with a space of its own.

    Raises:
      UserError: SentencePiece cannot train; what `symbol_pattern` matches cannot be a token.
    """
    _check_in_use(config)
    sources, targets = (list(side) for side in zip(*pairs, strict=True))
    if config.joint:
        tokenizer = _train(config.kind, config, sources + targets, line_ends)
        return TokenizerPair(tokenizer, tokenizer)
    return TokenizerPair(
        _train(config.kind, config, sources, line_ends), _train(config.kind_of("target"), config, targets, line_ends)
    )


def compiled_pattern(config: TokenizerConfig) -> re.Pattern[str]:
    """`symbol_pattern`. To compile it may take hours, so it is done where a vocabulary is learned, and nowhere else.

    Raises: UserError if it is no regular expression.
    """
    try:
        return re.compile(config.symbol_pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f"config.tokenizer.symbol_pattern is {config.symbol_pattern!r}, which is no regular expression: {error}"
        ) from None


def _check_in_use(config: TokenizerConfig) -> None:
    """Refuses what would be without effect. Here, not where the config is read: old runs may hold it."""
    kinds = {config.kind, config.kind_of("target")}
    if config.character_coverage < 1 and not kinds & {"unigram", "bpe"}:
        raise UserError(
            f"config.tokenizer.character_coverage is for unigram and bpe, and kind is {config.kind!r}; leave it out, "
            "or lower config.tokenizer.vocab_size"
        )
    if kinds != {"byte"} and config.vocab_size <= len(SPECIALS) + len(config.user_symbols):
        raise UserError(
            f"config.tokenizer.vocab_size is {config.vocab_size}, and {counted(len(SPECIALS), 'special')} and "
            f"{counted(len(config.user_symbols), 'user symbol')} leave no room for anything else; raise it"
        )


def check_given(config: TokenizerConfig, own: TokenizerPair) -> None:
    """A run has copies of the models that it was given, which may have moved since.

    Raises:
      UserError: a file that `source_model` or `target_model` names is there, and is another model than the run's.
    """
    for side in ("source", "target"):
        path = getattr(config, f"{side}_model")
        try:
            model = paths.read(path, rundir.LARGEST) if path else None
        except (OSError, ValueError):
            continue
        if model is not None and model != getattr(own, side).to_bytes():
            raise UserError(
                f"config.tokenizer.{side}_model={path!r} is not the model that this run began with and has a copy of; "
                f"name the one it began with, or none (--config.tokenizer.{side}_model=), or use another workdir"
            )


def check_moved(config: TokenizerConfig, before: TokenizerConfig) -> None:
    """Of a run that goes on, the models may have moved. Raises: UserError if they are said to be where none is."""
    for name in ("source_model", "target_model"):
        path = getattr(config, name)
        if path and path != getattr(before, name):
            _read_model(path, name, ())


def sample_indices(count: int, config: TokenizerConfig) -> range | np.ndarray:
    """Numbers of the examples, of `count`, to train on: all, or evenly spaced ones within `max_train_sentences`."""
    # A joint vocabulary sees two sentences of every example.
    most = max(1, config.max_train_sentences // (2 if config.joint else 1))
    return range(count) if count <= most else np.arange(most) * count // most


def given_tokenizers(config: TokenizerConfig) -> TokenizerPair | None:
    """The models that `source_model` and `target_model` name, or None where they are empty."""
    if not config.source_model:
        return None
    source = _read_model(config.source_model, "source_model", config.user_symbols)
    if config.joint:
        return TokenizerPair(source, source)
    return TokenizerPair(source, _read_model(config.target_model, "target_model", config.user_symbols))


def save(pair: TokenizerPair, directory: Path) -> None:
    """Writes source.model, target.model (unless joint) and, last, tokenizer.json, which says how to read them.
    Raises: OSError; UserError for a vocabulary larger than `load` would read."""
    kinds = {"source": pair.source.kind} | ({} if pair.joint else {"target": pair.target.kind})
    for side, kind in kinds.items():
        content, name = getattr(pair, side).to_bytes(), f"{directory.name}/{side}.model"
        jsontext.check(content, name, LARGEST) if kind != "sentencepiece" else None  # which was, when it was made
        rundir.write(directory.parent, name, content)
    record = {"format": _FORMAT, "kinds": kinds}
    rundir.write_json(directory.parent, f"{directory.name}/tokenizer.json", record, indent=None)


def load(directory: Path) -> TokenizerPair:
    """Reads what `save` wrote. File names are fixed: nothing inside the files is followed as a path or run as code.

    Raises:
      UserError: a file is missing, a link, or not what `save` writes.
    """
    path = directory / "tokenizer.json"
    try:
        record = rundir.read_json(directory.parent, f"{directory.name}/tokenizer.json")
        if record.get("format") != _FORMAT:
            raise UserError(f"{path} has format {record.get('format')!r}; expected {_FORMAT}")
        kinds = record.get("kinds")
        if not isinstance(kinds, dict) or "source" not in kinds:
            raise UserError(f"{path} does not say of which kind the source tokenizer is; restore it")
        source = _read(kinds["source"], directory, "source")
        return TokenizerPair(source, _read(kinds["target"], directory, "target") if "target" in kinds else source)
    except OSError as error:
        way_out = rundir.way_in(directory, error) or "; restore it"
        reason = f"{error.filename}: {error.strerror}{way_out}"
        raise UserError(f"{directory} holds no readable tokenizer: {reason}") from error


def _read(kind: object, directory: Path, side: str) -> Tokenizer:
    path = directory / f"{side}.model"
    data = rundir.read(directory.parent, f"{directory.name}/{side}.model")
    match kind:
        case "sentencepiece":
            return SentencePieceTokenizer(data, str(path))
        case "char":
            record = jsontext.parse(data, path, most=LARGEST)
            return CharTokenizer(_texts(record, "characters", path, longest=1), _symbols(record, path))
        case "byte":
            return ByteTokenizer(_symbols(jsontext.parse(data, path, most=LARGEST), path))
        case "word" | "tag":
            record = jsontext.parse(data, path, most=LARGEST)
            made = TagTokenizer if kind == "tag" else WordTokenizer
            return made(_texts(record, "words", path), _symbols(record, path))
        case "label":
            return LabelTokenizer(_texts(jsontext.parse(data, path, most=LARGEST), "labels", path))
        case _:
            raise UserError(f"{path} is of kind {kind!r}; expected sentencepiece, char, byte, word, label or tag")


def _texts(record: dict, field: str, path: Path, longest: int | None = None) -> list[str]:
    """A list of different texts, none of them empty, of at most `longest` characters."""
    texts = record.get(field)
    if (
        not isinstance(texts, list | str)
        or not all(isinstance(text, str) and text and len(text) <= (longest or len(text)) for text in texts)
        or len(set(texts)) < len(texts)
    ):
        raise UserError(f"{path}: '{field}' is no list of different texts; restore the file")
    return list(texts)


def _symbols(record: dict, path: Path) -> list[str]:
    """User symbols: texts without line ends, which `encode` puts between two texts."""
    symbols = _texts(record, "symbols", path)
    for symbol in symbols:
        if "\n" in symbol:
            raise UserError(f"{path}: the symbol {symbol!r} has a line end, which no symbol may; restore the file")
    return symbols


def _train(kind: str, config: TokenizerConfig, texts: list[str], line_ends: bool) -> Tokenizer:
    if config.symbol_pattern and kind not in ("word", *LABEL_KINDS):
        found = _matches(config, texts)
        config = dataclasses.replace(config, symbol_pattern="", user_symbols=(*config.user_symbols, *found))
        _check_in_use(dataclasses.replace(config, kind=kind, target_kind=""))
    match kind:
        case "byte":
            return ByteTokenizer(config.user_symbols)
        case "char":
            lines = (text + "\n" for text in texts) if line_ends else texts
            return CharTokenizer(_most_frequent(config, itertools.chain.from_iterable(lines)), config.user_symbols)
        case "label":
            return LabelTokenizer(_by_frequency(filter(None, map(str.strip, texts))))
        case "tag":
            return TagTokenizer(_by_frequency(itertools.chain.from_iterable(text.split() for text in texts)))
        case "word":
            words = itertools.chain.from_iterable(text.split() for text in texts)
            return WordTokenizer(_most_frequent(config, words), config.user_symbols)
        case _:
            return _train_sentencepiece(kind, config, texts, line_ends)


def _matches(config: TokenizerConfig, texts: Iterable[str]) -> list[str]:
    """What `symbol_pattern` matches, most frequent first."""
    pattern = compiled_pattern(config)
    counts = Counter(match.group() for text in texts for match in pattern.finditer(text))
    found = counts.keys() - {"", *config.user_symbols, *SPECIALS}
    for symbol in sorted(found):
        check_symbol(symbol, f"symbol_pattern {config.symbol_pattern!r} matches")
    return sorted(found, key=lambda symbol: (-counts[symbol], symbol))


def _most_frequent(config: TokenizerConfig, units: Iterable[str]) -> list[str]:
    """The units for which the vocabulary has room, in order of frequency, equals in order of code points."""
    counts = Counter(units)
    known = {*config.user_symbols, *SPECIALS}
    room = max(0, config.vocab_size - len(SPECIALS) - len(config.user_symbols))
    return sorted(counts.keys() - known, key=lambda unit: (-counts[unit], unit))[:room]


def _by_frequency(labels: Iterable[str]) -> list[str]:
    """All of them, however many, in order of frequency, equals in order of code points."""
    counts = Counter(labels)
    return sorted(counts.keys() - set(SPECIALS), key=lambda label: (-counts[label], label))


def _train_sentencepiece(
    kind: str, config: TokenizerConfig, texts: list[str], line_ends: bool
) -> SentencePieceTokenizer:
    import sentencepiece

    model = BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=sentences(texts), model_writer=model, model_type=kind, vocab_size=config.vocab_size,
            hard_vocab_limit=False,  # else a corpus too small for the vocabulary would be an error
            pad_id=PAD, unk_id=UNK, bos_id=BOS, eos_id=EOS,
            normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=not line_ends,
            user_defined_symbols=[*config.user_symbols, *["\n"] * line_ends],
            byte_fallback=config.byte_fallback, split_digits=config.split_digits,
            character_coverage=config.character_coverage, max_sentence_length=LONGEST,
            num_threads=16,  # fixed: unigram sums its counts by thread, so the model depends on it
            minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        raise UserError(
            f"SentencePiece cannot train config.tokenizer.kind={kind!r} with config.tokenizer.vocab_size="
            f"{config.vocab_size} on {counted(len(texts), 'sentence')}: {error}"
        ) from None
    tokenizer = SentencePieceTokenizer(model.getvalue())
    if tokenizer.vocab_size < config.vocab_size:
        _log.warning("the text gives only %d of %s", tokenizer.vocab_size, counted(config.vocab_size, "piece"))
    return tokenizer


def _read_model(path: str, field: str, symbols: Sequence[str]) -> SentencePieceTokenizer:
    try:
        model = paths.read(path, rundir.LARGEST)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read config.tokenizer.{field}={path!r}: {error}") from None
    tokenizer = SentencePieceTokenizer(model, f"config.tokenizer.{field}={path!r}")
    missing = [symbol for symbol in symbols if symbol not in tokenizer.pieces(tokenizer.encode([symbol])[0])]
    if missing:
        raise UserError(
            f"config.tokenizer.{field}={path!r} does not know the user symbols {listed(missing)}; train it with "
            f"--user_defined_symbols={','.join(symbols)}"
        )
    return tokenizer
