"""Costs of small programs that can be counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from s2sjax.inspection import estimate
from s2sjax.inspection.estimate import Flops, count_flops
from s2sjax.inspection.program import factored, flatten, lay_out, spec_layout

MESH = {"data": 4, "tensor": 2}
FLOAT = 4  # bytes


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def program(function, *inputs, layouts=None):
    made = flatten(jax.make_jaxpr(function)(*inputs).jaxpr)
    lay_out(made, layouts or [((),) * x.ndim for x in jax.tree.leaves(inputs)], MESH)
    return made


def peak_bytes(made, platform="gpu"):
    """As other compilers than the CPU's go about it, unless said otherwise: in the order of the program."""
    return estimate.peak_bytes(made, platform)


def layer(x, up, down):
    return jnp.tanh(x @ up) @ down


UNSPLIT, ROWS = ((), ()), (("data",), ())
COLUMNS, SUMMED = ((), ("tensor",)), (("tensor",), ())
LAYER = array(32, 8), array(8, 16), array(16, 8)
PRODUCT = 2 * 32 * 8 * 16


def test_a_multiplication_and_its_addition_are_two_operations():
    assert count_flops(program(layer, *LAYER)) == Flops(2 * PRODUCT, 2 * PRODUCT)


def test_a_loop_is_counted_as_often_as_it_runs():
    def stack(x, ups, downs):
        return jax.lax.scan(lambda x, kernels: (layer(x, *kernels), None), x, (ups, downs))[0]

    assert count_flops(program(stack, array(32, 8), array(5, 8, 16), array(5, 16, 8))).total == 5 * 2 * PRODUCT


def test_what_the_backward_pass_computes_again_is_counted_again():
    def loss(kernels, x, function):
        return jnp.sum(function(x, *kernels))

    def count(function):
        return count_flops(program(lambda x, *k: jax.value_and_grad(loss)(k, x, function), *LAYER)).total

    assert count(layer) == 5 * PRODUCT, "forward 2, backward 3: nobody asks for the input's gradient"
    assert count(jax.checkpoint(layer)) == 6 * PRODUCT, "what tanh is taken of, again"


@pytest.mark.parametrize(
    "layouts, parts",
    [
        ((UNSPLIT, UNSPLIT, UNSPLIT), 1),
        ((ROWS, UNSPLIT, UNSPLIT), 4),
        ((UNSPLIT, COLUMNS, SUMMED), 2),
        ((ROWS, COLUMNS, SUMMED), 8),
    ],
)
def test_products_are_shared_by_rows_and_by_columns(layouts, parts):
    assert count_flops(program(layer, *LAYER, layouts=layouts)) == Flops(2 * PRODUCT, 2 * PRODUCT / parts)


@pytest.mark.parametrize(
    "function, shape, layout, expected",
    [
        (lambda x: x.reshape(8, 4, 6), (32, 6), ROWS, (("data",), (), ())),
        (lambda x: x.reshape(32, 2, 3), (32, 6), COLUMNS, ((), ("tensor",), ())),
        (lambda x: x.reshape(192), (32, 6), ROWS, (("data",),)),
        (lambda x: x.reshape(192), (32, 6), COLUMNS, ((),)),
        (lambda x: x.reshape(3, 64), (32, 6), ROWS, ((), ())),
        (lambda x: x.reshape(8, 6), (4, 2, 6), (("data",), ("tensor",), ()), (("data", "tensor"), ())),
        (lambda x: x.reshape(16, 6), (8, 2, 6), (("data",), ("tensor",), ()), (("data",), ())),
        (lambda x: x.reshape(4, 2, 6), (8, 6), (("data", "tensor"), ()), (("data",), ("tensor",), ())),
        (lambda x: x.T, (32, 6), ROWS, ((), ("data",))),
        (lambda x: jnp.sum(x, axis=0), (32, 6), ROWS, ((),)),
        (lambda x: jnp.sum(x, axis=1), (32, 6), ROWS, (("data",),)),
        (lambda x: x[:, None] + jnp.ones((5, 1)), (32, 6), ROWS, (("data",), (), ())),
        (lambda x: x[:3], (32, 6), ROWS, ((), ())),
        (lambda x: jnp.take(jnp.ones((9, 5)), x.astype(int), axis=0), (32, 6), ROWS, (("data",), (), ())),
        (lambda x: x @ x.T, (32, 6), ROWS, (("data",), ())),
        (
            lambda x: jax.lax.scan(lambda c, row: (c + row, row), jnp.zeros(6), x)[1],
            (32, 6),
            COLUMNS,
            ((), ("tensor",)),
        ),
        (lambda x: jax.lax.scan(lambda c, row: (c + row, row), jnp.zeros(6), x)[0], (32, 6), COLUMNS, (("tensor",),)),
    ],
)
def test_results_are_split_as_their_operands(function, shape, layout, expected):
    made = program(function, array(*shape), layouts=[layout])
    assert made.layouts[made.outputs[0]] == expected


