"""A step as a list of operations on arrays, and how each array is split over a mesh: read from its jaxpr, run nowhere.

Calls are written out in place, so that what an array is used for can be seen; loops keep their bodies.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend.core import Jaxpr, Literal
from jax.sharding import NamedSharding

Layout = tuple[tuple[str, ...], ...]
"""For each dimension of an array the mesh axes it is split over."""

_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin")


@dataclass
class Operation:
    name: str
    """The JAX primitive's."""
    params: Mapping[str, Any]
    inputs: list[int | None]
    """Numbers of arrays; None for a literal."""
    outputs: list[int]
    bodies: "list[Program]" = field(default_factory=list)
    """Of a loop its body, of a conditional its branches."""


@dataclass
class Program:
    """Arrays are numbered; `layouts` says how each is split, and is filled by `lay_out`."""

    arrays: list[Any]
    """Their abstract values."""
    inputs: list[int]
    """Constants come last."""
    outputs: list[int | None]
    operations: list[Operation]
    mesh: Mapping[str, int] = field(default_factory=dict)
    layouts: list[Layout] = field(default_factory=list)

    def parts(self, axes: Iterable[str]) -> int:
        return math.prod(self.mesh[axis] for axis in axes)

    def bytes(self, array: int) -> int:
        """Of an array's part on one device."""
        aval = self.arrays[array]
        parts = self.parts(axis for axes in self.layouts[array] for axis in axes)
        return -(-math.prod(aval.shape) * _width(aval.dtype) // parts)


def _width(dtype) -> int:
    # A random key is two 32-bit words.
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.extended) else dtype.itemsize


def flatten(jaxpr: Jaxpr) -> Program:
    """The operations that its outputs need, calls written out."""
    arrays: list[Any] = []
    operations: list[Operation] = []

    def number(variable) -> int:
        arrays.append(variable.aval)
        return len(arrays) - 1

    def walk(jaxpr: Jaxpr, numbers: dict[Any, int | None]) -> list[int | None]:
        def read(variable) -> int | None:
            return None if isinstance(variable, Literal) else numbers[variable]

        for equation in jaxpr.eqns:
            name, params = equation.primitive.name, equation.params
            given = [read(v) for v in equation.invars]
            called = next((params[key] for key in _CALLS if key in params), None)
            if called is None or name in ("scan", "shard_map", *_REDUCTIONS):
                outputs = [number(v) for v in equation.outvars]
                numbers.update(zip(equation.outvars, outputs, strict=True))
                bodies = [flatten(getattr(body, "jaxpr", body)) for body in _bodies(name, params)]
                operations.append(Operation(name, params, given, outputs, bodies))
                continue
            inner = getattr(called, "jaxpr", called)
            inside = dict(zip(inner.invars, given, strict=True))
            for constant in inner.constvars:
                inside[constant] = number(constant)
                inputs.append(inside[constant])
            numbers.update(zip(equation.outvars, walk(inner, inside), strict=True))
        return [read(v) for v in jaxpr.outvars]

    inputs: list[int] = []
    first = {v: number(v) for v in (*jaxpr.invars, *jaxpr.constvars)}
    inputs += first.values()
    outputs = walk(jaxpr, dict(first))
    needed = {i for i in outputs if i is not None}
    kept = []
    for operation in reversed(operations):
        if needed.intersection(operation.outputs):
            kept.append(operation)
            needed |= {i for i in operation.inputs if i is not None}
    return Program(arrays, inputs, outputs, kept[::-1], layouts=[((),) * len(getattr(a, "shape", ())) for a in arrays])


def _bodies(name: str, params: Mapping[str, Any]) -> list[Any]:
    if name in ("scan", "shard_map"):
        return [params["jaxpr"]]
    return [params["body_jaxpr"]] if name == "while" else list(params["branches"]) if name == "cond" else []


def lay_out(program: Program, inputs: Sequence[Layout], mesh: Mapping[str, int]) -> list[Layout]:
    """Fill in `layouts`, from those of the inputs on; those of the outputs are returned.

    Follows what XLA's partitioner does where it has no reason to move anything: element-wise results are split like
    their operands, products like the dimensions that they keep, and a dimension that is summed over is split no more.
    """
    program.mesh = mesh
    for number, layout in zip(program.inputs, inputs, strict=False):
        program.layouts[number] = layout
    for operation in program.operations:
        given = [None if i is None else program.layouts[i] for i in operation.inputs]
        for number, layout in zip(operation.outputs, _split(program, operation, given), strict=True):
            program.layouts[number] = _fitting(layout, program.arrays[number].shape, mesh)
    return [() if i is None else program.layouts[i] for i in program.outputs]


