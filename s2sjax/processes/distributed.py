"""Several processes, on one host or many, as one run: found, joined, watched, and ended together.

What makes a process one of several is in its environment:

    S2SJAX_COORDINATOR   host:port of process 0, or "auto": JAX finds out, on Cloud TPU, Kubernetes, Slurm and Open MPI
    S2SJAX_PROCESSES     how many there are
    S2SJAX_PROCESS       which of them this is, from 0
    S2SJAX_PEER_TIMEOUT  seconds of silence after which a process is taken for lost (60)

The tasks of a Slurm step and the ranks of Open MPI are several without being told so. With no such environment nothing
happens here, and what is below answers for one process at no cost.

Everywhere else all processes run the same code on the same data; only what is written, to the terminal or to a disk
that they share, is process 0's alone.
"""

import contextlib
import ctypes
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

from s2sjax.errors import UserError
from s2sjax.processes.peers import Hub, Link, leave

_VARIABLES = ("S2SJAX_COORDINATOR", "S2SJAX_PROCESSES", "S2SJAX_PROCESS")
_FOR_EVER = 30 * 24 * 3600 * 1000  # milliseconds; what ends such a wait early is that a process was lost
_PART = 1 << 20  # bytes: JAX's service takes messages of up to 4 MiB

_link: Link | None = None
_client: Any = None
"""Of JAX's coordination service, which orbax leans on in the same way: it waits and keeps values, without devices."""
_index = 0
_count = 1


def index() -> int:
    """The number of this process. Unlike `jax.process_index` it may be asked before there are devices."""
    return _index


def count() -> int:
    """How many processes the run has."""
    return _count


def start() -> None:
    """Join the other processes, if there are any. Comes before anything touches a device.

    Raises:
        UserError: the environment is incomplete, or the others cannot be reached.
    """
    global _link, _client, _index, _count
    where = _environment()
    if where is None or _link is not None:
        return
    import jax
    from jax._src.distributed import global_state  # there is no public way to its client

    timeout = _timeout()
    # It would take SIGTERM for itself; a stop is agreed on here, for whatever reason it was asked for.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        # Peers are lost by our rules first, which name them.
        jax.distributed.initialize(**where, heartbeat_timeout_seconds=int(2 * timeout + 60))
    except (RuntimeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"the processes of this run did not find each other ({first}): see that all were started, and "
            f"{', '.join(_VARIABLES)}"
        ) from error
    _client, _index, _count = global_state.client, global_state.process_id, global_state.num_processes
    _keep_output_clean()
    if _index == 0:
        hub = Hub(_count, timeout=timeout)
        _client.key_value_set("s2sjax/hub", json.dumps([hub.port, hub.token]))
    port, token = json.loads(_client.blocking_key_value_get("s2sjax/hub", 60_000))
    host = str(global_state.coordinator_address).rpartition(":")[0].strip("[]")
    try:
        _link = Link(_index, (host, port), token, timeout=timeout)
    except OSError as error:
        raise UserError(f"process 0 cannot be reached at {host}, port {port}: {error.strerror or error}") from error
    _abort_slowly()
    barrier("started")


def _environment() -> dict[str, Any] | None:
    """Arguments for `jax.distributed.initialize`; None if this process is on its own."""
    given = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    if given.get("S2SJAX_COORDINATOR") == "auto":
        return {}
    if given:
        missing = [name for name in _VARIABLES if name not in given]
        if missing:
            raise UserError(f"{' and '.join(given)} are set and {' and '.join(missing)} are not; set all three or none")
        coordinator, processes, process = given.values()
        many, this = (_number(n, v, int) for n, v in zip(_VARIABLES[1:], (processes, process), strict=True))
        if not 0 <= this < many:
            raise UserError(f"S2SJAX_PROCESS is {this}, but must be in 0..{many - 1} (S2SJAX_PROCESSES is {many})")
        if not coordinator.rpartition(":")[2].isdecimal():
            raise UserError(f"S2SJAX_COORDINATOR is '{coordinator}', expected host:port of process 0, or auto")
        return {
            "coordinator_address": coordinator, "num_processes": many, "process_id": this,
            "cluster_detection_method": "deactivate",
        }  # fmt: skip
    in_step = "SLURM_STEP_NODELIST" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1"
    return {} if in_step or os.environ.get("OMPI_COMM_WORLD_SIZE", "1") != "1" else None


