"""A named mesh, parameter shardings from rules that are data, and batches on their way to the devices.

The mesh has axes `data` (batch rows), `fsdp` (batch rows, and parameters split where they are stored) and `tensor`
(parameters split where they are used). One device is a mesh of one, and nothing else in the program knows how many
there are.
"""

import math
import queue
import re
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from s2sjax.api import Rules
from s2sjax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
"""Mesh axes that share the rows of a batch."""


@dataclass(frozen=True)
class MeshConfig:
    data: int = -1
    """Devices along `data`; -1 takes all that the other axes leave."""
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange the devices.

    Raises:
        UserError: if the axes do not multiply to the number of devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    data = config.data if config.data != -1 else len(devices) // max(config.fsdp * config.tensor, 1)
    sizes = (data, config.fsdp, config.tensor)
    if min(sizes) < 1 or np.prod(sizes) != len(devices):
        raise UserError(
            f"config.mesh data={config.data} fsdp={config.fsdp} tensor={config.tensor} does not fit {len(devices)} "
            "devices: the product must equal their number (data=-1 takes what is left)"
        )
    # Auto axes: Linen's modules leave the layout of activations to the compiler.
    return Mesh(np.asarray(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_shards(mesh: Mesh) -> int:
    """Number of devices that share the rows of a batch."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def path_name(path: tuple[Any, ...]) -> str:
    """A pytree path as `a/b/c`."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def shard_parameters(mesh: Mesh, params: Any, rules: Rules) -> Any:
    """Shardings for a tree of parameters (or their shapes): the first rule whose pattern is found in the path.

    An axis that does not divide its dimension is left out, which replicates the parameter along it. A parameter below a
    name `layers` is a stack: its first dimension numbers the layers and is not split, and rules do not speak of it.

    Raises:
        ValueError: if a parameter has no rule, or a rule matches no parameter: both are mistakes in the rules.
    """
    unused = {pattern for pattern, _ in rules}

    def sharding(path, leaf) -> NamedSharding:
        name = path_name(path)
        for pattern, axes in rules:
            if re.search(pattern, name):
                unused.discard(pattern)
                if "layers" in name.split("/"):
                    axes = (None, *axes)
                fitting = [
                    axis if axis is not None and size % _size(mesh, axis) == 0 else None
                    for axis, size in zip(axes, leaf.shape, strict=True)
                ]
                return NamedSharding(mesh, PartitionSpec(*fitting))
        raise ValueError(f"no sharding rule for parameter {name} {leaf.shape}")

    shardings = jax.tree.map_with_path(sharding, params)
    if unused:
        raise ValueError(f"sharding rules that match no parameter: {sorted(unused)}")
    return shardings


def _size(mesh: Mesh, axis: str | tuple[str, ...]) -> int:
    return math.prod(mesh.shape[name] for name in ([axis] if isinstance(axis, str) else axis))


def shard_like_parameters(mesh: Mesh, tree: Any, params: Any, shardings: Any) -> Any:
    """Shardings for a tree that holds copies of the parameters (optimizer moments, EMA) among other leaves.

    A leaf whose path ends in a parameter's path and that has its shape is sharded like it; the rest is replicated.
    """
    names = {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}
    by_name = dict(zip(names, jax.tree.leaves(shardings), strict=True))

    def sharding(path, leaf) -> NamedSharding:
        parts = path_name(path).split("/")
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if names.get(name) == leaf.shape:
                return by_name[name]
        return replicated(mesh)

    return jax.tree.map_with_path(sharding, tree)


def to_devices(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's rows of a batch as global arrays."""
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def prefetch(items: Iterable[Any], transfer: Callable[[Any], Any], *, depth: int = 2) -> Generator[Any, None, None]:
    """Yield `transfer(item)` for each item, computed up to `depth` ahead in a thread of its own.

    An exception in the thread is raised here, in its turn. Closing the generator ends the thread.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()
    end = object()

    def put(item) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work():
        try:
            for item in items:
                if not put((transfer(item), None)):
                    return
            put((end, None))
        except BaseException as error:
            put((end, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()
