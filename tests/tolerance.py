"""How far apart two computations of the same may be: where tests that compare floats take their tolerances from.

Programs that add the same numbers in another order differ by rounding. By how much depends on the compiler, on the
instruction set and on how far a model multiplies rounding, so a difference that one machine showed, doubled, is no
tolerance. There are two rules, and neither knows the machine.

1. **Sums that can be counted** (`assert_close`). A number that comes out of `roundings` operations in a row errs by at
   most `roundings * 2**-24` of the sum of the magnitudes that went into it (Higham 2002, *Accuracy and Stability of
   Numerical Algorithms*, equation 3.5). That sum is taken to be twice the largest number expected.
2. **Whole models** (`allowed`). Each parameter is moved, up or down at random, by a unit in its last place, which is
   what one rounding of an operand may do. What the same compiled program then answers shows how far the model
   multiplies rounding. The largest response of `DRAWS` draws, and at least a unit in the last place of the largest
   number, times `FACTOR` is the tolerance. Two correct programs differ by about one response, whatever the machine.
   What a token that leaks moves is far beyond it, which `tests/contract/test_models.py` tests as well.

A test whose outputs are chosen by comparisons (the tokens of a beam) needs inputs without near-ties, not a tolerance.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s2sjax.ops.linear import Precision

FACTOR = 3
DRAWS = 8
UNIT = {Precision.FLOAT32: 2.0**-23, Precision.BFLOAT16: 2.0**-8, Precision.BFLOAT16_PRODUCTS: 2.0**-8}
"""A unit in the last place, relative to a number, of what is multiplied under a policy."""


def assert_close(found: Any, expected: Any, *, roundings: int, message: str = "") -> None:
    """Arrays differ by no more than so many roundings of the largest number expected."""
    expected = np.asarray(expected)
    size = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=roundings * UNIT[Precision.FLOAT32] * size, err_msg=message
    )


def nudged(params: Any, precision: Precision, seed: int) -> Any:
    """Parameters of which each is moved by a unit in its last place, up or down."""
    rng, unit = np.random.default_rng(seed), UNIT[precision]
    return jax.tree.map(
        lambda p: jnp.asarray(np.asarray(p) * (1 + unit * rng.choice([-1.0, 1.0], p.shape)), p.dtype), params
    )


def allowed(function: Callable[[Any], Any], params: Any, precision: Precision = Precision.FLOAT32) -> Any:
    """How far another program for `function(params)` may be from it: a number for each array of its output.

    Args:
        function: compiled, since it is called `DRAWS` + 1 times.
    """
    exact = jax.tree.map(np.asarray, function(params))
    answers = [function(nudged(params, precision, seed)) for seed in range(DRAWS)]

    def largest(base, *others):
        least = UNIT[Precision.FLOAT32] * float(np.abs(base).max())  # the last rounding, which a draw may miss
        return FACTOR * max(least, *(float(np.abs(np.asarray(other) - base).max()) for other in others))

    return jax.tree.map(largest, exact, *answers)
