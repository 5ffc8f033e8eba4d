"""The `tokenizer` section of the config: which vocabularies there are, and how training reads texts with them."""

import re
from dataclasses import dataclass

from s2sjax.config import check_at_least, check_choices, check_rate, one_of, up_to
from s2sjax.data.config import DataConfig
from s2sjax.data.units import SPECIALS
from s2sjax.errors import UserError

KINDS = ("unigram", "bpe", "char", "byte", "word")
SAMPLING = ("none", "source", "target", "both")


@dataclass(frozen=True)
class TokenizerConfig:
    """The `tokenizer` section.

    Attributes:
      kind: "unigram" or "bpe" (SentencePiece), "char", "byte" or "word" (what stands between white space).
      target_kind: the target's, where it is another; needs joint=False. Labels have kinds of their own, which their
        tasks set: a whole text is one "label"; a "tag" is a word that belongs to a token of the source.
      vocab_size: most entries a vocabulary may have, specials included; unused by "byte" (260 and the user symbols).
        A small corpus may give fewer, which is logged.
      joint: one vocabulary for source and target.
      user_symbols: strings without spaces that are always one token, such as "<2de>" (word: where they stand alone).
      symbol_pattern: a regular expression: what it matches in the training text is one token each, as user symbols are,
        so that they need not be listed. "[#;][^#;]+" makes one token of each tag in "lieben#V;PST": "#V" and ";PST".
      byte_fallback: spell unknown characters in bytes (SentencePiece).
      split_digits: every digit is a token (SentencePiece).
      character_coverage: share of the training text's characters that the vocabulary must hold (SentencePiece).
      max_train_sentences: train on at most so many sentences, evenly spaced through the training split.
      sampling: training reads the texts of these sides cut in another way in every epoch, drawn at random: subword
        regularization. A bpe model does it by BPE-dropout (Provilkov et al. 2020), a unigram model by sampling from all
        segmentations (Kudo 2018). Validation, evaluation and decoding cut texts in the usual way.
      bpe_dropout: share of a bpe model's merges that are left out at random. With 0.1, English captions have 1.2 times
        as many tokens; for Chinese and Japanese, which have no spaces, the paper takes 0.6.
      sampling_alpha: exponent of the probabilities of a unigram model's segmentations. The smaller, the more alike are
        their chances and the more tokens they have: with 0.3, 1.15 times as many, with 0.1, twice as many.
      sampling_slack: batches are planned as if sampled texts had so many times their usual tokens. A sample for which
        its row has no room, or that is over batching.max_source_length or max_target_length, is not used: that text is
        then cut in the usual way.
      source_model, target_model: paths of SentencePiece models to take instead of training, with whatever ids their
        special tokens have; joint has only the first.
    """

    kind: str = one_of(KINDS, "bpe")
    target_kind: str = one_of(("", *KINDS, "label", "tag"), "")
    vocab_size: int = 8000
    joint: bool = True
    user_symbols: tuple[str, ...] = ()
    symbol_pattern: str = ""
    byte_fallback: bool = False
    split_digits: bool = False
    character_coverage: float = 1.0
    max_train_sentences: int = up_to(2**62, 2_000_000)
    sampling: str = one_of(SAMPLING, "none")
    bpe_dropout: float = 0.1
    sampling_alpha: float = 0.3
    sampling_slack: float = 1.25
    source_model: str = ""
    target_model: str = ""

    def __post_init__(self) -> None:
        check_choices(self, "config.tokenizer")
        if self.target_kind and (self.joint or self.source_model):
            raise UserError("config.tokenizer.target_kind needs config.tokenizer.joint=False and no source_model")
        if self.vocab_size <= len(SPECIALS):
            raise UserError(f"config.tokenizer.vocab_size is {self.vocab_size}; expected more than {len(SPECIALS)}")
        check_at_least(1, self, "max_train_sentences", where="config.tokenizer")
        if not 0 < self.character_coverage <= 1:
            raise UserError(
                f"config.tokenizer.character_coverage is {self.character_coverage}; expected between 0 and 1"
            )
        if not {self.kind, self.target_kind} & {"unigram", "bpe"}:
            for field in ("byte_fallback", "split_digits", "source_model"):
                if getattr(self, field):
                    raise UserError(
                        f"config.tokenizer.{field} is for unigram and bpe; leave it out with kind={self.kind!r}"
                    )
        check_rate(self, "bpe_dropout", where="config.tokenizer")
        check_at_least(0, self, "sampling_alpha", where="config.tokenizer")
        check_at_least(1, self, "sampling_slack", where="config.tokenizer")
        for side in self.sampled_sides:
            if self.kind_of(side) not in ("unigram", "bpe") and not self.source_model:
                raise UserError(
                    f"config.tokenizer.sampling is {self.sampling!r}, but a {side} of kind {self.kind_of(side)!r} is "
                    "cut in one way only; choose bpe or unigram, or set config.tokenizer.sampling=none"
                )
        if self.target_model and (self.joint or not self.source_model):
            raise UserError("config.tokenizer.target_model needs config.tokenizer.joint=False and a source_model")
        if self.source_model and not self.joint and not self.target_model:
            raise UserError("config.tokenizer.joint is False: give config.tokenizer.target_model beside source_model")
        for symbol in self.user_symbols:
            check_symbol(symbol, "user_symbols holds")
        if self.symbol_pattern and (self.source_model or {self.kind, self.kind_of("target")} == {"word"}):
            raise UserError(
                "config.tokenizer.symbol_pattern is for vocabularies that are learned, and not for words, which are "
                "one token anyway; leave it out"
            )
        if len(set(self.user_symbols)) != len(self.user_symbols):
            raise UserError(f"config.tokenizer.user_symbols holds a symbol twice: {self.user_symbols}")

    def kind_of(self, side: str) -> str:
        """Of "source" or "target"; without effect where models are given."""
        return (side == "target" and self.target_kind) or self.kind

    @property
    def sampled_sides(self) -> tuple[str, ...]:
        return {"none": (), "both": ("source", "target")}.get(self.sampling, (self.sampling,))


def check_sampling(config: TokenizerConfig, data: DataConfig) -> None:
    """Raise a `UserError` if data without sources is to be sampled on their side."""
    if config.sampling == "source" and not data.source:
        raise UserError(
            "config.tokenizer.sampling is 'source', but config.data.source is empty: set it to 'target' or 'none'"
        )


def check_symbol(symbol: str, where: str) -> None:
    """Raise a `UserError` for a user symbol that no vocabulary takes. Args: where: the key, and a verb."""
    if not symbol or symbol in SPECIALS or "▁" in symbol or re.search(r"\s", symbol):
        raise UserError(f"config.tokenizer.{where} {symbol!r}; expected text without spaces, ▁, {SPECIALS}")
