"""A named mesh, parameter shardings from rules that are data, and batches on their way to the devices.

`MeshConfig` says what each axis shares out. One device is a mesh of one, and nothing else in the program knows how many
there are.
"""

import contextlib
import functools
import math
import queue
import re
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from s2sjax.api import ROW_AXES, Axis, Rules
from s2sjax.errors import UserError
from s2sjax.plural import counted

AXES = ("data", "fsdp", "expert", "sequence", "tensor")
"""In the order in which devices are numbered: neighbours share what exchanges most."""


@dataclass(frozen=True)
class MeshConfig:
    """The `mesh` section: how many devices share what. The sizes multiply to the number of devices; any family
    takes any of them.

    Attributes:
      data: Devices that share the rows of a batch; -1 takes all devices that the other axes leave.
      fsdp: Devices that share the rows of a batch, and also the parameters, their gradients and optimizer state where
        they are stored. With `model.remat` the families transformer, encoder, causal_lm, griffin and gnmt (from its
        third layers on) gather a layer's parameters when it runs and again when its gradient is computed; all others
        are gathered before a step begins, and whole on each device while it runs.
      tensor: Devices that share the parameters where they are used: heads, hidden units, words of the vocabulary.
      sequence: Devices that share the positions of each row, for the families transformer, encoder and causal_lm: for
        long inputs, but not with `model.encoder_window`. `batching.length_multiple` is a multiple of it. Families that
        read one position after the other take it as more rows, as evaluation and decoding do for all.
      expert: Devices that share the rows of a batch, and the experts of a mixture (`model.experts`, a multiple of it):
        tokens travel to the devices of their experts. Without experts it is as `data`.
      slices: Groups of devices with a slow network between them, such as TPU slices or hosts: `data`, a multiple of it,
        goes over that network and all other axes stay inside a group.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1
    expert: int = 1
    slices: int = 1


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange the devices.

    Raises:
        UserError: if the axes do not multiply to the number of devices, or the slices are not those of the devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    sizes = {axis: getattr(config, axis) for axis in AXES}
    if sizes["data"] == -1:
        sizes["data"] = len(devices) // max(math.prod(sizes[axis] for axis in AXES if axis != "data"), 1)
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != len(devices):
        given = " ".join(f"{f.name}={getattr(config, f.name)}" for f in fields(config) if f.name != "slices")
        raise UserError(
            f"config.mesh {given} does not fit {counted(len(devices), 'device')}: the product must equal their number "
            "(data=-1 takes what is left)"
        )
    # Auto axes: Linen's modules leave the layout of activations to the compiler.
    return Mesh(arrange(config.slices, sizes, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(slices: int, sizes: Mapping[str, int], devices: list[jax.Device]) -> np.ndarray:
    """The devices as an array of axes, slices one after the other along `data`."""
    there = len({getattr(device, "slice_index", 0) for device in devices})
    if there not in (1, slices):
        raise UserError(
            f"config.mesh.slices is {slices}, but the devices stand in {counted(there, 'slice')}; set "
            f"config.mesh.slices={there}"
        )
    data = sizes["data"]
    if slices < 1 or data % slices:
        raise UserError(
            f"config.mesh.slices is {slices}, but config.mesh.data, {data}, is not a multiple of it; only data goes "
            "from one slice to another: set other sizes"
        )
    inside = (data // slices, *(sizes[axis] for axis in AXES[1:]))
    if there > 1:
        between = (slices, *(1 for _ in AXES[1:]))
        return mesh_utils.create_hybrid_device_mesh(inside, between, devices, allow_split_physical_axes=True)
    if slices == 1:  # neighbours of the mesh are neighbours in the torus of a TPU; elsewhere, as they are numbered
        return mesh_utils.create_device_mesh(inside, devices, allow_split_physical_axes=True)
    # Devices that name no slice are grouped by their process: a host is what has a network between it and the next.
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    groups = np.asarray(devices).reshape(slices, -1)
    return np.concatenate([group.reshape(inside) for group in groups])


def row_axes(*, split_time: bool = False) -> tuple[str, ...]:
    """Mesh axes that share the rows of a batch, where time is split and where it is not."""
    return ROW_AXES if split_time else (*ROW_AXES, "sequence")


def batch_shards(mesh: Mesh, *, split_time: bool = False) -> int:
    """Number of groups of devices that share the rows of a batch."""
    return math.prod(mesh.shape[axis] for axis in row_axes(split_time=split_time))


def batch_sharding(mesh: Mesh, *, split_time: bool = False) -> NamedSharding:
    """Of arrays of a batch, [B, ...]; with `split_time` of [B, T], its positions over `sequence`."""
    return NamedSharding(mesh, PartitionSpec(row_axes(split_time=split_time), *(["sequence"] if split_time else [])))


def with_mesh(mesh: Mesh) -> contextlib.AbstractContextManager:
    """What is traced in this context may ask JAX for the mesh and part its work over it: see `ops.sequence_parallel`.

    On one device there is nothing to part, and programs are those without a mesh.
    """
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh.size > 1 else contextlib.nullcontext()


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def path_name(path: tuple[Any, ...]) -> str:
    """A pytree path as `a/b/c`."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def shard_parameters(mesh: Mesh, params: Any, rules: Rules, *, stored: bool) -> Any:
    """Shardings for a tree of parameters (or their shapes): the first rule whose pattern is found in the path.

    An axis that does not divide its dimension is left out, which replicates the parameter along it. A parameter below a
    name `layers` is a stack: its first dimension numbers the layers and is not split, and rules do not speak of it.

    Rules say how parameters are used. Stored, each is split over `fsdp` besides, whatever it is, along a dimension that
    this divides: one that the rule leaves alone, or else any, and of these the longest. A split over `fsdp` that XLA
    propagates would leave to it whether parameters move or activations, since rows are split over the same axis, and it
    moves activations; of kernels in loops over time it makes wrong gradients (see BUILD.md).

    Args:
        stored: as they are stored; or as they are used.

    Raises:
        ValueError: if a parameter has no rule, or a rule matches no parameter: both are mistakes in the rules.
    """
    unused = {pattern for pattern, _ in rules}

    def sharding(path, leaf) -> NamedSharding:
        name, first = path_name(path), int(_stacked(path))
        pattern, axes = next((rule for rule in rules if re.search(rule[0], name)), ("", ()))
        if not pattern:
            raise ValueError(f"no sharding rule for parameter {name} {leaf.shape}")
        if len(axes) != leaf.ndim - first:
            raise ValueError(f"sharding rule {pattern} says {axes} of parameter {name} {leaf.shape}")
        if "fsdp" in axes:
            raise ValueError(f"sharding rule {pattern} says {axes}, but fsdp is no matter of rules")
        unused.discard(pattern)
        fitting = [
            axis if axis is not None and size % mesh.shape[axis] == 0 else None
            for axis, size in zip((None,) * first + tuple(axes), leaf.shape, strict=True)
        ]
        split = _with_fsdp(mesh, fitting, leaf.shape, first) if stored else fitting
        return NamedSharding(mesh, PartitionSpec(*split))

    shardings = jax.tree.map_with_path(sharding, params)
    if unused:
        raise ValueError(f"sharding rules that match no parameter: {sorted(unused)}")
    return shardings


