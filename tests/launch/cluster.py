"""A Slurm cluster of one machine, for as long as a test takes: with a key, a configuration, a state and ports of its
own, run by whoever runs the tests. Nothing of an installed cluster is read or written.

Needs munged, slurmctld and slurmd (Debian and Ubuntu: apt-get install --no-install-recommends slurm-wlm munge).
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun") if not shutil.which(name, path=PATH)]
"""Programs that are not installed; a cluster needs that there are none."""

# Requeued jobs wait for as long as a credential of theirs could live (cred_expire), 2 minutes unless told.
CONFIGURATION = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=low Nodes={host} PriorityTier=1 Default=YES GraceTime=120
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """Two processors in a partition `low`, whose jobs are preempted by those in `high` with two minutes to save."""

    def __init__(self, place: Path):
        self.place = place
        self.environment = os.environ | {"SLURM_CONF": str(place / "slurm.conf"), "PATH": PATH}

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}{self.logs()}"
        return done.stdout

    def submit(self, directory: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """`sbatch ARGUMENTS` from a directory. Returns the job's number."""
        done = subprocess.run(
            ["sbatch", "--parsable", *arguments],
            env=self.environment | (environment or {}), cwd=directory, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stderr}{self.logs()}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol` knows of a job: JobState, Restarts, ExitCode ..."""
        words = self.call("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, timeout: float = 120) -> dict[str, str]:
        """Until a job has ended for good. Returns what `job` does."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            job = self.job(number)
            if job["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "SIGNALING", "COMPLETING", "REQUEUED"):
                return job
            time.sleep(0.3)
        raise AssertionError(f"job {number} is still {job['JobState']} after {timeout} s{self.logs()}")

    def logs(self) -> str:
        ends = [f"\n-- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self.place.glob("*.log"))]
        return "".join(ends)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a cluster; end it with all that runs on it."""
    # Below /tmp, since the path of a socket has 108 letters at most.
    place = Path(tempfile.mkdtemp(prefix="slurm-"))
    host = socket.gethostname().partition(".")[0]
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        for directory in ("state", "spool"):
            (place / directory).mkdir()
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            ports = {"controller_port": one.getsockname()[1], "node_port": other.getsockname()[1]}
        user = pwd.getpwuid(os.geteuid()).pw_name
        (place / "slurm.conf").write_text(CONFIGURATION.format(host=host, place=place, user=user, **ports))
        key = place / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))

        new = Cluster(place)
        _daemon(stack, new, "munged", "--foreground", "--force", f"--key-file={key}",
                f"--socket={place}/munge.socket", f"--pid-file={place}/munged.pid", f"--seed-file={place}/munge.seed",
                f"--log-file={place}/munge.log")  # fmt: skip
        _until(new, "munge --no-input --socket=" + str(place / "munge.socket"))
        _daemon(stack, new, "slurmctld", "-D")
        _until(new, "scontrol ping")
        _daemon(stack, new, "slurmd", "-D")
        _until(new, "sinfo --noheader --format=%T | grep -q idle")
        stack.callback(_cancel_all, new)
        yield new


def _daemon(stack: contextlib.ExitStack, cluster: Cluster, *command: str) -> None:
    with open(cluster.place / f"{command[0]}.log", "ab") as log:
        process = subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log)

    def end() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)


def _until(cluster: Cluster, command: str, timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while subprocess.run(command, shell=True, env=cluster.environment, capture_output=True).returncode != 0:
        assert time.monotonic() < end, f"'{command}' never came true{cluster.logs()}"
        time.sleep(0.1)


def _cancel_all(cluster: Cluster) -> None:
    """Jobs outlive the daemons; so end them first."""
    end = time.monotonic() + 20
    while (jobs := cluster.call("squeue", "--noheader", "--format=%i").split()) and time.monotonic() < end:
        subprocess.run(["scancel", "--signal=KILL", "--full", *jobs], env=cluster.environment, capture_output=True)
        subprocess.run(["scancel", *jobs], env=cluster.environment, capture_output=True)
        time.sleep(0.3)
