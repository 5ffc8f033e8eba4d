"""What the scripts in launch/ do in a run directory.

A shell can neither open a file there without following links, nor count with what a stranger wrote there without
running it: in bash, arithmetic on `a[$(command)]` runs the command. After
`python -I -m s2sjax.processes.launching` comes one of

    newest WORKDIR                 prints the step of the newest checkpoint; 0 if there is none
    log WORKDIR NAME COMMAND...    becomes COMMAND, which writes to WORKDIR/logs/NAME
    note WORKDIR [NAME LINE]...    writes lines to WORKDIR/logs/NAME
    tee WORKDIR NAME               becomes tee, which writes there and passes on
    lost WORKDIR JOB               notes that JOB lost a process; prints how often in a row it did at this newest
                                   checkpoint, and the checkpoint's step
    forget WORKDIR                 forgets what was noted

Logs are appended to. Exit code 2: WORKDIR holds what does not belong there, such as a link. 1: the system says no.
"""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from s2sjax.errors import UserError, without_controls
from s2sjax.files import rundir

_STEP = re.compile("0|[1-9][0-9]{0,17}")
_RECORD = "logs/restarts"
_LOST = re.compile(r"(?P<job>\S{1,100}) (?P<step>[0-9]{1,18}) (?P<times>[0-9]{1,9})\n", re.ASCII)


def main(arguments: Sequence[str]) -> int:
    action, workdir, *rest = arguments
    try:
        match action:
            case "newest":
                print(newest_checkpoint(Path(workdir)))
            case "log":
                name, *command = rest
                log = _open_log(Path(workdir), name)
                _become(command, out=log, err=log)
            case "note":
                for name, line in zip(rest[::2], rest[1::2], strict=True):
                    with open(_open_log(Path(workdir), name), "ab") as file:
                        file.write(os.fsencode(line + "\n"))
            case "tee":
                log = _open_log(Path(workdir), rest[0])
                os.set_inheritable(log, True)
                _become(["tee", "-a", f"/dev/fd/{log}"])
            case "lost":
                print(*note_loss(Path(workdir), rest[0]))
            case "forget":
                with contextlib.suppress(FileNotFoundError):
                    rundir.remove(Path(workdir), _RECORD)
            case _:
                raise AssertionError(action)
    except UserError as error:
        print(f"s2sjax: {without_controls(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"s2sjax: {error.filename or workdir}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def newest_checkpoint(workdir: Path) -> int:
    """Its step, 0 if there is none. Raises: OSError; ForeignError if the folder is a link."""
    return max((int(name) for name in rundir.names(workdir, "checkpoints") if _STEP.fullmatch(name)), default=0)


def note_loss(workdir: Path, job: str) -> tuple[int, int]:
    """How often in a row, with this time, `job` has lost a process at the same newest checkpoint; and its step.

    What is no note of ours counts as none. Raises: OSError; ForeignError if the note is a link or no file.
    """
    step, times = newest_checkpoint(workdir), 1
    with contextlib.suppress(FileNotFoundError):
        noted = _LOST.fullmatch(rundir.read(workdir, _RECORD, most=1000).decode("ascii", errors="replace"))
        if noted and (noted["job"], int(noted["step"])) == (job, step):
            times += int(noted["times"])
    rundir.write(workdir, _RECORD, f"{job} {step} {times}\n".encode())
    return times, step


def _open_log(workdir: Path, name: str) -> int:
    workdir.mkdir(parents=True, exist_ok=True)
    return rundir.open_for_appending(workdir, f"logs/{rundir.check_file_name(name, 'a log')}")


def _become(command: Sequence[str], *, out: int = 1, err: int = 2) -> None:
    """Run a command in place of this process, with these descriptors as standard output and standard error."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and what it ignores its heirs ignore
        signal.signal(ignored, signal.SIG_DFL)
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
