"""The `decode` section of the config: how a trained model is searched or sampled."""

import difflib
import math
from dataclasses import dataclass

import numpy as np

from s2sjax.config import choose
from s2sjax.data.tokenizer import Tokenizer
from s2sjax.decode.beam import BeamConfig
from s2sjax.decode.ensemble import KINDS
from s2sjax.decode.sampling import SampleConfig
from s2sjax.errors import UserError
from s2sjax.ops.linear import Precision
from s2sjax.vocabulary import EOS, PAD

_OF_DRAWS = ("samples", "temperature", "top_k", "top_p", "min_p", "typical")
_OF_A_BEAM = ("nbest", "coverage", "brevity", "groups", "diversity", "stop")


@dataclass(frozen=True)
class DecodeConfig:
    method: str = "beam"
    """"beam" search; "sample", independent draws; or "stochastic" beam search, draws without replacement."""
    beam_size: int = 5
    """Hypotheses that live at a time; 1 is greedy."""
    nbest: int = 1
    length_penalty: str = "gnmt"
    """"none", "power", "gnmt" or "sockeye": see `decode.penalty`."""
    alpha: float = 0.6
    beta: float = 0.0
    """Of sockeye's length penalty."""
    brevity: float = 0.0
    """Weight of the brevity penalty; 0 is none."""
    reference_ratio: float = 1.0
    """Target tokens expected for a source token, for the brevity penalty."""
    coverage: float = 0.0
    """Weight of GNMT's coverage penalty (Wu et al. 2016, equation 14: beta); 0 is none. For models with attention."""
    stop: str = "bound"
    """When a sentence's search ends: "bound" (nothing better can come), "first" (fairseq's rule), "present" (Hugging
    Face's default) or "never"."""
    groups: int = 1
    """Groups of a diverse beam."""
    diversity: float = 0.0
    """Nats that a word costs a group for each hypothesis of an earlier group that just chose it."""
    samples: int = 1
    """Hypotheses drawn for each source."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical: float = 1.0
    """What draws are made from; these five at their defaults are the model's own distribution (`decode.truncation`)."""
    seed: int = 0
    """Of the draws. What is drawn for a source depends on it and on the source, and on nothing else."""
    max_length_factor: float = 2.0
    max_length_offset: int = 10
    """An output has at most factor * source + offset tokens, end-of-sentence counted in both."""
    min_length_factor: float = 0.0
    min_length_offset: int = 0
    """It has at least factor * source + offset tokens, counted likewise; 0 and 0 are no limit."""
    no_repeat_ngram: int = 0
    """No n-gram of so many tokens stands twice in an output; 0 is off."""
    repetition_penalty: float = 1.0
    """What log-probabilities of words that an output already has are multiplied by; 1 is off."""
    forbidden: tuple[str, ...] = ()
    """Tokens, as `--format=jsonl` shows them, that may not occur."""
    expand_late: bool = False
    """Compute the first step once for each source, not for each of its hypotheses, which are equal until then. A search
    takes half as long again to compile, which pays where many batches have the same shape."""
    ensemble: str = "probabilities"
    """What an ensemble takes the mean of: "probabilities" or "log_probabilities"; see `decode.ensemble`."""
    batch_size: int = 64
    """Sentences a batch; fewer where sentences are long."""
    precision: str = "float32"
    """float32, so that scores are exact; see `ops.linear`."""
    checkpoint: str = "best"
    """"best" by config.checkpoint.metric, "last", or a step."""

    def __post_init__(self):
        choose(self.method, ("beam", "sample", "stochastic"), "config.decode.method")
        self.beam(max_len=1)
        self.sampling(max_len=1)
        if self.method == "beam":
            unused, why = _OF_DRAWS, "a beam draws nothing; set config.decode.method=sample or stochastic"
        else:
            unused, why = _OF_A_BEAM, f"{self.method} draws and ranks nothing; set config.decode.method=beam"
        for name in unused:
            value, default = getattr(self, name), getattr(type(self), name)
            if value != default:
                raise UserError(f"config.decode.{name} is {value}, but {why}, or {name} to {default}")
        choose(self.precision, tuple(Precision), "config.decode.precision")
        choose(self.ensemble, KINDS, "config.decode.ensemble")
        if self.batch_size < 1 or self.max_length_factor < 0 or self.max_length_offset < 1:
            raise UserError(
                f"config.decode.batch_size {self.batch_size} must be at least 1, max_length_factor "
                f"{self.max_length_factor} at least 0 and max_length_offset {self.max_length_offset} at least 1"
            )
        for name in ("min_length_factor", "min_length_offset", "reference_ratio", "coverage", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"config.decode.{name} is {getattr(self, name)}, but must not be negative")
        for name in ("max_length_factor", "min_length_factor", "reference_ratio", "coverage"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"config.decode.{name} is {getattr(self, name)}, but must be a finite number")
        if self.checkpoint not in ("best", "last") and not self.checkpoint.isdecimal():
            raise UserError(f"config.decode.checkpoint is '{self.checkpoint}': expected best, last or a step")

    def beam(self, max_len: int) -> BeamConfig:
        return BeamConfig(
            self.beam_size, self.nbest, max_len, self.length_penalty, self.alpha, EOS, PAD,
            beta=self.beta, brevity=self.brevity, stop=self.stop, no_repeat_ngram=self.no_repeat_ngram,
            repetition_penalty=self.repetition_penalty, groups=self.groups, diversity=self.diversity,
        )  # fmt: skip

    def sampling(self, max_len: int) -> SampleConfig:
        return SampleConfig(
            self.samples, max_len, self.repetition_penalty, self.no_repeat_ngram, self.temperature, self.top_k,
            self.top_p, self.min_p, self.typical, EOS, PAD,
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Hypotheses of a source that are computed together."""
        return self.beam_size if self.method == "beam" else self.samples

    def max_length(self, source_length):
        """Limit for a source of this many tokens, end-of-sentence counted."""
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
        pieces = tokenizer.pieces(range(tokenizer.vocab_size))
        for token in self.forbidden:
            if token not in pieces:
                alike = [p for p in pieces if p.strip("▁").lower() == token.strip("▁").lower()]
                alike = alike or difflib.get_close_matches(token, pieces)
                raise UserError(
                    f"config.decode.forbidden holds '{token}', which is no token of this run; like it: "
                    f"{', '.join(alike) or 'none'}"
                )
        return np.array([piece not in self.forbidden for piece in pieces])
