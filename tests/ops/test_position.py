"""Sinusoidal positions."""

import jax.numpy as jnp
import numpy as np

from s2sjax.ops.position import sinusoids


def test_sinusoids_by_the_formula():
    got = np.asarray(sinusoids(jnp.array([[0, 1], [7, 300]]), 6))
    for (b, t), position in np.ndenumerate(np.array([[0, 1], [7, 300]])):
        for i in range(3):
            angle = position / 10_000 ** (i / 2)
            np.testing.assert_allclose(got[b, t, [i, 3 + i]], [np.sin(angle), np.cos(angle)], atol=1e-4)


def test_every_position_is_different():
    rows = np.asarray(sinusoids(jnp.arange(512), 64))
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1) + 10 * np.eye(512)
    assert distances.min() > 0.05
