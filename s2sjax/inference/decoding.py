"""The `decode` section of the config: how a trained model is searched or sampled, or asked once."""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from s2sjax.config import MOST_SEED, check_at_least, check_choices, check_number, closest, one_of, up_to
from s2sjax.data.tokenizer import Tokenizer
from s2sjax.decode.beam_config import STOPS, BeamConfig
from s2sjax.decode.ensemble import KINDS
from s2sjax.decode.penalty import LENGTH_PENALTIES
from s2sjax.decode.sampling import SampleConfig
from s2sjax.errors import UserError, listed
from s2sjax.ops.linear import Precision
from s2sjax.plural import counted
from s2sjax.vocabulary import Vocabulary, own_vocabulary

_SHOWN = 100  # characters of a token in a message
_OF_DRAWS = ("samples", "temperature", "top_k", "top_p", "min_p", "typical")
_OF_A_BEAM = ("nbest", "coverage", "brevity", "groups", "diversity", "stop")
_MOST = {"alpha": 5, "max_length_factor": 1000, "min_length_factor": 1000}
"""Greatest values, where they are not a million. A length of a million tokens to the power of 5 is a float32 yet."""


@dataclass(frozen=True)
class PassConfig:
    """The `decode` section of a task that makes each prediction in one pass of a model; those of others have more.

    Attributes:
      ensemble: What an ensemble takes the mean of, token by token.
      batch_size: Sentences in a batch; fewer where sentences are long.
      precision: Floating-point types of decoding; "float32" gives exact scores. See `ops.linear`.
      checkpoint: Which checkpoint is decoded with: "best" by config.checkpoint.metric, "last", or a step.
    """

    ensemble: str = one_of(KINDS, "probabilities")
    batch_size: int = 64
    precision: str = one_of(Precision, "float32")
    checkpoint: str = "best"

    def __post_init__(self) -> None:
        check_choices(self, "config.decode")
        for field in dataclasses.fields(self):  # what an array of int32 or float32 cannot hold, or nobody can mean
            if field.type in (int, float):
                most = _MOST.get(field.name, field.metadata.get("most", 1_000_000))
                check_number(getattr(self, field.name), field.type, f"config.decode.{field.name}", most)
        check_at_least(1, self, "batch_size", where="config.decode")
        if self.checkpoint not in ("best", "last") and not re.fullmatch(r"[0-9]{1,18}", self.checkpoint):
            raise UserError(f"config.decode.checkpoint is '{self.checkpoint[:40]}': expected best, last or a step")


@dataclass(frozen=True)
class LabelConfig(PassConfig):
    """The `decode` section of a task that gives each text a label.

    Attributes:
      nbest: Labels that are written for each source, the most probable first.
    """

    nbest: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, self, "nbest", where="config.decode")


