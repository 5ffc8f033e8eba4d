"""Recurrent cells as plain float64 loops, for one sequence: what the fast code must compute."""

import numpy as np


def float64(tree):
    """A tree of parameters as float64 arrays."""
    return {k: float64(v) if hasattr(v, "items") else np.asarray(v, np.float64) for k, v in tree.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def advance(cell: str, x, recurrent, state):
    """One step from `x W + b` [G], `h U` [G] and the state (h, c), both [D]; only an LSTM has a cell `c`."""
    h, c = state
    D = len(h)
    if cell == "rnn":
        return np.tanh(x + recurrent), c
    if cell == "gru":
        reset, update = (sigmoid(x[n * D : (n + 1) * D] + recurrent[n * D : (n + 1) * D]) for n in range(2))
        new = np.tanh(x[2 * D :] + reset * recurrent[2 * D :])
        return (1 - update) * new + update * h, c
    i, f, g, o = (x[n * D : (n + 1) * D] + recurrent[n * D : (n + 1) * D] for n in range(4))
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def read(cell: str, inputs, kernel, first=None):
    """The states after each of the projected inputs [T, G]: h and c, both [T, D]."""
    D = kernel.shape[0]
    state, states = (np.zeros(D), np.zeros(D)) if first is None else first, []
    for x in inputs:
        state = advance(cell, x, state[0] @ kernel, state)
        states.append(state)
    return tuple(np.stack(x) for x in zip(*states, strict=True))


def dense(layer, x):
    return x @ layer["kernel"] + layer.get("bias", 0)


def layer(cell: str, parameters, x, *, reverse: bool = False):
    """The states of a `Recurrent` layer over `x` [T, .], standing where they were read."""
    order = slice(None, None, -1) if reverse else slice(None)
    inputs = dense(parameters["input"], x[order])
    return tuple(states[order] for states in read(cell, inputs, parameters["recurrent"]["kernel"]))


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def copying(gate, seen, logits, attention, source):
    """The distribution over words of a pointer-generator network (See et al. 2017, equations 8 and 9), at one step.

    Args:
        gate: the parameters of `nn.copying.CopyGate`.
        seen: what it sees, in its order.
        source: the tokens that `attention` [S] is over.
    """
    generation = sigmoid(dense(gate["generation"], np.concatenate(seen))[0])
    mixed = generation * softmax(logits)
    for token, weight in zip(source, attention, strict=True):
        mixed[token] += (1 - generation) * weight
    return mixed
