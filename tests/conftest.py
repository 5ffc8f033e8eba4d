"""Eight CPU devices for every test, shapes checked while tests run (they are inert in training), and quick compilation.

Most of a test's time is LLVM's. Unless XLA_FLAGS say otherwise it optimises nothing here, which halves that, nor where
tests start processes of their own. As for users, where the machine has the time:

    XLA_FLAGS=--xla_backend_optimization_level=3 JAX_DISABLE_MOST_OPTIMIZATIONS=0 bash launch/test.sh
"""

import os

os.environ["XLA_FLAGS"] = (  # of a flag that is given twice the last counts
    f"--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"
)

from jaxtyping import install_import_hook

install_import_hook(["s2sjax.ops", "s2sjax.decode"], "beartype.beartype")