def _timeout() -> float:
    """Seconds of silence after which a process is taken for lost."""
    text = os.environ.get("S2SJAX_PEER_TIMEOUT") or "60"
    with contextlib.suppress(ValueError):
        # Busy processes are silent for some seconds; JAX counts them in 32 bits. NaN is within no limits.
        if 5 <= float(text) <= 1_000_000:
            return float(text)
    raise UserError(f"S2SJAX_PEER_TIMEOUT is '{text}', expected a number of seconds from 5 to 1000000")


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{name} is '{text}', expected a number") from None


def _keep_output_clean() -> None:
    """Let only what process 0 prints in Python be its standard output: gloo would say there whom it is connected to."""
    sys.stdout.flush()
    out = os.dup(1) if _index == 0 else os.open(os.devnull, os.O_WRONLY)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(out, "w", buffering=1 if os.isatty(out) else -1, encoding=sys.stdout.encoding)


def _abort_slowly() -> None:
    """Let an abort wait for six seconds.

    When process 0 dies, JAX aborts the others at once; what watches the peers needs a moment to say who died, and to
    end this process with an exit code. `sleep` is safe in a signal handler, and takes the signal's number for seconds.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def agree(step: int, stop: bool) -> bool:
    """Whether all processes stop after this step. Each calls it once a step.

    Args:
        step: the last that was begun.
        stop: this process was asked to. Then all stop within a step or two, at the same one.
    """
    return stop if _link is None else _link.agree(step, stop)


def barrier(name: str) -> None:
    """Wait until all processes are here, however long it takes; a collective of the devices would not wait for ever."""
    if _link is not None:
        _client.wait_at_barrier(f"s2sjax/{name}/{next(_barriers)}", _FOR_EVER)


_barriers = itertools.count()
_shared = itertools.count()


def shared(items: Iterable[Any] | None) -> Iterator[Any]:
    """What process 0 iterates over, in every process: values of JSON. The others' `items` are not looked at."""
    if _link is None:
        assert items is not None
        yield from items
        return
    stream = f"s2sjax/shared/{next(_shared)}"
    source = iter(items or ()) if _index == 0 else itertools.repeat(None)
    for number in itertools.count():
        if _index == 0:
            item = next(source, None)
            text = json.dumps(item).encode()
            for part, first in enumerate(range(0, len(text), _PART)):
                _client.key_value_set_bytes(f"{stream}/{number}/{part}", text[first : first + _PART])
            _client.key_value_set(f"{stream}/{number}/parts", str(-(-len(text) // _PART)))
        else:
            parts = int(_client.blocking_key_value_get(f"{stream}/{number}/parts", _FOR_EVER))
            read = (_client.blocking_key_value_get_bytes(f"{stream}/{number}/{p}", _FOR_EVER) for p in range(parts))
            item = json.loads(b"".join(read))
        if item is None:
            return
        yield item
        _client.wait_at_barrier(f"{stream}/{number}/done", _FOR_EVER)
        if _index == 0:
            _client.key_value_delete(f"{stream}/{number}")


def finish(code: int, text: str = "", error: BaseException | None = None) -> int:
    """Say how this process ends. Returns its exit code, if it does not end right here, with all the others.

    Args:
        text: for the user, said once, by process 0 if it still can.
        error: a bug; raised again where there is one process, else printed, unless another's death shows in it.
    """
    if _link is not None and code != 0 and not (code == 75 and _link.agreed):
        code, text = _link.end(code, text)
        if error is not None and code == 1:
            traceback.print_exception(error)
        leave(code, text)
    if error is not None:
        raise error
    if text:
        print(f"s2sjax: {text}", file=sys.stderr)
    if _link is not None:
        import jax

        sys.stdout.flush()
        jax.distributed.shutdown()  # when all have come here; and while one has not, it is watched
        _link.close()
    return code
