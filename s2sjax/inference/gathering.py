"""Parameters that are stored in parts, as a model takes them."""

import contextlib
from collections.abc import Generator
from typing import Any

from jax.sharding import Mesh

from s2sjax import sharding
from s2sjax.api import Rules
from s2sjax.nn.gathering import layers_gathered


@contextlib.contextmanager
def gathering(params: Any, *, mesh: Mesh, rules: Rules, by_layer: bool) -> Generator[Any, None, None]:
    """Parameters for a model that is traced in this context: whole, but for those of layers with `by_layer`.

    These stay as they are stored, and the model gathers each layer's when that runs.
    """
    with layers_gathered(sharding.layer_gather(mesh, params, rules) if by_layer else None):
        yield sharding.gather(mesh, params, rules, layers=not by_layer)
