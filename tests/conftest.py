"""Eight CPU devices for every test, shapes checked while tests run (they are inert in training), and quick compilation.

Most of a test's time is compilation. Unless XLA_FLAGS say otherwise LLVM optimises nothing here, and XLA writes its
code by its older emitters, in one piece: together that takes a third of the time. Processes that tests start inherit
it. As for users, where the machine has the time:

    XLA_FLAGS="--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true" JAX_DISABLE_MOST_OPTIMIZATIONS=0 \
        bash launch/test.sh
"""

import gc
import os

os.environ["XLA_FLAGS"] = (  # of a flag that is given twice the last counts
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    f"--xla_cpu_parallel_codegen_split_count=1 {os.environ.get('XLA_FLAGS', '')}"
)

import hypothesis
import pytest
from jaxtyping import install_import_hook

from tests.sampling import sample

install_import_hook(["s2sjax.ops", "s2sjax.decode"], "beartype.beartype")

hypothesis.settings.register_profile("any machine", deadline=None)  # 200 ms of a busy machine's time say nothing
hypothesis.settings.load_profile("any machine")

gc.set_threshold(100_000, 20, 20)  # by default Python looks for cycles 2,882 times while tests are collected: 2.6 s


def pytest_collection_finish() -> None:
    """What was imported and collected stays: no search for cycles goes through it again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not any("[" in argument for argument in config.args):  # who names a case wants that case
        sample(items)
