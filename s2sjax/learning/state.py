"""The train state: all that a step changes, and all that a checkpoint holds."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from s2sjax.api import Rules, batch_shapes
from s2sjax.learning.faults import Health, healthy
from s2sjax.ports import Ports
from s2sjax.sharding import replicated, shard_like_parameters, shard_parameters

Params = Any


@flax.struct.dataclass
class TrainState:
    step: Array
    """Steps made so far, int32. Batch and dropout of the next one follow from it."""
    params: Params
    opt_state: optax.OptState
    ema: Params | None
    """Moving average of the parameters, if there is one."""
    health: Health
    """Which steps were bad, and what is usual. The learning rate follows from the updates taken."""

    @property
    def best_params(self) -> Params:
        """What to evaluate and decode with: the average if there is one."""
        return self.params if self.ema is None else self.ema


def initializer(
    model: nn.Module, ports: Ports, optimizer: optax.GradientTransformation, *, ema: bool
) -> Callable[[Array], TrainState]:
    """A function from a random key to the state before the first update. Args: ports: what the model is built for."""
    # Parameters do not depend on the shape of a batch: the smallest will do.
    batch = {name: jnp.ones(x.shape, x.dtype) for name, x in batch_shapes(ports, 1, 2, 2).items()}

    def init(key: Array) -> TrainState:
        params = model.init(key, batch, train=False)["params"]
        average = params if ema else None
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average, healthy())

    return init


def abstract_state(init: Callable[[Array], TrainState], mesh: Mesh, rules: Rules, *, stored: bool = True) -> TrainState:
    """The state's shapes, types and shardings, without allocating anything.

    Args:
        stored: parameters as they are stored; or as they are used.
    """
    shapes = jax.eval_shape(init, jax.random.key(0))
    params = shard_parameters(mesh, shapes.params, rules, stored=stored)
    shardings = TrainState(  # a tree of shardings in place of arrays
        step=replicated(mesh),  # type: ignore[arg-type]
        params=params,
        opt_state=shard_like_parameters(mesh, shapes.opt_state, shapes.params, params),
        ema=None if shapes.ema is None else params,
        health=jax.tree.map(lambda _: replicated(mesh), shapes.health),
    )
    return jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, shardings)


def shardings(abstract: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)
