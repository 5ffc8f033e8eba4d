"""What a step costs, before it is compiled: operations of its matrix products, and memory for what it keeps meanwhile.

Both are read from the step's jaxpr (`program`). The memory is that of a compiler that fuses what is element-wise into
what reads it, frees an array after its last reader and sets aside early what loops write into: what XLA does, in
outline. On a CPU it computes whatever it can as early as it can, and bfloat16 in float32; elsewhere in the order in
which the program is written.
"""

import collections
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from s2sjax.inspection.program import Operation, Program

_SAME = {"reshape", "squeeze", "expand_dims", "stop_gradient", "optimization_barrier", "copy", "copy_p", "reshard"}
"""They give an array another name or shape, and cost nothing."""
_COSTLY = {
    "exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "erf", "erfc", "erf_inv", "sqrt", "rsqrt", "cbrt",
    "div", "rem", "pow", "sin", "cos", "tan", "atan2",
}  # fmt: skip
"""Element-wise operations that XLA does not do twice."""
_CHEAP = {
    "add", "add_any", "sub", "mul", "neg", "max", "min", "abs", "sign", "floor", "ceil", "round", "is_finite", "not",
    "and", "or", "xor", "shift_left", "shift_right_logical", "shift_right_arithmetic", "eq", "ne", "lt", "le", "gt",
    "ge", "select_n", "clamp", "convert_element_type", "integer_pow", "square", "population_count", "random_wrap",
    "random_unwrap",
}  # fmt: skip
_MOVING = {
    "broadcast_in_dim", "iota", "transpose", "slice", "rev", "pad", "concatenate", "dynamic_slice", "gather", "stack",
}  # fmt: skip
_FUSED = _COSTLY | _CHEAP | _MOVING
"""What can be computed where it is read, and need not be kept for that."""
_READING = {
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin",
}  # fmt: skip
"""What must be kept, but into which XLA fuses what it reads."""
_SMALL = 1024
"""Bytes of an operand that does not count."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a step's matrix products, two for a multiplication and its addition."""

    total: int
    device: float
    """On one device, as the products are split over the mesh."""


def count_flops(program: Program, times: int = 1) -> Flops:
    """Loops are counted as often as they run, what the backward pass computes again is counted again. Element-wise
    operations are not counted, as is the custom; of a `while` loop, whose length nobody knows, one iteration is."""
    total, device = 0, 0.0
    for operation in program.operations:
        if operation.name in ("dot_general", "ragged_dot", "ragged_dot_general"):
            flops, parts = _product(program, operation)
            total, device = total + times * flops, device + times * flops / parts
        elif operation.bodies:
            runs = times * (operation.params["length"] if operation.name == "scan" else 1)
            inner = max((count_flops(body, runs) for body in operation.bodies), key=lambda flops: flops.total)
            # Inside a shard_map stands what one device computes.
            whole = program.parts(program.mesh) if operation.name == "shard_map" else 1
            total, device = total + inner.total * whole, device + inner.device
    return Flops(total, device)


def _product(program: Program, operation: Operation) -> tuple[int, int]:
    """Operations of one product, and over how many devices they are split."""
    left, right = operation.inputs[:2]
    assert left is not None and right is not None
    shape, output = program.arrays[left].shape, operation.outputs[0]
    if operation.name == "dot_general":
        summed = operation.params["dimension_numbers"][0]
    else:
        summed = ((len(shape) - 1,), (len(program.arrays[right].shape) - 2,))
    flops = 2
    for size in (*program.arrays[output].shape, *(shape[i] for i in summed[0])):
        flops *= size
    axes = {axis for part in program.layouts[output] for axis in part}
    for i, j in zip(*summed, strict=True):
        axes |= set(program.layouts[left][i]) & set(program.layouts[right][j])
    return flops, program.parts(axes)


def peak_bytes(program: Program, platform: str) -> int:
    """Most bytes that a device keeps at one time besides the program's inputs and outputs.

    Args:
        platform: whose compiler: "cpu", "gpu", "tpu".
    """
    return _Memory(program, platform).peak()