@dataclass(frozen=True)
class DecodeConfig(PassConfig):
    """The `decode` section of a task whose predictions are searched for: how a model is searched or sampled.

    Attributes:
      method: How hypotheses are found: "beam" search; "sample", independent draws; or "stochastic" beam search, draws
        without replacement.
      beam_size: Hypotheses that live at a time; 1 is greedy.
      nbest: Hypotheses that are written for each source, at most `beam_size`. It does not change what is searched.
      length_penalty: What the log-probability of n tokens is divided by when hypotheses are ranked: "none", 1; "power",
        n ** alpha; "gnmt", ((5 + n) / 6) ** alpha (Wu et al. 2016); "sockeye", ((beta + n) / (beta + 1)) ** alpha.
      alpha: Strength of the length penalty; 0 means none.
      beta: The constant of sockeye's length penalty.
      brevity: Weight of the brevity penalty; 0 is none.
      reference_ratio: Target tokens expected for a source token, for the brevity penalty.
      coverage: Weight of GNMT's coverage penalty (Wu et al. 2016, equation 14: beta); 0 is none. For models with
        attention.
      stop: When a sentence's search ends: "bound" (nothing better can come), "first" (fairseq's rule), "present"
        (Hugging Face's default) or "never".
      groups: Groups of a diverse beam (Vijayakumar et al. 2018); 1 is an ordinary beam.
      diversity: Nats that a word costs a group for each hypothesis of an earlier group that just chose it.
      samples: Hypotheses drawn for each source.
      temperature: What log-probabilities are divided by before drawing: below 1 sharper, above 1 flatter. With this and
        the next four at their defaults, draws are from the model's own distribution.
      top_k: Draw from the k most probable tokens only; 0 is off.
      top_p: Draw only from the most probable tokens that have this probability together; 1 is off.
      min_p: Draw only from tokens at least this many times as probable as the most probable; 0 is off.
      typical: Draw only from the tokens nearest to the entropy that have this probability together; 1 is off.
      seed: Seed of the draws. What is drawn for a source depends on it and on the source, and on nothing else.
      max_length_factor: An output has at most factor * source + offset tokens, end-of-sentence counted in both.
      max_length_offset: The offset of the most tokens.
      max_new_tokens: An output has at most so many tokens, end-of-sentence counted, whatever its source has; 0: as the
        factor and offset above say. Draws of a language model that is trained on a running text (task.join) have
        exactly so many, and go on over line ends.
      min_length_factor: An output has at least factor * source + offset tokens, counted likewise; 0 and 0 are no limit.
      min_length_offset: The offset of the fewest tokens.
      no_repeat_ngram: No n-gram of so many tokens stands twice in an output; 0 is off.
      repetition_penalty: What log-probabilities of tokens that an output already has are multiplied by; 1 is off.
      forbidden: Tokens, as `--format=jsonl` shows them, that may not occur in an output.
      expand_late: Compute the first step once for each source, not for each of its hypotheses, which are equal until
        then. A search takes half as long again to compile, which pays where many batches have the same shape.
    """

    method: str = one_of(("beam", "sample", "stochastic"), "beam")
    beam_size: int = 5
    nbest: int = 1
    length_penalty: str = one_of(LENGTH_PENALTIES, "gnmt")
    alpha: float = 0.6
    beta: float = 0.0
    brevity: float = 0.0
    reference_ratio: float = 1.0
    coverage: float = 0.0
    stop: str = one_of(STOPS, "bound")
    groups: int = 1
    diversity: float = 0.0
    samples: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical: float = 1.0
    seed: int = up_to(MOST_SEED, 0)
    max_length_factor: float = 2.0
    max_length_offset: int = 10
    max_new_tokens: int = 0
    min_length_factor: float = 0.0
    min_length_offset: int = 0
    no_repeat_ngram: int = 0
    repetition_penalty: float = 1.0
    forbidden: tuple[str, ...] = ()
    expand_late: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.temperature < 1e-30:
            raise UserError(
                f"config.decode.temperature is {self.temperature}, and what is divided by it is no float32: give at "
                "least 1e-30, or for greedy search config.decode.method=beam and beam_size=1"
            )
        self.beam(1, own_vocabulary(4))
        self.sampling(1, own_vocabulary(4))
        if self.method == "beam":
            unused, why = _OF_DRAWS, "a beam draws nothing; set config.decode.method=sample or stochastic"
        else:
            unused, why = _OF_A_BEAM, f"{self.method} draws and ranks nothing; set config.decode.method=beam"
        for name in unused:
            value, default = getattr(self, name), getattr(type(self), name)
            if value != default:
                instead = {"nbest": "samples", "samples": "nbest"}.get(name)  # the other method's number of outputs
                number = f"config.decode.{instead}={value}, " if instead else ""
                raise UserError(f"config.decode.{name} is {value}, but {why}, {number}or {name} to {default}")
        check_at_least(0, self, "max_length_factor", where="config.decode")
        check_at_least(1, self, "max_length_offset", where="config.decode")
        for name in ("max_new_tokens", "min_length_factor", "min_length_offset", "reference_ratio", "coverage", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"config.decode.{name} is {getattr(self, name)}, but must not be negative")

    def check_running_text(self) -> None:
        """Raise a `UserError` if draws could not go on over line ends."""
        if self.method != "sample":
            raise UserError(
                f"config.decode.max_new_tokens is {self.max_new_tokens}, and what goes on over line ends is drawn: set "
                "config.decode.method=sample (and top_k=1 for the most probable token each time)"
            )
        for name in ("no_repeat_ngram", "repetition_penalty", "min_length_factor", "min_length_offset"):
            if (value := getattr(self, name)) != (default := getattr(type(self), name)):
                raise UserError(
                    f"config.decode.{name} is {value}, and does not go with max_new_tokens of a running text "
                    f"(task.join); set {name} to {default}"
                )

    def without_effect(self, vocab_size: int, max_source_length: int, *, runs_on: bool = False) -> Iterator[str]:
        """Sentences about settings that others keep from having an effect.

        Args:
            vocab_size: of the target.
            max_source_length: tokens, end-of-sentence counted.
            runs_on: outputs go on over line ends, and end with none.
        """
        if self.top_k >= vocab_size:
            yield f"top_k is {self.top_k}, and the vocabulary has {counted(vocab_size, 'token')}: it cuts off nothing"
        for name in ("max_length_factor", "max_length_offset"):
            if self.max_new_tokens and (value := getattr(self, name)) != getattr(type(self), name):
                yield f"{name} is {value}, but max_new_tokens is {self.max_new_tokens}, which counts"
        if self.groups > 1 and not self.diversity:
            yield f"groups is {self.groups} and diversity 0: every group finds the same"
        method, beam = f"method is '{self.method}'", self.method == "beam"
        for name, why, unused in (
            ("beam_size", method, not beam),
            ("length_penalty", method, not beam),
            ("seed", method, beam),
            ("alpha", "length_penalty is 'none'", self.length_penalty == "none"),
            ("beta", f"length_penalty is '{self.length_penalty}' and not 'sockeye'", self.length_penalty != "sockeye"),
            ("reference_ratio", "brevity is 0", not self.brevity),
        ):
            if unused and (value := getattr(self, name)) != getattr(type(self), name):
                yield f"{name} is {value}, but {why}: it is not looked at"
        sources = np.arange(1, max_source_length + 1)
        if not runs_on and (self.max_length(sources) <= 1).all():
            limit = self._set("max_new_tokens") or self._set("max_length_factor", "max_length_offset")
            yield f"{limit} has room for end-of-sentence alone: every output is empty; two tokens hold one of text"
        least = np.floor(self.min_length_factor * sources) + self.min_length_offset
        if (short := sources[least > self.max_length(sources)]).size:
            asks = self._set("min_length_factor", "min_length_offset")
            allows = self._set("max_new_tokens") or self._set("max_length_factor", "max_length_offset")
            first = f"{short[0]} to " if len(short) > 1 else ""
            yield (
                f"{asks} asks for more tokens than {allows or 'the default of the greatest length'} allows, for "
                f"sources of {first}{counted(int(short[-1]), 'token')}: the greatest length counts"
            )

    def _set(self, *names: str) -> str:
        """Those of some fields that do not have their defaults, with their values."""
        pairs = ((name, getattr(self, name)) for name in names)
        return " with ".join(f"{name}={value}" for name, value in pairs if value != getattr(type(self), name))

    def beam(self, max_len: int, vocabulary: Vocabulary) -> BeamConfig:
        return BeamConfig(
            self.beam_size, self.nbest, max_len, self.length_penalty, self.alpha, vocabulary.ends, vocabulary.pad,
            beta=self.beta, brevity=self.brevity, stop=self.stop, no_repeat_ngram=self.no_repeat_ngram,
            repetition_penalty=self.repetition_penalty, groups=self.groups, diversity=self.diversity,
        )  # fmt: skip

    def sampling(self, max_len: int, vocabulary: Vocabulary) -> SampleConfig:
        return SampleConfig(
            self.samples, max_len, self.repetition_penalty, self.no_repeat_ngram, self.temperature, self.top_k,
            self.top_p, self.min_p, self.typical, vocabulary.ends, vocabulary.pad,
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Hypotheses of a source that are computed together."""
        return self.beam_size if self.method == "beam" else self.samples

    def max_length(self, source_length):
        """Limit for a source of this many tokens, end-of-sentence counted."""
        if self.max_new_tokens:
            return np.zeros_like(source_length) + self.max_new_tokens
        return np.floor(self.max_length_factor * source_length).astype(int) + self.max_length_offset

    def min_length(self, source_length):
        """The fewest tokens for a source of this many, never more than the limit; None if there is no such rule."""
        if not (self.min_length_factor or self.min_length_offset):
            return None
        least = np.floor(self.min_length_factor * source_length).astype(int) + self.min_length_offset
        return np.minimum(least, self.max_length(source_length))

    def allowed(self, tokenizer: Tokenizer) -> np.ndarray | None:
        """Which tokens may occur, bool [V]; None if all may.

        Raises:
            UserError: a forbidden token is none of the vocabulary's.
        """
        if not self.forbidden:
            return None
        pieces, forbidden = tokenizer.pieces(range(tokenizer.vocab_size)), frozenset(self.forbidden)
        known = frozenset(pieces)
        for token in self.forbidden:
            if token not in known:
                shown = token[:_SHOWN]
                alike = [p for p in pieces if p.strip("▁").lower() == shown.strip("▁").lower()]
                alike = alike or closest(shown, pieces, most=3)
                raise UserError(
                    f"config.decode.forbidden holds '{shown}', which is no token of this run; like it: "
                    f"{listed(alike) or 'none'}"
                )
        return np.array([piece not in forbidden for piece in pieces])
