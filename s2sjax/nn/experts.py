"""The mixture-of-experts MLP."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from s2sjax.api import ROW_AXES
from s2sjax.nn.layers import ACTIVATIONS
from s2sjax.nn.totals import batch_total, record_total
from s2sjax.ops.dropout import dropout_from, row_numbers
from s2sjax.ops.experts import Routing, dropless, route, with_capacity
from s2sjax.ops.linear import Precision
from s2sjax.ops.sequence_parallel import axis_size


class _Operands(NamedTuple):
    """What experts compute with."""

    x: Array
    """[B, T, D]"""
    filled: Array
    """[B, T]: which of them are tokens."""
    router: Array
    kernels: dict[str, Array]
    key: Array | None
    """Of dropout; None where nothing is dropped."""
    numbers: Array
    """[B, T]: what each token is called in the whole batch."""
    load: Array | None
    """Of experts, by the whole batch, if this is a part of one."""


class Experts(nn.Module):
    """`experts` MLPs without biases, of which each token meets `per_token` (Shazeer et al. 2017, arXiv:1701.06538).

    With `routing` "dropless" every token meets all the experts it chose. With "capacity" an expert takes, in training,
    at most `capacity_factor * per_token / experts` of the tokens of a batch and drops the rest, so that its work has a
    fixed size: what a token becomes in training then depends on the batch it stands in. Evaluating and decoding never
    drop, so that what is decoded does not depend on the batch. The balance loss is one of the batch in any case.

    The router is float32 whatever the precision, and with `bfloat16_products` so are the experts. Padding is not routed
    and not counted. In training on a mesh, devices along its axis `expert` have different experts, and tokens go to
    theirs; nothing about what is computed depends on it. On CPU `lax.ragged_dot` takes every row to every expert and
    zeros what does not belong there: as exact, and as slow as `experts` MLPs.
    """

    hidden: int
    activation: str
    dropout: float
    precision: Precision
    experts: int
    per_token: int
    routing: str
    capacity_factor: float

    @nn.compact
    def __call__(self, x: Array, filled: Array, *, train: bool) -> tuple[Array, Array]:
        """`x` [B, T, D], of which only `filled` [B, T] are tokens, to [B, T, D] and the balance loss, a scalar.

        The load of experts is one of the `nn.totals`.
        """
        B, T, D = x.shape
        E, F = self.experts, self.hidden
        router = self.param("router", nn.initializers.normal(D**-0.5), (D, E), jnp.float32)
        init = nn.initializers.variance_scaling(1, "fan_avg", "uniform", in_axis=-2, out_axis=-1, batch_axis=(0,))
        kernels = {"up": self.param("up_kernels", init, (E, D, F), jnp.float32)}
        if ACTIVATIONS[self.activation].gated:
            kernels["gate"] = self.param("gate_kernels", init, (E, D, F), jnp.float32)
        kernels["down"] = self.param("down_kernels", init, (E, F, D), jnp.float32)
        key = self.make_rng("dropout") if train and self.dropout > 0 else None
        # What a token is called in the whole batch: what dropout draws for it does not depend on where it is computed.
        numbers = row_numbers(B)[:, None] * jnp.uint32(T) + jnp.arange(T, dtype=jnp.uint32)
        load = batch_total(self, "load")
        on_mesh = "expert" in jax.sharding.get_abstract_mesh().axis_names
        if self.routing == "capacity" and train:
            run = self._with_capacity
        else:
            run = self._on_devices if on_mesh else self._dropless
        y, balance, load = run(_Operands(x, filled, router, kernels, key, numbers, load))
        record_total(self, "load", load)
        return y, balance

    def _on_devices(self, operands: _Operands) -> tuple[Array, Array, Array]:
        """`_dropless` on a mesh, the batch split by rows and positions, experts over `expert`, their units over
        `tensor`."""
        rows, tokens = PartitionSpec(ROW_AXES, "sequence", None), PartitionSpec(ROW_AXES, "sequence")
        tensor = "tensor" if axis_size("tensor") > 1 and self.hidden % axis_size("tensor") == 0 else None
        split = {name: PartitionSpec("expert", None, tensor) for name in operands.kernels}
        split["down"] = PartitionSpec("expert", tensor, None)
        whole = PartitionSpec()
        specs: tuple[Any, ...] = (rows, tokens, whole, split, whole, tokens, whole)

        def local(operands: _Operands) -> tuple[Array, Array, Array]:
            return self._dropless(operands, tensor=tensor, mesh=True)

        return jax.shard_map(local, in_specs=(_Operands(*specs),), out_specs=(rows, whole, whole))(operands)

    def _route(self, x: Array, filled: Array, router: Array, load: Array | None, axes: tuple[str, ...] = ()) -> Routing:
        logits = jnp.matmul(x.astype(jnp.float32), router, precision=lax.Precision.HIGHEST)
        return route(logits, filled, k=self.per_token, load=load, axes=axes)

    def _begin(self, numbers: Array, choices: Array) -> Array:
        """At which index the hidden units of each choice begin, of those of all choices of the whole batch."""
        k = self.per_token
        choice = numbers[choices // k] * jnp.uint32(k) + (choices % k).astype(jnp.uint32)
        return choice * jnp.uint32(self.hidden)

    def _mlp(self, rows: Array, kernels, product, key: Array | None, begin: Array) -> Array:
        function, gated = ACTIVATIONS[self.activation]
        h = product(rows, kernels["up"])
        h = function(product(rows, kernels["gate"])) * h if gated else function(h)
        return product(h if key is None else dropout_from(h, self.dropout, key, begin), kernels["down"])

    def _dropless(
        self, operands: _Operands, *, tensor: str | None = None, mesh: bool = False
    ) -> tuple[Array, Array, Array]:
        """All tokens through the experts or, on a `mesh`, those of one device.

        There each device routes its own tokens, gathers those of the devices along `expert`, and takes all of them
        through its own experts; the sums of the answers go back to where their tokens are.
        """
        x, filled, router, kernels, key, numbers, load = operands
        shape, (count, _, F) = x.shape, kernels["up"].shape
        x, filled, numbers = x.reshape(-1, shape[-1]), filled.reshape(-1), numbers.reshape(-1)
        routing = self._route(x, filled, router, load, (*ROW_AXES, "sequence") if mesh else ())
        column = jnp.uint32(0)
        if mesh:
            x, experts, gates, numbers = (
                lax.all_gather(a, "expert", tiled=True) for a in (x, routing.experts, routing.gates, numbers)
            )
            experts = experts - lax.axis_index("expert") * count
            mine = (experts >= 0) & (experts < count)
            routing = routing._replace(experts=jnp.where(mine, experts, count), gates=jnp.where(mine, gates, 0.0))
            if tensor is not None:
                column = lax.axis_index(tensor).astype(jnp.uint32) * jnp.uint32(F)

        def grouped(rows: Array, sizes: Array, choices: Array) -> Array:
            begin = self._begin(numbers, choices) + column
            return self._mlp(rows, kernels, lambda a, b: lax.ragged_dot(a, b.astype(a.dtype), sizes), key, begin)

        y = dropless(x, routing, grouped, count=count)
        if mesh:
            y = y if tensor is None else lax.psum(y, tensor)
            y = lax.psum_scatter(y, "expert", tiled=True)
        return y.reshape(shape), routing.balance, routing.load

    def _with_capacity(self, operands: _Operands) -> tuple[Array, Array, Array]:
        """Which choices are dropped is decided in the order of the whole batch; on a mesh, XLA parts the work."""
        x, filled, router, kernels, key, numbers, load = operands
        tokens, numbers = x.reshape(-1, x.shape[-1]), numbers.reshape(-1)
        routing = self._route(tokens, filled.reshape(-1), router, load)

        def batched(rows: Array, choices: Array) -> Array:
            begin = self._begin(numbers, choices)
            return self._mlp(rows, kernels, lambda a, b: jnp.einsum("ecd,edf->ecf", a, b.astype(a.dtype)), key, begin)

        capacity = max(1, math.ceil(self.capacity_factor * self.per_token * len(tokens) / self.experts))
        y = with_capacity(tokens, routing, batched, count=self.experts, capacity=capacity)
        return y.reshape(x.shape), routing.balance, routing.load
