"""What is inspected: a run's state, step and biggest batch on a mesh, as shapes and shardings in place of arrays."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.backend
import numpy as np
from jax.sharding import Mesh

from s2sjax import sharding
from s2sjax.api import batch_shapes
from s2sjax.data.mixing import training_plan
from s2sjax.data.plan import Shape, make_plan
from s2sjax.data.prepare import Progress, prepare
from s2sjax.data.segmentation import planned_lengths
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment
from s2sjax.learning.state import TrainState, shardings
from s2sjax.ports import Ports
from s2sjax.runs.assembly import assemble_run
from s2sjax.training.step import make_step
from s2sjax.vocabulary import own_vocabulary


@dataclass(frozen=True)
class Subject:
    """What is inspected: shapes and shardings in place of arrays."""

    experiment: Experiment
    mesh: Mesh
    shapes: tuple[Shape, ...]
    """Of batches, of all processes together."""
    vocabularies: tuple[int, int]
    """Sizes of source's and target's."""
    ports: Ports
    """What the model reads and writes."""
    state: TrainState
    step: Any
    """What `make_step` returns, a function under `jax.jit`."""

    @property
    def shape(self) -> Shape:
        """The one with most positions: what is estimated and compiled."""
        return max(self.shapes, key=lambda shape: shape.rows * (shape.source + shape.target))

    @property
    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        place = sharding.batch_sharding(self.mesh, split_time=self.experiment.splits_time)
        shapes = batch_shapes(self.ports, *self.shape)
        return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for name, x in shapes.items()}


def described_devices(count: int | None) -> list[jax.Device]:
    """The devices that are there, or the first `count`; if that are more than there are, CPU devices that stand for
    them, and no others from now on in this process."""
    devices = jax.devices()
    if count is None:
        return devices
    if count < 1:
        raise UserError(f"--devices is {count}, but a mesh has at least 1")
    if count > len(devices):
        jax.extend.backend.clear_backends()
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
        devices = jax.devices()
    return devices[:count]


def describe(
    experiment: Experiment,
    devices: list[jax.Device],
    vocab: int | None,
    progress: Progress | None,
    *,
    own: TokenizerPair | None = None,
) -> Subject:
    """A run's state, step and biggest batch on these devices.

    Args:
        vocab: size of the vocabularies, source and target, of data that is not at hand; the batch is then one of the
            longest rows that the config allows. None: prepare the data, as training does.
        own: tokenizers of a run that has begun, which are used as they are.

    Raises:
        UserError: the mesh does not fit the devices, the batch does not divide, the data is not there.
    """
    mesh = sharding.make_mesh(experiment.mesh, devices)
    shards = sharding.batch_shards(mesh, split_time=experiment.splits_time) * experiment.train.accumulate
    batching = experiment.batching
    if vocab is None:
        try:
            tokenizer, rows = experiment.task.tokenizer(experiment.tokenizer), experiment.task.rows
            prepared = prepare(experiment.data, tokenizer, ("train",), rows=rows, own=own, progress=progress)
        except UserError as error:
            size = experiment.tokenizer.vocab_size
            raise UserError(f"{error}\nWithout data, say the size of the vocabulary: --vocab={size}") from error
        split = experiment.task.arrange(prepared.splits["train"])
        shapes = training_plan(
            split, experiment.data, batching, experiment.tokenizer, seed=experiment.seed, divisor=shards
        ).shapes
        vocabularies = prepared.tokenizers.vocabularies
    else:
        lengths, vocabularies = longest_rows(experiment), (own_vocabulary(vocab),) * 2
        lengths = planned_lengths(*lengths, batching, experiment.tokenizer)
        shapes = make_plan(*lengths, batching, seed=experiment.seed, divisor=shards).shapes
    parts = assemble_run(experiment, vocabularies, mesh)
    step = make_step(parts.model, parts.optimizer, experiment, mesh, shardings(parts.state))
    source, target = vocabularies
    ports = experiment.task.ports(source, target)
    return Subject(experiment, mesh, shapes, (source.size, target.size), ports, parts.state, step)


def longest_rows(experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of examples that fill a batch with the longest rows that the config allows: packed, of rows that are
    full; bucketed, of examples at the length limits, or as long as the token budget has room for in `row_multiple`
    rows."""
    batching = experiment.batching
    most = batching.pack_length if batching.kind == "pack" else batching.tokens // batching.row_multiple
    most = max(most // batching.length_multiple * batching.length_multiple, 1)
    source, target = (min(length, most) for length in experiment.task.longest(batching))
    count = batching.tokens + batching.row_multiple  # more rows than there is room for
    return np.full(count, source), np.full(count, target)
