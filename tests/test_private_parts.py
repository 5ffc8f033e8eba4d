"""What of other packages is patched, or reached into, although it is not public. A new version may move any of it
without a word; then one of these says which, and who needs it."""

import asyncio
import dataclasses
import importlib.metadata
import inspect
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def need(holds: bool, package: str, what: str, who: str) -> None:
    version = importlib.metadata.version(package)
    assert holds, f"{package} {version} has moved {what}, which {who} needs: mend that, and what is expected here"


def test_etils_gives_the_names_of_owners_and_fails_for_those_that_have_none(monkeypatch, tmp_path):
    from etils.epath import backend, stat_utils

    who = "s2sjax.processes.jax_settings._accept_unknown_owners"
    kind = getattr(backend, "_OsPathBackend", None)
    need("stat" in vars(kind or object), "etils", "epath.backend._OsPathBackend.stat", who)
    fields = {"is_directory", "length", "mtime", "owner", "group", "mode"}
    result = getattr(stat_utils, "StatResult", None)
    need(result is not None and fields == {f.name for f in dataclasses.fields(result)}, "etils", "StatResult", who)

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    failed = False
    try:
        inspect.unwrap(kind.stat)(kind(), os.fspath(tmp_path))
    except KeyError:
        failed = True
    need(failed, "etils", "the failure for owners without a name (if it is gone, the patch can go)", who)


def test_jax_asks_etils_for_the_sizes_of_what_it_keeps():
    from jax._src import lru_cache

    source = inspect.getsource(lru_cache)
    need(
        "epath" in source and ".stat()" in source,
        "jax",
        "the cache of compiled programs",
        "s2sjax.processes.jax_settings",
    )


@pytest.mark.parametrize("name", ["jax_default_matmul_precision", "jax_compilation_cache_dir"])
def test_jax_gives_the_values_of_its_settings_as_attributes(name):
    need(hasattr(jax.config, name), "jax", f"jax.config.{name}", "s2sjax.processes.jax_settings")


def test_jax_has_a_client_of_the_coordinator():
    from jax._src import distributed
    from jax._src.lib import _jax

    who = "s2sjax.processes.distributed"
    for name in ("client", "process_id", "num_processes", "coordinator_address"):
        need(hasattr(distributed.global_state, name), "jax", f"global_state.{name}", who)
    for name in ("key_value_set", "blocking_key_value_get", "wait_at_barrier"):
        need(hasattr(_jax.DistributedRuntimeClient, name), "jax", f"DistributedRuntimeClient.{name}", who)
    given = inspect.signature(jax.distributed.initialize).parameters
    for name in ("coordinator_address", "cluster_detection_method", "heartbeat_timeout_seconds"):
        need(name in given, "jax", f"the argument {name} of jax.distributed.initialize", who)
    need(hasattr(jax.config, "jax_enable_preemption_service"), "jax", "jax_enable_preemption_service", who)


def looped(x):
    return jax.lax.scan(lambda carry, y: (carry + y, carry), 0.0, x * np.ones(3, np.float32))


@pytest.mark.parametrize(
    "name, key, computed",
    [
        ("scan", "jaxpr", looped),
        ("while", "body_jaxpr", lambda x: jax.lax.while_loop(lambda y: y < 9, lambda y: 2 * y, x)),
        ("cond", "branches", lambda x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, x)),
        ("jit", "jaxpr", jax.jit(jnp.sin)),
    ],
)
def test_jax_names_operations_and_what_they_call_as_the_estimate_reads_them(name, key, computed):
    (equation,) = (e for e in jax.make_jaxpr(computed)(1.0).eqns if e.primitive.name == name)
    need(key in equation.params, "jax", f"params[{key!r}] of {name}", "s2sjax.inspection.program")


def test_tfds_imports_the_classes_of_features_by_one_function():
    from tensorflow_datasets.core import naming
    from tensorflow_datasets.core.features import feature

    package, who = "tensorflow-datasets", "s2sjax.data.tfds_guard, which keeps it from running a stranger's code,"
    kind = feature.FeatureConnector
    need(isinstance(vars(kind).get("cls_from_name"), staticmethod | classmethod), package, "cls_from_name", who)
    for name in ("from_json", "from_proto"):
        need("cls_from_name(" in inspect.getsource(getattr(kind, name)), package, f"cls_from_name out of {name}", who)
    need("import_module(" in inspect.getsource(kind.cls_from_name), package, "its import out of cls_from_name", who)
    need(inspect.getsource(feature).count("import_module(") == 1, package, "another import beside cls_from_name", who)
    need(hasattr(kind, "_registered_features"), package, "_registered_features", who)
    parsed, _ = naming.parse_builder_name_kwargs("somebody:mnist")
    need(parsed.namespace == "somebody", package, "the namespace of a name", who)


def test_orbax_and_asyncio_log_where_their_tracebacks_are_held_back():
    import absl.logging
    import orbax.checkpoint

    who = "s2sjax.checkpoints.quiet"
    need(absl.logging.get_absl_logger().name == "absl", "absl-py", "its logger", who)
    folder = Path(orbax.checkpoint.__file__).parent
    logs = sum("from absl import logging" in path.read_text("utf-8") for path in folder.rglob("checkpointers/*.py"))
    need(logs > 0, "orbax-checkpoint", "its messages to another logger", who)
    assert asyncio.log.logger.name == "asyncio"
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.call_soon(print)


def test_tensorboardx_has_the_checksum_of_event_files():
    from tensorboardX import record_writer

    masked = getattr(record_writer, "masked_crc32c", lambda data: None)(b"123456789")
    crc = 0xE3069283  # of these nine bytes, in every description of CRC-32C
    expected = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    need(masked == expected, "tensorboardX", "record_writer.masked_crc32c", "s2sjax.reporting.tensorboard")
