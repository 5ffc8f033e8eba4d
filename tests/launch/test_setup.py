"""launch/setup.sh, as far as that goes without installing anything."""

import os
import shutil
import subprocess
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"


def test_a_path_to_python_is_one_from_the_directory_that_setup_is_called_from(tmp_path):
    checkout, here = tmp_path / "checkout", tmp_path / "elsewhere"
    (checkout / "launch" / "requirements").mkdir(parents=True)
    shutil.copy(LAUNCH / "setup.sh", checkout / "launch")
    for name in ("pyproject.toml", "launch/requirements/cpu.txt"):
        (checkout / name).touch()
    python = here / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho asked >>"$0.log"\nexit 1\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(checkout / "launch" / "setup.sh")], cwd=here, capture_output=True, text=True,
        env=os.environ | {"S2SJAX_PYTHON": "bin/python", "S2SJAX_ACCELERATOR": "cpu"},
    )  # fmt: skip
    assert done.returncode == 2 and f"S2SJAX_PYTHON is '{python}', which does not run as" in done.stderr
    assert (here / "bin" / "python.log").exists()
