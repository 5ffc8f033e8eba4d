"""How many layers a checkpoint can be of, known from its manifest: before a model is traced, layer by layer."""

import math
from collections.abc import Mapping
from typing import Any

from jax import ShapeDtypeStruct

from s2sjax import models
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.errors import UserError
from s2sjax.plural import counted


def check_depth(reader: CheckpointReader, choice: str, model: Any) -> None:
    """Raise a `UserError` if a checkpoint has not as many layers as the config says. Only its manifest is read: a model
    is traced layer by layer, which takes minutes for thousands, and only then compared with what was saved.

    Args:
        choice: which checkpoint, as `decode.checkpoint`.
        model: the config of its family.
    """
    step = reader.chosen(choice)
    step = reader.latest_step() if step is None else step
    if step is None:
        return
    depth, stored = models.depth(model), most_layers(reader.arrays(step))
    if depth > stored:
        sizes = ", ".join(f"config.model.{name}={getattr(model, name)!r}" for name in models.layers(model))
        raise UserError(
            f"checkpoint {step} in {reader.directory} is of another model: it has arrays for "
            f"{counted(stored, 'layer')} at most, and {sizes} make {depth:,}. Use the config it was trained with"
        )


def most_layers(arrays: Mapping[str, ShapeDtypeStruct]) -> int:
    """How many layers a state's arrays can be of: each has one at least, or a row of those that are stacked."""
    return sum(
        math.prod(leaf.shape[:1]) if "layers" in name.split("/") else 1
        for name, leaf in arrays.items()
        if name.startswith(("params/", "ema/"))
    )
