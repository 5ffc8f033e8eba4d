"""Eight CPU devices for every test, and shapes checked while tests run (they are inert in training)."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

from jaxtyping import install_import_hook

install_import_hook(["s2sjax.ops", "s2sjax.decode"], "beartype.beartype")