def _with_fsdp(mesh: Mesh, axes: Sequence[Axis], shape: tuple[int, ...], first: int) -> list[Any]:
    """The axes of a parameter's dimensions and `fsdp` for one of them, if it divides any from `first` on."""
    shares = [size // (mesh.shape[axis] if axis else 1) for axis, size in zip(axes, shape, strict=True)]
    divisible = [n for n in range(first, len(shape)) if shares[n] % mesh.shape["fsdp"] == 0]
    split: list[Any] = list(axes)
    if divisible:
        best = max(divisible, key=lambda n: (axes[n] is None, shares[n]))
        split[best] = "fsdp" if axes[best] is None else (axes[best], "fsdp")
    return split


def gather(mesh: Mesh, params: Any, rules: Rules, *, layers: bool = True) -> Any:
    """Parameters as they are used, in a function that is traced or as arrays; what is so already stays the same array.

    Args:
        layers: those of layers too; if not, they stay as they are, for `layer_gather`.
    """
    if mesh.shape["fsdp"] == 1:
        return params
    places, stored = _places(mesh, params, rules)
    if not layers:
        places = jax.tree.map_with_path(lambda path, a, b: b if _of_layer(path) else a, places, stored)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params)):
        return jax.lax.with_sharding_constraint(params, places)
    # Not by `jax.device_put`, which would bring them together on the host.
    leaves, structure = jax.tree.flatten(params)
    wanted = jax.tree.leaves(places)
    split = [n for n, leaf in enumerate(leaves) if not leaf.sharding.is_equivalent_to(wanted[n], leaf.ndim)]
    for n, leaf in zip(split, _moved([leaves[n] for n in split], tuple(wanted[n] for n in split)), strict=True):
        leaves[n] = leaf
    return jax.tree.unflatten(structure, leaves)