class _Made(NamedTuple):
    """An operation that makes arrays which are kept."""

    operation: Operation | None
    """None: a loop's body takes its slice of what the loop runs over."""
    outputs: list[int]
    read: frozenset[int]
    """The kept arrays that it is computed from."""


class _Memory:
    """Which of a program's arrays are kept, from where to where.

    Args:
        within: the operation whose body the program is. Of a loop's results what is carried on has to be made besides,
            for the rest is written into the loop's own at once; slices of what it runs over are made where something
            reads them that nothing is fused into. None: the program is the step, whose outputs have a place already.
    """

    def __init__(self, program: Program, platform: str, within: Operation | None = None) -> None:
        self.program, self.platform, self.in_loop = program, platform, within is not None
        results = _carried_on(within) if within else None
        self.names: dict[int, int] = {}
        for operation in program.operations:
            if operation.name in _SAME or (operation.name == "sharding_constraint" and self._stays(operation)):
                self.names |= {o: i for i, o in zip(operation.inputs, operation.outputs, strict=False) if i is not None}
        self.operations = [o for o in program.operations if any(x not in self.names for x in o.outputs)]
        self.maker = {number: operation for operation in self.operations for number in operation.outputs}
        self.results = self._named(program.outputs if results is None else program.outputs[:results])
        readers = [o for o in self.operations if o.name not in _FUSED and o.name not in _READING]
        read_whole = self._named(i for operation in readers for i in operation.inputs)
        self.slices = [i for i in _slices(program, within) if i in read_whole]
        self.kept = self._named(program.outputs) | self._kept()
        self._sources: dict[int, frozenset[int]] = {}

    def _stays(self, operation: Operation) -> bool:
        (i,), (o,) = operation.inputs, operation.outputs
        return i is not None and self.program.layouts[i] == self.program.layouts[o]

    def _named(self, numbers: Iterable[int | None]) -> set[int]:
        found = set()
        for number in numbers:
            while number in self.names:
                number = self.names[number]
            if number is not None:
                found.add(number)
        return found

    def _kept(self) -> set[int]:
        """Arrays that cannot be computed where they are read, or would be computed there too often."""
        readers: collections.Counter[int] = collections.Counter()
        kept: set[int] = set()
        for operation in self.operations:
            named = self._named(operation.inputs)
            readers.update(named)
            if operation.name not in _FUSED:
                kept.update(operation.outputs)
                if operation.name not in _READING:
                    kept |= named
        constant: set[int] = set()
        for operation in self.operations:
            if operation.name not in _FUSED:
                continue
            output, operands = operation.outputs[0], self._named(operation.inputs)
            read = sum(size for i in operands - constant if (size := self.program.bytes(i)) > _SMALL)
            if operation.name in ("broadcast_in_dim", "iota") and not read:
                constant.add(output)
                kept.discard(output)  # where a loop begins with it, the loop's result stands there
            elif readers[output] > 1:
                # Computing it at each reader would mean to keep its operands: worth it if they are smaller.
                larger = read > self.program.bytes(output)
                if larger or operation.name in _COSTLY or operation.name == "broadcast_in_dim":
                    kept.add(output)
        return kept

    def _read(self, number: int) -> frozenset[int]:
        """The kept arrays that are read to compute this one, itself if it is kept."""
        if number in self.kept or number not in self.maker:
            return frozenset((number,))
        if number not in self._sources:
            operands = self._named(self.maker[number].inputs)
            self._sources[number] = frozenset().union(*(self._read(i) for i in operands))
        return self._sources[number]

    def peak(self) -> int:
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(max(before, 10 * len(self.operations) + 1000))
        try:
            made = [_Made(None, [slice_], frozenset()) for slice_ in self.slices] + [
                _Made(operation, outputs, frozenset().union(*(self._read(i) for i in self._named(operation.inputs))))
                for operation in self.operations
                if (outputs := [o for o in operation.outputs if o in self.kept])
            ]
        finally:
            sys.setrecursionlimit(before)
        orders = [made, _breadth_first(made)] if self.platform == "cpu" else [made]
        return max(self._most(order) for order in orders)

    def _most(self, made: list[_Made]) -> int:
        """The peak, if it is computed in this order."""
        most = 0
        last = {number: place for place, (_, _, read) in enumerate(made) for number in read}
        # What a loop writes into is set aside when the program begins: filling it with zeros waits for nothing. XLA
        # does so on a CPU, where it orders a program for concurrency.
        alive = {
            output: self._bytes(operation, output, output in last)
            for operation, outputs, _ in made
            for output in outputs
            if operation and operation.name == "scan"
        }
        for place, (operation, outputs, read) in enumerate(made):
            dying = [i for i in read if last[i] == place and i in alive and i not in self.results]
            bodies = operation.bodies if operation else []
            if operation and operation.name in ("scan", "while"):  # what is carried stays where it begins
                for begun in self._named(_carried(operation)):
                    if begun in dying:
                        dying.remove(begun)
                        del alive[begun]
            meanwhile = max((_Memory(body, self.platform, operation).peak() for body in bodies), default=0)
            for output in outputs:
                alive[output] = self._bytes(operation, output, output in last)
                if operation and operation.name in _FUSED:  # may be written where an operand stood
                    same = next((i for i in dying if alive[i] == alive[output]), None)
                    if same is not None:
                        dying.remove(same)
                        del alive[same]
            most = max(most, sum(alive.values()) + meanwhile)
            for number in (*dying, *(o for o in outputs if o not in last and o not in self.results)):
                del alive[number]
        return most

    def _bytes(self, operation: Operation | None, output: int, read: bool) -> int:
        if output in self.results and not self.in_loop:
            return 0
        if output not in self.results and self.in_loop and not read and operation and operation.name in _FUSED:
            return 0  # written into the loop's results as it is computed
        return self.program.bytes(output) * (2 if self._widened(operation, output) else 1)

    def _widened(self, operation: Operation | None, output: int) -> bool:
        """Whether a CPU keeps float32 where the program says bfloat16: of what it computes, not of products' operands
        that were rounded for them."""
        rounded = operation is None or operation.name == "convert_element_type" or operation.name in _MOVING
        return self.platform == "cpu" and self.program.arrays[output].dtype == "bfloat16" and not rounded