def _fitting(layout: Layout, shape: Sequence[int], mesh: Mapping[str, int]) -> Layout:
    """Each axis once, and only where it divides the dimension."""
    seen: set[str] = set()
    fitting = []
    for axes, size in zip(layout, shape, strict=True):
        axes = tuple(axis for axis in axes if axis not in seen and mesh[axis] > 1)
        axes = axes if size % math.prod(mesh[axis] for axis in axes) == 0 else ()
        seen.update(axes)
        fitting.append(axes)
    return tuple(fitting)


def _split(program: Program, operation: Operation, given: list[Layout | None]) -> list[Layout]:
    """Layouts of an operation's results."""
    name, params = operation.name, operation.params
    shapes = [program.arrays[i].shape for i in operation.outputs]
    operand = given[0] if given and given[0] is not None else ()
    if name == "sharding_constraint" and isinstance(params["sharding"], NamedSharding):
        return [spec_layout(params["sharding"].spec, len(shapes[0]), program.mesh)]
    if name == "dot_general":
        (left, right), (left_batch, right_batch) = params["dimension_numbers"]
        lhs, rhs = given[0] or ((),) * len(left + left_batch), given[1] or ((),) * len(right + right_batch)
        batch = [a or b for a, b in ((lhs[i], rhs[j]) for i, j in zip(left_batch, right_batch, strict=True))]
        free = [lhs[i] for i in range(len(lhs)) if i not in left + left_batch]
        return [(*batch, *free, *(rhs[i] for i in range(len(rhs)) if i not in right + right_batch))]
    if name == "broadcast_in_dim":
        layout: list[tuple[str, ...]] = [()] * len(shapes[0])
        for axes, dimension in zip(operand, params["broadcast_dimensions"], strict=bool(operand)):
            layout[dimension] = axes
        return [tuple(layout)]
    if name == "transpose":
        return [tuple(operand[i] for i in params["permutation"])]
    if name == "reshape":
        source = () if operation.inputs[0] is None else program.arrays[operation.inputs[0]].shape
        return [_reshaped(source, operand, shapes[0], program.mesh)]
    if name == "squeeze" or name in _REDUCTIONS:
        gone = params["dimensions"] if name == "squeeze" else params["axes"]
        return [tuple(axes for i, axes in enumerate(operand) if i not in gone)] * len(shapes)
    if name == "gather":
        table = operation.inputs[0]
        assert table is not None
        numbers, sizes = params["dimension_numbers"], program.arrays[table].shape
        indices = iter((given[1] or ())[:-1])
        dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        whole = iter(
            a if sizes[i] == params["slice_sizes"][i] else () for i, a in enumerate(operand) if i not in dropped
        )
        return [tuple(next(whole) if i in numbers.offset_dims else next(indices, ()) for i in range(len(shapes[0])))]
    if name.startswith("scatter"):
        return [operand]
    if operation.bodies:
        return _split_loop(program, operation, given)
    return [_alike(program, operation, given, shape) for shape in shapes]


def _alike(program: Program, operation: Operation, given: list[Layout | None], shape: Sequence[int]) -> Layout:
    """Of an element-wise operation, and of any other along the dimensions that it leaves as they are."""
    layout: list[tuple[str, ...]] = [()] * len(shape)
    for number, axes in zip(operation.inputs, given, strict=True):
        if number is not None and axes is not None and len(axes) == len(shape):
            sizes = program.arrays[number].shape
            layout = [
                old or (new if sizes[i] == shape[i] else ())
                for i, (old, new) in enumerate(zip(layout, axes, strict=True))
            ]
    return tuple(layout)


