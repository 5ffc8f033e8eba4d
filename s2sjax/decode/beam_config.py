"""How a beam searches: the settings of `s2sjax.decode.beam.beam_search`, checked where they are made."""

import dataclasses
import math

from s2sjax.decode.penalty import LENGTH_PENALTIES
from s2sjax.errors import UserError
from s2sjax.plural import counted
from s2sjax.vocabulary import EOS, PAD, check_ends

STOPS = ("bound", "first", "never", "present")
_MOST_ENDS = 31
"""A hypothesis has so many continuations that end and one that does not among as many words as are looked into."""


@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """How to search. Hashable, so it can be a static argument of `jax.jit`.

    Attributes:
      beam_size: K: live hypotheses a sentence, and places in its pool of finished ones. 1 is greedy search.
      nbest: N: finished hypotheses returned, at most `beam_size`. It does not change what is searched.
      max_len: T: the most tokens a hypothesis may have, end-of-sentence counted; the length of the static buffers.
      length_penalty: What a log-probability is divided by: "none", "power", "gnmt" or "sockeye" (see
        `s2sjax.decode.penalty`).
      alpha: Strength of the length penalty, at least 0; 0 means none.
      ends: Tokens of which each ends a hypothesis.
      pad: Token that never follows; None if all may.
      beta: The constant of the "sockeye" length penalty, at least 0.
      brevity: Weight of the brevity penalty, at least 0; above 0 it needs `reference_lengths`.
      stop: When a sentence is done: "bound", "first", "never" or "present" (observation 3 of `beam_search`).
      no_repeat_ngram: No n-gram of this many tokens occurs twice in a hypothesis; 0 is off.
      repetition_penalty: What log-probabilities of words that a hypothesis already has are multiplied by, above 0; 1 is
        off.
      groups: Groups that the beam is divided into, each pushed away from those before it (Vijayakumar et al. 2018).
      diversity: How strongly, in nats for each hypothesis of an earlier group that chose the same word; at least 0.
    """

    beam_size: int = 5
    nbest: int = 1
    max_len: int = 128
    length_penalty: str = "gnmt"
    alpha: float = 0.6
    ends: tuple[int, ...] = (EOS,)
    pad: int | None = PAD
    beta: float = 0.0
    brevity: float = 0.0
    stop: str = "bound"
    no_repeat_ngram: int = 0
    repetition_penalty: float = 1.0
    groups: int = 1
    diversity: float = 0.0

    def __post_init__(self):
        for name, least in (("beam_size", 1), ("nbest", 1), ("max_len", 1), ("groups", 1), ("no_repeat_ngram", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if self.nbest > self.beam_size:
            raise UserError(
                f"nbest is {self.nbest}, but a beam of {self.beam_size} finishes at most "
                f"{counted(self.beam_size, 'hypothesis')}: "
                f"lower nbest to {self.beam_size} or raise beam_size to {self.nbest}"
            )
        if self.length_penalty not in LENGTH_PENALTIES:
            raise UserError(f"length_penalty is '{self.length_penalty}', expected one of {', '.join(LENGTH_PENALTIES)}")
        if self.stop not in STOPS:
            raise UserError(f"stop is '{self.stop}', expected one of {', '.join(STOPS)}")
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise UserError(
                f"alpha is {self.alpha}, expected a finite number of at least 0: below 0 a longer hypothesis would be "
                "penalised less and less, and search could not tell when to stop"
            )
        for name in ("beta", "brevity", "diversity"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UserError(f"{name} is {getattr(self, name)}, expected a finite number of at least 0")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise UserError(
                f"repetition_penalty is {self.repetition_penalty}, expected a finite number above 0; 1 is off"
            )
        if self.beam_size % self.groups:
            raise UserError(
                f"beam_size {self.beam_size} cannot be divided into {counted(self.groups, 'group')} of equal size"
            )
        if self.diversity and self.groups == 1:
            raise UserError(
                f"diversity is {self.diversity}, but there is one group: set groups above 1, or diversity to 0"
            )
        if not 1 <= len(self.ends) <= _MOST_ENDS:
            raise UserError(f"ends is {self.ends}, expected 1 to {_MOST_ENDS} of the tokens, each an end of hypotheses")
        check_ends(self.ends, self.pad)
