"""Products under each precision policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.ops.linear import Precision, project

X = jax.random.normal(jax.random.key(0), (3, 5, 16))
KERNEL = jax.random.normal(jax.random.key(1), (16, 8))


@pytest.mark.parametrize("precision, tolerance", [(p, 1e-5 if p == "float32" else 3e-2) for p in Precision])
def test_products_and_their_gradients_equal_float64_within_the_rounding_of_the_policy(precision, tolerance):
    def total(x, kernel):
        return jnp.sum(jnp.sin(project(x, kernel, precision).astype(jnp.float32)))

    x, kernel = np.asarray(X, np.float64), np.asarray(KERNEL, np.float64)
    y = x @ kernel
    dy = np.cos(y)
    expected = y, dy @ kernel.T, np.einsum("btd,btf->df", x, dy)
    got = project(X, KERNEL, precision), *jax.grad(total, argnums=(0, 1))(X, KERNEL)
    for g, e in zip(got, expected, strict=True):
        error = np.linalg.norm(np.asarray(g, np.float64) - e) / np.linalg.norm(e)
        assert error < tolerance and (precision == Precision.FLOAT32 or error > 1e-6)


def test_results_have_the_type_of_the_policys_activations():
    for precision in Precision:
        assert project(X, KERNEL, precision).dtype == precision.activations
        assert (
            jax.grad(lambda k, p=precision: jnp.sum(project(X, k, p)).astype(jnp.float32))(KERNEL).dtype == jnp.float32
        )