def _reshaped(source: Sequence[int], layout: Layout, shape: Sequence[int], mesh: Mapping[str, int]) -> Layout:
    """Dimensions are merged and parted in groups of equal size; a group stays split along its outermost."""
    result: list[tuple[str, ...]] = [()] * len(shape)
    i = j = 0
    while i < len(source) and j < len(shape):
        first_i, first_j, left, right = i, j, source[i], shape[j]
        while left != right and i < len(source) and j < len(shape):
            if left < right:
                i += 1
                left *= source[i]
            else:
                j += 1
                right *= shape[j]
        if layout:
            _hand_out(
                _outermost(source, layout, range(first_i, i + 1), mesh), shape, range(first_j, j + 1), mesh, result
            )
        i, j = i + 1, j + 1
    return tuple(result)


def _outermost(source: Sequence[int], layout: Layout, dimensions: Iterable[int], mesh: Mapping[str, int]) -> list[str]:
    """The axes that dimensions are split over when they are merged: those of the outermost, and while that leaves
    nothing of a dimension, those of the next."""
    found: list[str] = []
    for k in dimensions:
        found += layout[k]
        if source[k] != math.prod(mesh[axis] for axis in layout[k]):
            break
    return found


def _hand_out(
    axes: list[str],
    shape: Sequence[int],
    dimensions: Iterable[int],
    mesh: Mapping[str, int],
    result: list[tuple[str, ...]],
) -> None:
    """Split the parts of what was one dimension, the outermost first, over its axes."""
    for k in dimensions:
        left = shape[k]
        while axes and left % mesh[axes[0]] == 0:
            left //= mesh[axes[0]]
            result[k] = (*result[k], axes.pop(0))
        if left > 1:
            return


def _split_loop(program: Program, operation: Operation, given: list[Layout | None]) -> list[Layout]:
    params = operation.params
    layouts = [
        axes if axes is not None else ((),) * len(getattr(a, "shape", ()))
        for axes, a in zip(given, _shapes_given(program, operation), strict=True)
    ]
    if operation.name == "shard_map":
        # Inside, arrays have the shapes that one device sees.
        body = operation.bodies[0]
        lay_out(body, [((),) * len(body.arrays[i].shape) for i in body.inputs], program.mesh)
        return [
            spec_layout(s, len(program.arrays[o].shape), program.mesh)
            for s, o in zip(params["out_specs"], operation.outputs, strict=True)
        ]
    if operation.name == "cond":
        return [lay_out(body, layouts[1:], program.mesh) for body in operation.bodies][0]
    body = operation.bodies[0]
    if operation.name == "scan":
        constants, carried = params["num_consts"], params["num_carry"]
        fixed, carry, each = (
            layouts[:constants],
            layouts[constants:][:carried],
            [x[1:] for x in layouts[constants + carried :]],
        )
    else:
        fixed, carry, each = (
            layouts[params["cond_nconsts"] :][: params["body_nconsts"]],
            layouts[params["cond_nconsts"] + params["body_nconsts"] :],
            [],
        )
        carried = len(carry)
    for _ in range(2):  # what enters unsplit, as zeros do, is split as the body leaves it
        made = lay_out(body, [*fixed, *carry, *each], program.mesh)
        carry = [
            tuple(a or b for a, b in zip(old, new, strict=True)) if new else old
            for old, new in zip(carry, made, strict=False)
        ]
    return [*carry, *(((), *layout) for layout in made[carried:])]


def _shapes_given(program: Program, operation: Operation) -> list[Any]:
    return [None if i is None else program.arrays[i] for i in operation.inputs]


def factored(mesh: Mapping[str, int]) -> dict[str, int]:
    """A mesh whose axes are prime: `{"tensor": 4}` becomes `{"tensor/0": 2, "tensor/1": 2}`.

    XLA splits an axis where it must: the heads of 2 groups of 2 over 4 devices.
    """
    axes: dict[str, int] = {}
    for name, size in mesh.items():
        factors = []
        while size > 1:
            factors.append(next(n for n in range(2, size + 1) if size % n == 0))
            size //= factors[-1]
        axes |= {f"{name}/{i}": factor for i, factor in enumerate(factors)}
    return axes


def spec_layout(spec: Iterable[Any], dimensions: int, mesh: Mapping[str, int]) -> Layout:
    """A partition spec as a layout over a mesh, which may be `factored`."""

    def axes(part: Any) -> tuple[str, ...]:
        names = (part,) if isinstance(part, str) else part if isinstance(part, tuple) else ()
        return tuple(axis for name in names for axis in mesh if axis.partition("/")[0] == name)

    given = [axes(part) for part in spec]
    return tuple(given + [()] * (dimensions - len(given)))