@functools.partial(jax.jit, static_argnums=1)
def _moved(leaves: list[jax.Array], places: tuple[NamedSharding, ...]) -> list[jax.Array]:
    return [jax.lax.with_sharding_constraint(leaf, place) for leaf, place in zip(leaves, places, strict=True)]


def layer_gather(mesh: Mesh, params: Any, rules: Rules) -> Callable[[tuple[str, ...], Any], Any]:
    """A function from the path of a layer's parameters, or of the stack that they are a slice of, and themselves, to
    these as they are used.

    Their gradient is parted at once, each device keeping its share of the sum.
    """

    def of_one(path: tuple[Any, ...], place: NamedSharding) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*place.spec[1:])) if _stacked(path) else place

    whole, parts = (jax.tree.map_with_path(of_one, tree) for tree in _places(mesh, params, rules))

    def gather_one(path: tuple[str, ...], layer: Any) -> Any:
        def place(tree: Any) -> Any:
            for name in path:
                tree = tree[name]
            return jax.tree.unflatten(jax.tree.structure(layer), jax.tree.leaves(tree))  # Linen has a dict of its own

        @jax.custom_vjp
        def gathered(layer):
            return jax.lax.with_sharding_constraint(layer, place(whole))

        def backward(_, gradient):
            return (jax.lax.with_sharding_constraint(gradient, place(parts)),)

        gathered.defvjp(lambda layer: (gathered(layer), None), backward)
        return gathered(layer)

    return gather_one


def _places(mesh: Mesh, params: Any, rules: Rules) -> tuple[Any, Any]:
    """Shardings of parameters as they are used, and as they are stored."""
    return shard_parameters(mesh, params, rules, stored=False), shard_parameters(mesh, params, rules, stored=True)


def _stacked(path: tuple[Any, ...]) -> bool:
    """Whether a parameter's first dimension numbers layers."""
    return "layers" in path_name(path).split("/")


def _of_layer(path: tuple[Any, ...]) -> bool:
    return _stacked(path) or re.search(r"(^|/)layers_\d+/", path_name(path)) is not None


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
    """Global arrays of a batch, from this process's rows of them: those that `rows_here` numbers."""
    axes = sharding.spec[0] or ()
    shards = math.prod(sharding.mesh.shape[axis] for axis in ([axes] if isinstance(axes, str) else axes))

    def place(array: np.ndarray) -> jax.Array:  # [rows here, ...] -> [B, ...]
        rows = len(array) * shards // len(rows_here(sharding, shards))
        numbers = rows_here(sharding, rows)

        def part(index: Any) -> np.ndarray:  # a slice for each dimension
            first = np.searchsorted(numbers, index[0].start or 0)
            return array[first : first + rows // shards, *index[1:]]

        return jax.make_array_from_callback((rows, *array.shape[1:]), sharding, part)

    return {name: place(array) for name, array in batch.items()}


def everywhere(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays of numpy that every process has whole as global arrays."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), tree)


def to_host(tree: Any) -> Any:
    """Arrays as numpy's, whole, in every process; what is split over processes is brought together."""

    def fetch(array: jax.Array) -> np.ndarray:
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(fetch, tree)


def rows_here(sharding: NamedSharding, rows: int) -> np.ndarray:
    """The numbers of the rows, of so many in a batch, of which this process's devices hold a part; ascending.

    The mesh decides: several processes hold the same rows where other axes than the rows' go from one to the next, and
    a process's rows need not be neighbours.
    """
    over_rows = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    held = over_rows.addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in held]))


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