def test_what_lies_between_two_products_is_kept_once():
    x = 32 * 16 * FLOAT
    assert peak_bytes(program(layer, *LAYER)) == x, "tanh is written where the product stood; the output has a place"


def test_on_a_mesh_a_device_keeps_its_part():
    assert peak_bytes(program(layer, *LAYER, layouts=[ROWS, COLUMNS, SUMMED])) == 32 * 16 * FLOAT // 8


def test_element_wise_operations_are_fused():
    assert peak_bytes(program(lambda x: jnp.sum((2 * x + jnp.ones_like(x)) * 3 - x), array(1000))) == 0


def test_constants_cost_nothing():
    assert peak_bytes(program(lambda x: x @ jnp.ones((1000, 1000)), array(8, 1000))) == 0


def test_an_array_is_freed_after_its_last_reader():
    assert peak_bytes(program(lambda x, k: x @ k @ k @ k @ k @ k, array(32, 8), array(8, 8))) == 2 * 32 * 8 * FLOAT


def test_what_is_read_again_is_kept_until_then():
    def twice(x, kernel):
        first = x @ kernel  # kept over two more products
        return first + (first @ kernel) @ kernel

    assert peak_bytes(program(twice, array(32, 8), array(8, 8))) == 3 * 32 * 8 * FLOAT


def test_a_loop_needs_what_it_writes_and_what_its_body_makes():
    def loop(x, kernels):
        return jnp.sum(jax.lax.scan(lambda x, k: (jnp.tanh(x @ k), jnp.tanh(x @ k)), x, kernels)[1])

    written = 5 * 32 * 8 * FLOAT
    peak = peak_bytes(program(loop, array(32, 8), array(5, 8, 8)))
    assert written + 32 * 8 * FLOAT <= peak <= written + 4 * 32 * 8 * FLOAT


def test_rematerialisation_keeps_less():
    def loss(kernels, x, wrap):
        return jnp.sum(
            jax.lax.scan(lambda x, k: (wrap(lambda x: jnp.tanh(jnp.tanh(x @ k) @ k))(x), None), x, kernels)[0]
        )

    def peak(wrap):
        return peak_bytes(program(lambda k, x: jax.grad(loss)(k, x, wrap), array(20, 8, 8), array(32, 8)))

    assert peak(jax.checkpoint) < 0.7 * peak(lambda function: function)


def test_on_a_cpu_rematerialisation_keeps_less_in_a_loop_only():
    def loss(kernels, x, wrap):
        for kernel in kernels:
            x = wrap(lambda x, k: jnp.tanh(jnp.tanh(jnp.tanh(x @ k) @ k) @ k))(x, kernel)
        return jnp.sum(x)

    def peak(wrap, platform):
        kernels = [array(8, 8)] * 10
        return peak_bytes(program(lambda x, *k: jax.grad(loss)(k, x, wrap), array(32, 8), *kernels), platform)

    def same(function):
        return function

    assert peak(jax.checkpoint, "gpu") < 0.7 * peak(same, "gpu")
    assert peak(jax.checkpoint, "cpu") > 0.9 * peak(same, "cpu"), "it computes again, but early"


def test_on_a_cpu_bfloat16_takes_the_place_of_float32():
    halves = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in LAYER]
    made = program(layer, *halves)
    assert peak_bytes(made) == 32 * 16 * FLOAT // 2
    assert peak_bytes(made, "cpu") == 32 * 16 * FLOAT


def test_a_loop_takes_its_slices_of_what_products_read():
    def loop(x, kernels, scales):
        return jax.lax.scan(lambda x, each: (x * each[1] @ each[0], None), x, (kernels, scales))[0]

    scaled, product, kernel = 32 * 8, 32 * 8, 8 * 8  # scales are read where they stand
    made = program(loop, array(32, 8), array(5, 8, 8), array(5, 1, 8))
    assert peak_bytes(made) == (scaled + product + kernel) * FLOAT


def test_an_axis_is_parted_where_one_dimension_cannot_take_it():
    mesh = factored({"data": 1, "tensor": 12})
    assert mesh == {"tensor/0": 2, "tensor/1": 2, "tensor/2": 3}
    made = flatten(jax.make_jaxpr(lambda x: x.reshape(5, 2, 6, 7))(array(5, 84)).jaxpr)
    lay_out(made, [spec_layout([None, "tensor"], 2, mesh)], mesh)
    assert made.layouts[made.outputs[0]] == ((), ("tensor/0",), ("tensor/1", "tensor/2"), ())
