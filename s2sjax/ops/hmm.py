"""Hidden Markov models: what is believed of the state (the forward algorithm), and the best path (Viterbi).

A chain begins in state i with probability `initial[i]`, emits a token in each state it passes through, and goes from
state i to state j with probability `transition[i, j]` (Rabiner 1989, "A tutorial on hidden Markov models and selected
applications in speech recognition", sections II and III). Rows may hold several chains, one a segment. A token that is
not `observed` (padding, begin-of-sentence) is passed over: nothing is emitted, and the state does not change.

There is no backward algorithm here: the expected counts that it gives are derivatives of the log-likelihood with
respect to log-probabilities (Eisner 2016, "Inside-outside and forward-backward algorithms are just backprop"), so
`jax.grad` of `forward` computes them.

Letters: N states; the others are those of `api`.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import finite_log
from s2sjax.ops.recurrent import scan_products


def observe(
    belief: Float[Array, "*any N"], log_likelihood: Float[Array, "*any N"]
) -> tuple[Float[Array, "*any N"], Float[Array, "*any"]]:
    """What is believed of the state that emits a token once the token is seen, and the token's log-probability.

    The belief in the state that emits the next token is this one's times `transition`: a matrix product of
    probabilities, not a logarithm of N * N sums. What the token says is added in logarithms, so that the largest of
    the N products is 1 however unlikely all of them are.

    Args:
        belief: distribution of the state that emits the token.
        log_likelihood: log-probability of the token in each state.
    """
    joint = finite_log(belief) + log_likelihood
    evidence = jax.nn.logsumexp(joint, axis=-1)
    return jnp.exp(joint - evidence[..., None]), evidence


def forward(
    log_initial: Float[Array, "N"],
    log_transition: Float[Array, "N N"],
    log_likelihoods: Float[Array, "B T N"],
    observed: Bool[Array, "B T"],
    starts: Bool[Array, "B T"],
) -> tuple[Float[Array, "B T N"], Float[Array, "B T"]]:
    """The forward algorithm (Rabiner 1989, section III.A), scaled at every step, float32.

    Args:
        log_likelihoods: log-probability of each token in each state.
        starts: True where a chain begins: the belief is `initial` before that token.

    Returns:
        predicted [B, T, N]: distribution of the state that emits what follows token t, given the tokens up to t. The
            probability of the token that follows is `predicted @ emission`.
        evidence [B, T]: log-probability of token t given those before it, 0 where nothing was observed. Its sum over a
            segment is the log-likelihood of the segment.
    """
    initial, kernels = jnp.exp(log_initial), {"transition": jnp.exp(log_transition)}
    first = jnp.broadcast_to(initial, (log_likelihoods.shape[0], initial.shape[0]))
    xs = (log_likelihoods.swapaxes(0, 1), observed.T, starts.T)
    _, (predicted, evidence) = scan_products(_step, kernels, initial, first, xs, precision=Precision.FLOAT32)
    return predicted.swapaxes(0, 1), evidence.T


def _step(product, initial, belief, x):
    log_likelihood, observed, start = x
    belief = jnp.where(start[:, None], initial, belief)
    seen, evidence = observe(belief, log_likelihood)
    belief = jnp.where(observed[:, None], product("transition", seen), belief)
    return belief, (belief, jnp.where(observed, evidence, 0.0))


def viterbi(
    log_initial: Float[Array, "N"],
    log_transition: Float[Array, "N N"],
    log_likelihoods: Float[Array, "B T N"],
    observed: Bool[Array, "B T"],
    starts: Bool[Array, "B T"],
) -> tuple[Int[Array, "B T"], Float[Array, "B"]]:
    """The most probable path of states (Rabiner 1989, section III.B). Arguments as in `forward`.

    Returns:
        states [B, T]: the state at each token, -1 where nothing was observed.
        log_probs [B]: joint log-probability of each row's paths and tokens, summed over its segments.
    """
    B, _, N = log_likelihoods.shape

    def step(carry, x):
        score, total, fresh = carry
        log_likelihood, observed, start = x
        fresh = fresh | start  # no token of this chain has been seen: it begins, whatever state the last one ended in
        moves = jnp.where(fresh[:, None, None], log_initial, log_transition)
        paths = score[:, :, None] + moves  # [B, N, N]: from, to
        came_from = jnp.argmax(paths, axis=1)
        arrived = jnp.max(paths, axis=1) + log_likelihood
        best = jnp.max(arrived, axis=1, keepdims=True)
        # The best score is kept apart from the differences, which float32 would lose in a long sum.
        score = jnp.where(observed[:, None], arrived - best, score)
        total = total + jnp.where(observed, best[:, 0], 0.0)
        came_from = jnp.where(observed[:, None], came_from, jnp.arange(N))
        return (score, total, fresh & ~observed), came_from

    first = jnp.zeros((B, N)), jnp.zeros(B), jnp.ones(B, bool)
    xs = (log_likelihoods.swapaxes(0, 1), observed.T, starts.T)
    (score, total, _), came_from = lax.scan(step, first, xs)

    def back(state, came_from):
        return jnp.take_along_axis(came_from, state[:, None], axis=1)[:, 0], state

    _, states = lax.scan(back, jnp.argmax(score, axis=1), came_from, reverse=True)
    return jnp.where(observed, states.T, -1), total
