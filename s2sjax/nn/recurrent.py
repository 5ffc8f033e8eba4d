"""A recurrent layer: the parameters of a cell, run over whole sequences or one step at a time."""

import flax.linen as nn
from jax import Array

from s2sjax.nn.layers import Dense, Dropout, Kernel
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.recurrent import Cell, State, advance, recur


class Recurrent(nn.Module):
    """One layer of cells in one direction. States are `ops.recurrent.State`."""

    cell: Cell
    features: int
    precision: Precision
    weight_dropout: float = 0.0
    """Of the weights from one step's state to the next, one mask a call: DropConnect (Wan et al. 2013) as in Merity et
    al. 2018 (arXiv:1708.02182, section 2)."""

    def setup(self):
        gates = self.cell.gates * self.features
        self.input = Dense(gates, self.precision)
        self.recurrent = Kernel((self.features, gates), nn.initializers.orthogonal())
        self.drop = Dropout(self.weight_dropout)

    def __call__(self, x: Array, starts: Array, *, reverse: bool = False, train: bool = False) -> State:
        """Read `x` [B, T, .], from the right if `reverse`: the states of every step, zero before each of `starts`."""
        kernel = self.drop(self.recurrent(), train=train, rows=None)
        return recur(self.cell, self.input(x), kernel, starts, precision=self.precision, reverse=reverse)

    def step(self, x: Array, state: State) -> State:
        """One step of as many sequences as lead `x` [..., .] and the state's leaves."""
        recurrent = project(state.h, self.recurrent(), self.precision)
        return advance(self.cell, self.input(x), recurrent, state)
