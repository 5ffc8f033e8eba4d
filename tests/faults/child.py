"""`s2sjax`, with faults that strike at exact moments of a real run:

    python -m tests.faults.child sealing:8=SIGKILL -- train --config=... --workdir=...

A fault is POINT:STEP=ACTION, or POINT=ACTION for a point that belongs to no step; each strikes once.
"""

import errno
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

POINTS = {
    "start": "nothing is imported yet",
    "preparing": "half of the data's arrays are written",
    "compiling": "the step is lowered, and not compiled yet",
    "stepping": "the step is about to be dispatched",
    "validating": "the validation of this step begins",
    "writing": "a checkpoint's arrays are being written, in the background",
    "sealing": "its arrays are on the disk, its manifest is not",
    "naming": "it is whole, and still called tmp-",
    "deleting": "it has its name, and an older one is about to be deleted",
    "copying": "some files of its second copy are sent",
}
"""When a fault strikes. Between `stepping` and `naming`, and for `copying`, the step is named too."""


def act(action: str, where: str) -> None:
    """Actions: a signal to this process; `fail` with an input/output error; `full=DIRECTORY` fills its disk, and
    `room=DIRECTORY` undoes it; `readonly=DIRECTORY`; `await=PATH` waits until it is there; `run=COMMAND`; `hang`;
    `nan`, at a step, makes its loss and gradient NaN.
    """
    name, _, argument = action.partition("=")
    sys.stderr.write(f"fault: {action} at {where}\n")
    sys.stderr.flush()
    if name.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[name])
    elif name == "fail":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    elif name == "full":
        fill(Path(argument))
    elif name == "room":
        (Path(argument) / "filler").unlink()
    elif name == "readonly":
        if os.geteuid() == 0:  # whom permissions do not stop
            subprocess.run(["mount", "--bind", argument, argument], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", argument], check=True)
        else:
            os.chmod(argument, 0o555)
    elif name == "await":
        while not Path(argument).exists():
            time.sleep(0.01)
    elif name == "run":
        subprocess.run(argument.split(), check=True)
    elif name == "hang":
        time.sleep(1e6)
    elif name != "nan":
        raise ValueError(f"no action {action}")


def fill(directory: Path) -> None:
    """Leave room for a few lines of a log on the disk that the directory is on, and for no checkpoint."""
    with open(directory / "filler", "wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            filler.truncate(filler.tell() - 8 * 4096)


class Faults:
    """Patches the package so that each fault strikes at its point."""

    def __init__(self, faults: list[str]) -> None:
        self._actions = {}
        for fault in faults:
            point, _, action = fault.partition("=")
            if point.partition(":")[0] not in POINTS:
                raise ValueError(f"no point {point}")
            self._actions[point] = action

    def reach(self, point: str, step: int | None = None) -> str | None:
        """Act, if it is time. The action that was due."""
        where = point if step is None else f"{point}:{step}"
        if action := self._actions.pop(where, None):
            act(action, where)
        return action

    def install(self) -> None:
        import jax

        from s2sjax.checkpoints import checkpointer, copies, manifest
        from s2sjax.data import prepare
        from s2sjax.runs import evaluate
        from s2sjax.training import setup

        self._before(prepare, "join_shards", lambda *_: self.reach("preparing"))
        self._before(evaluate, "Validator.__call__", lambda _, step, *__: self.reach("validating", step))
        self._before(checkpointer, "Checkpointer._finish", lambda _, saving, *__: self.reach("writing", saving.step))
        self._before(manifest, "seal", lambda _, body: self.reach("sealing", body["step"]))
        self._before(checkpointer, "Checkpointer._commit", lambda _, step, *__: self.reach("naming", step))
        self._before(
            checkpointer, "remove",
            lambda path, _: path.name.endswith("-old") and self.reach("deleting"),
        )  # fmt: skip
        self._before(copies, "LocalFileSystem.put_file", self._copying)
        make_step = setup.make_step

        def faulty_step(*arguments, **options):
            step_fn = make_step(*arguments, **options)

            def step(state, batch):
                if self.reach("stepping", int(state.step) + 1) == "nan":
                    batch = {**batch, "weights": batch["weights"] * math.nan}
                return step_fn(state, batch)

            return step

        setup.make_step = faulty_step

        def lowered(event: str, seconds: float, **details) -> None:
            if event.endswith("jaxpr_to_mlir_module_duration") and details.get("fun_name") == "jit(step)":
                self.reach("compiling")

        jax.monitoring.register_event_duration_secs_listener(lowered)

    def _copying(self, _, source: str, place: str, *__) -> None:
        if match := re.search(r"/checkpoints/(\d+)/state/_METADATA$", place):
            self.reach("copying", int(match[1]))

    def _before(self, module, name: str, strike: Callable) -> None:
        owner = module
        *parents, last = name.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        original = getattr(owner, last)

        def struck(*arguments, **options):
            strike(*arguments)
            return original(*arguments, **options)

        setattr(owner, last, struck)


def main() -> None:
    from s2sjax.processes.hugepages import restart_with_huge_pages

    restart_with_huge_pages()
    middle = sys.argv.index("--")
    faults = Faults(sys.argv[1:middle])
    faults.reach("start")
    faults.install()
    from s2sjax.cli import run_command

    run_command(sys.argv[middle + 1 :])


if __name__ == "__main__":
    main()
