"""Mixtures of experts: which tokens go to which experts, and their way there and back.

Tokens that are not `filled` (padding) go to no expert, count for nothing and come back as zeros.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int


class Routing(NamedTuple):
    """Each token's `k` experts, the best first."""

    experts: Int[Array, "M k"]
    """Their numbers; E, which is no expert, for tokens that are not filled."""
    gates: Float[Array, "M k"]
    """The weights of their answers, float32."""
    balance: Float[Array, ""]
    """The load-balancing loss, without a factor: 1 where all experts have the same load, E where one has it all."""
    load: Float[Array, "E"]
    """How many choices fell on each expert."""


def route(
    logits: Float[Array, "M E"],
    filled: Bool[Array, "M"],
    *,
    k: int,
    load: Float[Array, "E"] | None = None,
    axes: tuple[str, ...] = (),
) -> Routing:
    """Choose the `k` experts of the highest probability, softmax over experts in float32.

    A single expert's gate is its probability, which is what the router learns by (Fedus et al. 2022, arXiv:2101.03961,
    equation 2). Several are weighted by their probabilities over the sum of them (Lepikhin et al. 2020,
    arXiv:2006.16668, algorithm 1). The balance is `E sum_i f_i P_i` (Fedus et al., equations 4 to 6) with f_i the share
    of all choices that fell on expert i and P_i its mean probability.

    Args:
        load: of the whole batch, if these tokens are a part of one. The balance is then this part's share: it has its
            own sum of probabilities, but the load and the number of tokens of all.
        axes: of the mesh, over which the tokens are split where this is called for each device; balance and load are
            those of all.
    """
    E = logits.shape[1]

    def total(x: Array) -> Array:
        return lax.psum(x, axes) if axes else x

    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    gates, experts = lax.top_k(probabilities, k)
    if k > 1:
        gates = gates / jnp.sum(gates, axis=-1, keepdims=True)
    chosen = jnp.sum(jax.nn.one_hot(experts, E), axis=1)
    own = total(jnp.sum(jnp.where(filled[:, None], chosen, 0.0), axis=0))
    load = own if load is None else load
    count = jnp.maximum(jnp.sum(load) / k, 1)
    mean = total(jnp.sum(jnp.where(filled[:, None], probabilities, 0.0), axis=0)) / count
    return Routing(
        experts=jnp.where(filled[:, None], experts, E),
        gates=jnp.where(filled[:, None], gates, 0.0),
        balance=E * jnp.sum(load / (count * k) * mean),
        load=own,
    )


def dropless(
    x: Float[Array, "M D"], routing: Routing, experts: Callable[[Array, Array, Array], Array], *, count: int
) -> Float[Array, "M D"]:
    """Every token meets all of its experts: choices are sorted by expert, and products are grouped (Gale et al. 2022,
    arXiv:2211.15841). A token's answer does not depend on any other token.

    Args:
        experts: takes rows [M * k, D], those of expert 0 first, the number of rows of each expert [E] (rows beyond
            their sum belong to nobody), and of each row which choice it is: token times k, plus the choice's place.
            Returns [M * k, D].
        count: the number of experts E.
    """
    M, k = routing.experts.shape
    choices = routing.experts.reshape(-1)
    order = jnp.argsort(choices, stable=True)
    sizes = jnp.zeros(count + 1, jnp.int32).at[choices].add(1)[:count]
    answers = experts(x[order // k], sizes, order)
    back = jnp.argsort(order).reshape(M, k)
    return _weigh(answers[back], routing)


def with_capacity(
    x: Float[Array, "M D"], routing: Routing, experts: Callable[[Array, Array], Array], *, count: int, capacity: int
) -> Float[Array, "M D"]:
    """Every expert takes `capacity` tokens at most, first choices before second ones and in the order of tokens within
    them (Lepikhin et al. 2020, section 2.2); a choice that comes too late is dropped and adds nothing.

    So a token's answer depends on the tokens before it in the batch, and on nothing random.

    Args:
        experts: takes and returns [E, capacity, D], in which places that nobody took are zeros; and takes of each place
            which choice it is, [E, capacity], as in `dropless`.
    """
    M, k = routing.experts.shape
    choices = routing.experts.T.reshape(-1)  # [k * M], all first choices first
    taken = jax.nn.one_hot(choices, count, dtype=jnp.int32)
    rank = jnp.sum((jnp.cumsum(taken, axis=0) - 1) * taken, axis=-1)
    nowhere = count * capacity
    place = jnp.where((choices < count) & (rank < capacity), choices * capacity + rank, nowhere)
    buffers = jnp.zeros((nowhere, x.shape[1]), x.dtype).at[place].set(jnp.tile(x, (k, 1)), mode="drop")
    numbers = jnp.arange(M * k).reshape(M, k).T.reshape(-1)
    which = jnp.zeros(nowhere, numbers.dtype).at[place].set(numbers, mode="drop").reshape(count, capacity)
    answers = experts(buffers.reshape(count, capacity, x.shape[1]), which).reshape(nowhere, x.shape[1])
    answers = answers.at[place.reshape(k, M).T].get(mode="fill", fill_value=0)
    return _weigh(answers, routing)


def _weigh(answers: Array, routing: Routing) -> Array:
    """[M, k, D] -> [M, D] by the gates."""
    gates = routing.gates.astype(answers.dtype)
    answers = jnp.where(gates[..., None] > 0, answers, 0)
    return jnp.einsum("mk,mkd->md", gates, answers)
