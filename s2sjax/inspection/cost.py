"""What a step would take, without compiling it: parameters over a mesh, memory, operations."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from s2sjax import sharding
from s2sjax.inspection.estimate import Flops, count_flops, peak_bytes
from s2sjax.inspection.program import factored, flatten, lay_out, spec_layout
from s2sjax.inspection.subject import Subject


@dataclass(frozen=True)
class Parameter:
    path: str
    shape: tuple[int, ...]
    type: str
    split: tuple[str, ...]
    """For each dimension the mesh axes it is split over where it is stored, joined by "+"; empty: none."""
    bytes: int
    """On one device."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    parameters: int
    optimizer: int
    average: int
    """The moving average of the parameters."""
    rest: int
    """Counters."""
    batch: int
    step: int
    """Estimated: at their most, activations, gradients, gathered parameters and whatever else a step makes."""

    @property
    def stored(self) -> int:
        """What stays on a device from step to step: exact."""
        return self.parameters + self.optimizer + self.average + self.rest

    @property
    def peak(self) -> int:
        return self.stored + self.batch + self.step


class Cost(NamedTuple):
    memory: Memory
    flops: Flops


def list_parameters(subject: Subject) -> list[Parameter]:
    made = []
    for path, leaf in jax.tree.leaves_with_path(subject.state.params):
        layout = spec_layout(leaf.sharding.spec, leaf.ndim, subject.mesh.shape)
        split = tuple("+".join(axis for axis in axes if subject.mesh.shape[axis] > 1) for axes in layout)
        made.append(Parameter(sharding.path_name(path), leaf.shape, str(leaf.dtype), split, device_bytes(leaf)))
    return made


def device_bytes(tree: Any) -> int:
    """Bytes on one device of a tree of abstract arrays with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def estimate_cost(subject: Subject, platform: str) -> Cost:
    """Memory on one device, and the operations of a step's matrix products, from the step's jaxpr.

    Args:
        platform: for whose compiler memory is estimated: "cpu", "gpu", "tpu". Held to XLA's figures on a CPU only.
    """
    arguments = subject.state, subject.batch
    program = flatten(subject.step.trace(*arguments).jaxpr.jaxpr)
    mesh = factored(subject.mesh.shape)
    lay_out(program, [spec_layout(leaf.sharding.spec, leaf.ndim, mesh) for leaf in jax.tree.leaves(arguments)], mesh)
    state = subject.state
    known = {
        "parameters": device_bytes(state.params),
        "optimizer": device_bytes(state.opt_state),
        "average": device_bytes(state.ema),
    }
    rest = device_bytes(state) - sum(known.values())
    memory = Memory(**known, rest=rest, batch=device_bytes(subject.batch), step=peak_bytes(program, platform))
    return Cost(memory, count_flops(program))
