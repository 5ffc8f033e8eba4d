"""Length conventions: how the log-probability of a whole hypothesis becomes the score that hypotheses are ranked by.

    score(log_prob, n) = log_prob / penalty(n) + brevity * min(0, 1 - r / n) + bonus

where n is the number of tokens, end-of-sentence counted, and the bonus is 0, the coverage penalty, or another number of
at most 0 that a hypothesis is given when it ends.

The bound. Beam search may stop when nothing that is still alive can enter the pool of finished hypotheses. A
hypothesis with log-probability x <= 0 now, and at most L tokens in the end, ends with x' <= x and n' <= L tokens.
Every penalty here is positive and never falls as n grows, so x' / penalty(n') <= x' / penalty(L) <= x / penalty(L);
and the brevity term never falls either. So

    score(x', n') <= score(x, L),        stated for each convention:

        none       x
        power      x / L ** alpha
        gnmt       x / ((5 + L) / 6) ** alpha
        sockeye    x / ((beta + L) / (beta + 1)) ** alpha
        + brevity  the same, plus brevity * min(0, 1 - r / L): 0 as soon as the limit reaches the reference length r
        + bonus    the same, plus 0

is a true upper bound, and a tight one: a hypothesis whose other tokens are all certain reaches it. Bounds that look
at the length so far (x / penalty(n)) are not bounds, and lose hypotheses. Nothing but "positive" and "never falls" is
used, so a new convention has to keep both (whether its values lie below or above 1 does not matter).

The bonus is only known at the end, so its bound is what is known of it before: it is at most 0, hence score(x', n') +
bonus' <= score(x', n') <= score(x, L) + 0. The coverage penalty is a sum of logarithms of numbers of at most 1, times a
weight of at least 0, and so at most 0. What a hypothesis lacks of coverage now is no better bound: its next steps may
attend to just that. (Each step adds one to the sum of the coverage, so with few steps left not all positions can still
be covered; a bound made of that would be seldom below 0, and has to be computed at every step.) A bonus above 0, a
reward for each word say, would make "never falls" false for the score, and search could stop too early: `beam_search`
takes it for an error, as it does a NaN.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

LENGTH_PENALTIES = ("none", "power", "gnmt", "sockeye")

LEAST_COVERAGE = 1e-6
"""What less coverage is taken for: a float32 softmax can give exactly 0, whose logarithm no other word could make up
for. So a position that was never attended to costs the weight times 13.8."""


def length_penalty(kind: str, alpha: float, lengths: Int[Array, "*any"], *, beta: float = 0.0) -> Float[Array, "*any"]:
    """The divisor for hypotheses of `lengths` tokens, float32. All of them are 1 at n = 1.

        none     1                                  the plain log-probability; alpha is not looked at
        power    n ** alpha                         fairseq, Hugging Face, CTranslate2; with alpha = 1 the mean a token
        gnmt     ((5 + n) / 6) ** alpha             Wu et al. 2016, arXiv:1609.08144, equation 14; T5X, OpenNMT's "wu"
        sockeye  ((beta + n) / (beta + 1)) ** alpha sockeye's --length-penalty-alpha and -beta

    In all of these systems n is the number of tokens generated, end-of-sentence counted and begin-of-sentence not, and
    the log-probability is that of the same n tokens: fairseq divides by (step + 1) with steps from 0, T5X by the index
    of the token in a sequence that starts with begin-of-sentence, sockeye by a count that the step of end-of-sentence
    still raises, Hugging Face by the length without the prompt (older versions counted the prompt in). With beta = 5,
    "sockeye" is "gnmt"; with beta = 0 it is "power".

    Args:
        kind: one of `LENGTH_PENALTIES`.
        alpha: at least 0. With 0, every kind is "none".
        lengths: at least 1.
        beta: at least 0; only "sockeye" looks at it.
    """
    n = lengths.astype(jnp.float32)
    match kind:
        case "none":
            return jnp.ones_like(n)
        case "power":
            return n**alpha
        case "gnmt":
            return ((5.0 + n) / 6.0) ** alpha
        case "sockeye":
            return ((beta + n) / (beta + 1.0)) ** alpha
    raise AssertionError(f"length penalty {kind!r} passed BeamConfig's check but is not one of {LENGTH_PENALTIES}")


def brevity_penalty(
    weight: float, lengths: Int[Array, "*any"], reference_lengths: Float[Array, "*any"]
) -> Float[Array, "*any"]:
    """What is added to the score of a hypothesis shorter than its reference: weight * min(0, 1 - r / n), at most 0.

    The logarithm of BLEU's brevity penalty (Papineni et al. 2002) times a weight, as sockeye's
    --brevity-penalty-weight. The reference's length has to be guessed (sockeye: a constant ratio to the source, or a
    predicted one).

    Args:
        weight: at least 0.
        lengths: tokens of the hypothesis, at least 1, end-of-sentence counted.
        reference_lengths: tokens expected, end-of-sentence counted; need not be whole numbers.
    """
    return weight * jnp.minimum(0.0, 1.0 - reference_lengths / lengths.astype(jnp.float32))


def coverage_penalty(coverage: Float[Array, "B K S"], mask: Bool[Array, "B S"], weight: float) -> Float[Array, "B K"]:
    """What is added to the score of a hypothesis that leaves part of its source unattended; at most 0.

    weight * sum over source positions i of log(min(c_i, 1)), with c_i the sum of position i's attention over the steps
    of the hypothesis, that of end-of-sentence included (Wu et al. 2016, arXiv:1609.08144, equation 14, where the weight
    is beta: about 0.2). OpenNMT's "wu". Attention beyond 1 is not rewarded; a position with less than `LEAST_COVERAGE`
    counts as having that.

    Args:
        coverage: c, at least 0.
        mask: which positions are tokens of the source, and not padding.
        weight: at least 0.
    """
    lacking = jnp.log(jnp.clip(coverage, LEAST_COVERAGE, 1.0))
    return weight * jnp.where(mask[:, None], lacking, 0.0).sum(axis=-1)