def _breadth_first(made: list[_Made]) -> list[_Made]:
    """In the order in which XLA computes on a CPU, where it schedules for concurrency (`BFScheduler`): first what needs
    nothing, then whatever has become ready, in turn. So what rematerialisation computes again outside of loops comes
    long before it is read."""
    maker = {output: place for place, one in enumerate(made) for output in one.outputs}
    readers = collections.defaultdict(list)
    waiting = []
    for place, one in enumerate(made):
        needed = {maker[number] for number in one.read if number in maker}
        waiting.append(len(needed))
        for other in needed:
            readers[other].append(place)
    ready = collections.deque(place for place, needed in enumerate(waiting) if not needed)
    order = []
    while ready:
        place = ready.popleft()
        order.append(made[place])
        for reader in readers[place]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    return order


def _carried(operation: Operation) -> list[int | None]:
    """The operands that a loop begins with and changes."""
    params = operation.params
    if operation.name == "scan":
        return operation.inputs[params["num_consts"] :][: params["num_carry"]]
    return operation.inputs[params["cond_nconsts"] + params["body_nconsts"] :]


def _carried_on(operation: Operation) -> int:
    """How many of a body's outputs are."""
    return operation.params["num_carry"] if operation.name == "scan" else len(operation.bodies[0].outputs)


def _slices(body: Program, within: Operation | None) -> list[int]:
    """The inputs of a body that are slices of what its loop runs over."""
    if within is None or within.name != "scan":
        return []
    return body.inputs[within.params["num_consts"] + within.params["num_carry"] : len(within.inputs)]
