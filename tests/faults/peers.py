"""Two processes, one of which is lost: the other says which, ends too, and all go on from the last checkpoint."""

import contextlib
import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.faults.lab import Lab, Outcome, Process, Skip


def _pair(lab: Lab) -> Lab:
    return lab.variant("two", processes=2)


def _ended(crew: list[Process], lost: int) -> str:
    """The one that was not struck has ended with 76 and named the other."""
    survivor = crew[1 - lost]
    survivor.expect(76)
    struck = crew[lost].at("fault: ")
    said = survivor.says(rf"process {lost} \(.*")
    return f"process {1 - lost} exits 76 after {survivor.ended - struck:.1f} s: {said}"


def _lost(lab: Lab, workdir: Path, *, index: int, signal_name: str, moment: str) -> Outcome:
    pair = _pair(lab)
    workdir = pair.workdir(workdir.name)
    crew = pair.start_all(workdir, faults={index: f"{moment}={signal_name}"})
    if signal_name == "SIGKILL":
        crew[index].expect(-9)
    happened = _ended(crew, index)
    if crew[index].running():
        crew[index].kill()  # as whoever starts it again does
        crew[index].wait()
    since = crew[index].at("fault: ")
    return pair.go_on(workdir, since, max(process.last_step() for process in crew), happened)


def _stopped(lab: Lab, workdir: Path, *, index: int, moment: str) -> Outcome:
    """One is asked to stop: all do, at the same step, and save it."""
    pair = _pair(lab)
    workdir = pair.workdir(workdir.name)
    crew = pair.start_all(workdir, faults={index: f"{moment}=SIGTERM"})
    for process in crew:
        process.expect(75)
    said, since = crew[0].says(r"stopped.*"), crew[index].at("fault: ")
    return pair.go_on(workdir, since, crew[0].last_step(), f"both exit 75: {said}")


@contextlib.contextmanager
def _two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them; their names. Raises: Skip where there can be none."""
    names = (f"s2sjax-{os.getpid()}-0", f"s2sjax-{os.getpid()}-1")
    commands = [
        *(f"ip netns add {name}" for name in names),
        f"ip link add veth0 netns {names[0]} type veth peer name veth1 netns {names[1]}",
        *(f"ip -n {name} addr add 10.77.0.{i + 1}/24 dev veth{i}" for i, name in enumerate(names)),
        *(f"ip -n {name} link set {link} up" for i, name in enumerate(names) for link in ("lo", f"veth{i}")),
    ]
    try:
        for i, name in enumerate(
            names
        ):  # `ip netns exec` shows it as /etc/hosts: devices look for their own host there
            hosts = Path("/etc/netns", name, "hosts")
            try:
                hosts.parent.mkdir(parents=True)
            except OSError as error:
                raise Skip(f"no network namespaces: {error}") from None
            hosts.write_text(f"127.0.0.1 localhost\n10.77.0.{i + 1} {platform.node()}\n")
        for command in commands:
            try:
                done = subprocess.run(command.split(), capture_output=True, text=True)
            except FileNotFoundError:
                raise Skip("there is no ip (iproute2)") from None
            if done.returncode:
                raise Skip(f"no network namespaces: {command}: {done.stderr.strip()}")
        yield names
    finally:
        for name in names:
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True)


def cut_off(lab: Lab, workdir: Path) -> Outcome:
    """The cable between two hosts is pulled. Each says that the other is silent, and both end."""
    pair = _pair(lab)
    workdir = pair.workdir(workdir.name)
    with _two_hosts() as hosts:
        pull = f"ip -n {hosts[1]} link set veth1 down"
        crew = pair.start_all(workdir, faults={1: f"stepping:7=run={pull}"}, hosts=hosts, address="10.77.0.1")
        for process in crew:
            process.expect(76)
        since = crew[1].at("fault: ")
        said = " / ".join(process.says(r"process [01] \(.*") for process in crew)
        happened = f"both exit 76 within {max(p.ended for p in crew) - since:.1f} s: {said}"
    return pair.go_on(workdir, since, max(process.last_step() for process in crew), happened)


FAULTS = {
    "peer: SIGKILL at a step": functools.partial(_lost, index=1, signal_name="SIGKILL", moment="stepping:7"),
    "peer: SIGKILL writing a checkpoint": functools.partial(_lost, index=1, signal_name="SIGKILL", moment="writing:8"),
    "coordinator: SIGKILL at a step": functools.partial(_lost, index=0, signal_name="SIGKILL", moment="stepping:7"),
    "coordinator: SIGKILL before renaming": functools.partial(_lost, index=0, signal_name="SIGKILL", moment="naming:8"),
    "peer: SIGSTOP": functools.partial(_lost, index=1, signal_name="SIGSTOP", moment="stepping:7"),
    "coordinator: SIGSTOP": functools.partial(_lost, index=0, signal_name="SIGSTOP", moment="stepping:7"),
    "peer: SIGTERM at a step": functools.partial(_stopped, index=1, moment="stepping:7"),
    "coordinator: SIGTERM validating": functools.partial(_stopped, index=0, moment="validating:10"),
    "peer: cut off from the network": cut_off,
}
