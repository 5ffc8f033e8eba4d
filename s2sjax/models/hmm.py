"""The hidden Markov model with categorical emissions, as a language model and as a tagger (Rabiner 1989, "A tutorial on
hidden Markov models and selected applications in speech recognition").

A sequence is a segment's inputs (the prompt) and then its decoder inputs. Its tokens are what the chain's states emit,
end-of-sentence like any other; begin-of-sentence is nobody's token and is passed over, wherever it stands, so that a
sequence begins with the initial distribution and a prompt's belief passes unchanged into the answer. What is believed
of the state that emits the next token is all that the past leaves behind: N numbers are the whole cache.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from s2sjax.api import Batch, Mixture, Rules, Traits
from s2sjax.config import check_at_least, check_choices, one_of
from s2sjax.ops import hmm
from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import finite_log
from s2sjax.ops.prompt import Joined, join
from s2sjax.ports import Tokens, check_prompts

TRAITS = Traits(language_model=True)


@dataclass(frozen=True)
class Config:
    """The `model` section of the family hmm.

    Attributes:
      states: Hidden states.
      learning: How parameters are going to be learned: by "gradient", or by "em" (Baum and Welch), for the optimizer
        em, which wants the gradient by log-probabilities: minus the expected counts.
    """

    states: int = 64
    learning: str = one_of(("gradient", "em"), "gradient")

    def __post_init__(self):
        check_choices(self, "config.model")
        check_at_least(1, self, "states")


def sharding_rules(config: Config) -> Rules:
    return (
        (r"emission$", (None, "tensor")),  # by words, never by states: every step of the chain sums over them
        (r"initial$", (None,)),
        (r"transition$", (None, None)),
    )


def build(config: Config, reads: Tokens | None, writes: Tokens, *, precision: Precision) -> "HMM":
    """Make the module. No state emits the token that begins a text.

    Raises:
        UserError: if source and target do not share a vocabulary.
    """
    check_prompts(reads, writes)
    del precision  # probabilities are float32 under every policy
    return HMM(config, writes)


class HMM(nn.Module):
    """See `api.Stepwise`. The memory is the belief that the prompt left, `[B, N]`, the cache a belief `[B, K, N]`."""

    config: Config
    writes: Tokens

    def setup(self):
        N, V = self.config.states, self.writes.size
        init = nn.initializers.normal(1.0)  # not zeros: states that are all alike would stay alike
        self.initial = self.param("initial", init, (N,), jnp.float32)
        self.transition = self.param("transition", init, (N, N), jnp.float32)
        self.emission = self.param("emission", init, (N, V), jnp.float32)

    def _log_probs(self, logits: Array) -> Array:
        """Distributions over the last axis.

        With `learning` "em" the normaliser is a constant to the gradient, which is then taken by the log-probabilities.
        """
        normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        return logits - (lax.stop_gradient(normaliser) if self.config.learning == "em" else normaliser)

    def __call__(self, batch: Batch, *, train: bool) -> Mixture:
        joined = join(batch["inputs"], batch["input_segments"], batch["decoder_inputs"], batch["target_segments"])
        log_emission = self._log_probs(self.emission)
        predicted, evidence = hmm.forward(*self._chain(joined, log_emission))
        unscored = train and self.config.learning == "em"
        aux = self._unscored(batch, joined, evidence) if unscored else None
        return Mixture(joined.gather_answers(predicted), jnp.exp(log_emission), aux)

    def _chain(self, joined: Joined, log_emission: Array) -> tuple[Array, Array, Array, Array, Array]:
        """What the algorithms of `ops.hmm` ask for."""
        observed = (joined.segments > 0) & (joined.tokens != self.writes.start)
        log_likelihoods = jnp.take(log_emission.T, joined.tokens, axis=0)
        log_initial, log_transition = self._log_probs(self.initial), self._log_probs(self.transition)
        return log_initial, log_transition, log_likelihoods, observed, joined.starts

    def _unscored(self, batch: Batch, joined: Joined, evidence: Array) -> Array:
        """Negative log-likelihood of what is read but is no target of the loss: prompts, and targets of weight 0.

        Loss and this together are the joint likelihood of all that is read. Only its gradient is made of expected
        counts: that of an answer given a prompt is a difference of counts, which may be negative.
        """
        segments = batch["target_segments"]
        # A decoder input is the target one to the left, if that is of the same segment.
        weights = jnp.where(segments[:, 1:] == segments[:, :-1], batch["weights"][:, :-1], 0.0)
        nothing = jnp.zeros((len(segments), batch["inputs"].shape[1] + 1))
        scored = jnp.take_along_axis(jnp.concatenate([nothing, weights], axis=1), joined.order, axis=1)
        return -jnp.sum((1 - scored) * evidence)

    def tag(self, batch: Batch) -> Array:
        """The state of each target token on the best path through prompt and targets: [B, T], -1 at padding."""
        joined = join(batch["inputs"], batch["input_segments"], batch["targets"], batch["target_segments"])
        states, _ = hmm.viterbi(*self._chain(joined, self._log_probs(self.emission)))
        return joined.gather_answers(states)

    def encode(self, batch: Batch) -> Array:
        empty = jnp.zeros((batch["inputs"].shape[0], 0), jnp.int32)
        joined = join(batch["inputs"], batch["input_segments"], empty, empty)
        log_initial, log_transition, log_likelihoods, observed, starts = self._chain(
            joined, self._log_probs(self.emission)
        )
        starts &= joined.segments > 0  # padding follows the prompt, and would begin a chain of its own
        predicted, _ = hmm.forward(log_initial, log_transition, log_likelihoods, observed, starts)
        initial = jnp.broadcast_to(jnp.exp(log_initial), (len(predicted), 1, self.config.states))
        return jnp.concatenate([initial, predicted], axis=1)[:, -1]

    def init_cache(self, memory: Array, *, width: int, max_len: int) -> Array:
        del max_len  # a belief has one size, however long the output
        return jnp.repeat(memory[:, None], width, axis=1)

    def decode_step(self, tokens: Array, cache: Array, memory: Array) -> tuple[Array, Array]:
        log_emission = self._log_probs(self.emission)
        log_likelihoods = jnp.take(log_emission.T, tokens, axis=0)
        seen, _ = hmm.observe(cache, log_likelihoods)
        belief = jnp.where(
            tokens[..., None] == self.writes.start, cache, seen @ jnp.exp(self._log_probs(self.transition))
        )
        return finite_log(belief @ jnp.exp(log_emission)), belief
