"""launch/tpu_vm.sh: what a dry run prints, and what is done with a stand-in for gcloud that has a slice of two workers.

The stand-in writes down what it is called with, keeps the slice's state in a file and runs the workers' commands for
real, each worker in a home directory of its own; only the installation puts a stand-in for s2sjax in place.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launch.checkout import LAUNCH, install

WHERE = ["--name=mine", "--zone=here-a"]
KIND = ["--type=v5litepod-8", "--version=v2-alpha-tpuv5-lite", "--spot"]

GCLOUD = r"""#!/usr/bin/env bash
cd "$CLOUD"
printf '%s\n' "$*" >>calls
verb="$4" command=""
for argument in "$@"; do
  case "$argument" in --command=*) command="${argument#*=}" ;; esac
done
end() { for home in w-*; do [[ -e $home/place/pid ]] && kill -KILL -- "-$(cat "$home/place/pid")"; done; rm -rf w-*; }
case "$verb" in
  describe)
    [[ -e state ]] && cat state
    if [[ -e preempt && -e "$WORKDIR/checkpoints/5" ]]; then rm preempt; echo PREEMPTED >state; end; fi ;;
  create) mkdir w-0 w-1; echo READY >state ;;
  delete) end; rm state ;;
  scp) for home in w-*; do cp "$5" "$home/${6#*:}"; done ;;
  ssh)
    for home in w-*; do (
      cd "$home"
      export HOME="$PWD" HOSTNAME="t1v-$home" S2SJAX_PLACE="$PWD/place"
      if [[ "$command" == *setup.sh ]]; then
        cp -r "$CLOUD/.venv" s2sjax; touch s2sjax/.venv/stamp
      else
        bash -c "$command"
      fi
    ) || exit 1; done ;;
esac
"""


class Cloud:
    """Runs launch/tpu_vm.sh, from a copy, with the stand-in as gcloud and `program` as s2sjax."""

    def __init__(self, place: Path, program: str):
        self.place, self.workdir = place, place / "shared" / "a run"
        self._repository = place / "repository"
        self._repository.mkdir(parents=True)
        shutil.copytree(LAUNCH, self._repository / "launch")
        install(place / "cloud", program)
        (place / "bin").mkdir()
        gcloud = place / "bin" / "gcloud"
        gcloud.write_text(GCLOUD)
        gcloud.chmod(0o755)

    @contextlib.contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen]:
        environment = os.environ | {
            "PATH": f"{self.place / 'bin'}:{os.environ['PATH']}",
            "CLOUD": str(self.place / "cloud"),
            "WORKDIR": str(self.workdir),
            "S2SJAX_POLL_SECONDS": "0.05",
        }
        process = subprocess.Popen(
            ["bash", str(self._repository / "launch" / "tpu_vm.sh"), *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def train(self, *options: str) -> tuple[int, str, str]:
        return self.run("run", *WHERE, *KIND, *options, "--", "train", "--config=c.py", f"--workdir={self.workdir}")

    def calls(self, verb: str) -> list[str]:
        lines = (self.place / "cloud" / "calls").read_text().splitlines()
        return [line for line in lines if line.startswith(f"compute tpus tpu-vm {verb} ")]

    def starts(self) -> int:
        return sum("tpu_worker.sh start" in line for line in self.calls("ssh"))

    def log(self, worker: int) -> str:
        return (self.workdir / "logs" / f"process-{worker}.log").read_text()


@pytest.fixture
def cloud(tmp_path):
    made = []

    def make(program: str) -> Cloud:
        made.append(Cloud(tmp_path, program))
        return made[-1]

    yield make
    for pid in tmp_path.glob("cloud/w-*/place/pid"):
        with contextlib.suppress(ProcessLookupError):  # most have ended by themselves
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def test_a_dry_run_prints_each_command_and_runs_none(cloud: Callable[[str], Cloud]):
    here = cloud("exit 1")
    code, out, _ = here.run(
        "run", *WHERE, *KIND, "--project=p", "--setup=sudo mount disk /runs && true", "--dry-run",
        "--", "train", "--config=c.py", "--workdir=/runs/x", "--config.data.dir=/a b",
    )  # fmt: skip
    tail = "--zone=here-a --project=p"
    archive = out.splitlines()[2].split()[-2]
    assert code == 0
    assert out.splitlines() == [
        f"gcloud compute tpus tpu-vm describe mine '--format=value(state)' {tail}",
        "gcloud compute tpus tpu-vm create mine --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite --spot "
        + tail,
        f"tar '--exclude=./.*' --exclude=./runs --exclude=__pycache__ -czf {archive} .",
        f"gcloud compute tpus tpu-vm scp {archive} mine:s2sjax.tar.gz --worker=all {tail}",
        "gcloud compute tpus tpu-vm ssh mine --worker=all "
        f"'--command=mkdir -p s2sjax && tar -xzf s2sjax.tar.gz -C s2sjax' {tail}",
        f"gcloud compute tpus tpu-vm ssh mine --worker=all '--command=sudo mount disk /runs && true' {tail}",
        "gcloud compute tpus tpu-vm ssh mine --worker=all "
        f"'--command=S2SJAX_ACCELERATOR=tpu bash s2sjax/launch/setup.sh' {tail}",
        "gcloud compute tpus tpu-vm ssh mine --worker=all '--command=bash s2sjax/launch/tpu_worker.sh start /runs/x "
        rf"train --config=c.py --workdir=/runs/x --config.data.dir=/a\ b' {tail}",
        f"gcloud compute tpus tpu-vm describe mine '--format=value(state)' {tail}",
        "gcloud compute tpus tpu-vm ssh mine --worker=all '--command=[ ! -e s2sjax/.venv/stamp ] && "
        f"echo s2sjax new 0 || bash s2sjax/launch/tpu_worker.sh status /runs/x' {tail}",
    ]
    assert not (here.place / "cloud" / "calls").exists()
    assert not Path(archive).parent.exists()


def test_dry_runs_of_stop_and_delete(cloud):
    here = cloud("exit 1")
    assert here.run("stop", *WHERE, "--dry-run")[1] == (
        "gcloud compute tpus tpu-vm ssh mine --worker=all "
        "'--command=bash s2sjax/launch/tpu_worker.sh signal TERM' --zone=here-a\n"
    )
    assert here.run("delete", *WHERE, "--dry-run")[1] == (
        "gcloud compute tpus tpu-vm delete mine --quiet --zone=here-a\n"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["walk"], "'walk' has to be run, stop or delete"),
        (["run", "--name=mine"], "--name and --zone are needed"),
        (["run", *WHERE, "--worker=3"], "'--worker=3' is not an option"),
        (["run", *WHERE, "--", "train", "--workdir=runs/x"], "--workdir is 'runs/x'"),
        (["delete", "--name=-f", "--zone=z"], "'-f' is no name of a slice"),
        (["stop", "--name=a:b c", "--zone=z"], "'a:b c' is no name of a slice"),
        (["run", *WHERE, "--type=$(touch pwned)"], "'$(touch pwned)' is no name of a slice"),
        (["run", *WHERE, "--", "train", "--workdir=/runs/x"], "there is no slice 'mine' in here-a"),
    ],
)
def test_a_mistake_is_told_and_ends_with_code_2(cloud, arguments, message):
    code, _, err = cloud("exit 1").run(*arguments)
    assert code == 2
    assert message in err


def test_what_workers_say_is_matched_before_it_is_counted_with(cloud):
    here = cloud("exit 1")
    (here.place / "bin" / "gcloud").write_text(
        """#!/usr/bin/env bash
        cd "$CLOUD"
        if [[ "$4" == describe ]]; then echo READY; exit; fi
        echo . >>asked
        case "$(wc -l <asked)" in
          1) printf 's2sjax %s\\n' 'a[$(touch pwned)] 0' '0 a[$(touch pwned)]' '08 1' '-1 1' 'running 1 2' ' 0 1' '0' ;;
          2) echo 's2sjax running 3' ;;
          *) echo 's2sjax 0 5' ;;
        esac
        """
    )
    code, _, err = here.train()
    assert (code, (here.place / "cloud" / "asked").read_text()) == (0, ".\n" * 3), err
    assert "no worker of mine answers" in err and not list(here.place.rglob("pwned"))


def test_a_preempted_slice_is_created_again_and_the_same_command_goes_on(cloud):
    here = cloud("""
        echo "$HOSTNAME, $S2SJAX_COORDINATOR: $*"
        if [[ -d "$WORKDIR/checkpoints/5" ]]; then exit 0; fi
        touch "$WORKDIR/up-$HOSTNAME"
        if [[ -e "$WORKDIR/up-t1v-w-0" && -e "$WORKDIR/up-t1v-w-1" ]]; then mkdir -p "$WORKDIR/checkpoints/5"; fi
        sleep 60""")
    (here.place / "cloud" / "preempt").touch()
    code, _, err = here.train("--setup=touch mounted")
    assert code == 0, err
    assert "mine is PREEMPTED; deleting it, to create it again" in err
    assert len(here.calls("create")) == 2
    assert len(here.calls("delete")) == 1
    assert here.starts() == 2
    assert len(list(here.place.glob("cloud/w-*/mounted"))) == 2
    expected = f"train --config=c.py --workdir={here.workdir}"
    for worker in range(2):
        assert here.log(worker) == f"t1v-w-{worker}, auto: {expected}\n" * 2


@pytest.mark.slow
def test_a_lost_process_has_all_started_again_and_only_so_often_without_a_new_checkpoint(cloud):
    here = cloud("""
        echo started
        starts="$(grep -c started "$WORKDIR/logs/process-0.log")"
        if [[ "$starts" -le 2 ]]; then mkdir -p "$WORKDIR/checkpoints/$starts"; fi
        if [[ "$HOSTNAME" == *-1 ]]; then kill -KILL $$; fi
        exit 76""")
    code, _, err = here.train()
    assert code == 137
    assert "a process was lost (status 137), 4 times in a row at step 2" in err
    assert here.log(1).count("started") in (4, 5, 6)  # the first two got further, if worker 0 was quick to say so
    assert len(here.calls("create")) == 1


@pytest.mark.slow
def test_workers_that_are_left_alone_are_ended_and_started_again(cloud):
    here = cloud("""
        if [[ -e "$WORKDIR/checkpoints/1" ]]; then exit 0; fi
        if [[ "$HOSTNAME" == *-1 ]]; then touch "$WORKDIR/asleep"; sleep 60; fi
        while [[ ! -e "$WORKDIR/asleep" ]]; do sleep 0.05; done
        mkdir -p "$WORKDIR/checkpoints/1"
        exit 76""")
    code, _, err = here.train()
    assert code == 0, err
    assert "some workers have ended: 76 running ; ending the others" in err
    assert here.starts() == 2


def test_a_users_mistake_is_not_tried_again(cloud):
    here = cloud("echo a mistake; exit 2")
    code, _, err = here.train()
    assert code == 2
    assert here.starts() == 1
    assert f"see {here.workdir}/logs" in err
    assert here.log(0) == "a mistake\n"
    assert here.train()[0] == 2
    assert here.starts() == 2  # the same command, typed again, is a new attempt
    assert len(here.calls("create")) == 1


def test_a_worker_runs_one_training_at_a_time(cloud, tmp_path):
    here = cloud("exit 1")
    install(tmp_path / "repository", 'exec sleep "$@"')
    worker = ["bash", str(tmp_path / "repository" / "launch" / "tpu_worker.sh")]
    environment = os.environ | {"S2SJAX_PLACE": str(tmp_path / "cloud" / "w-0" / "place"), "HOSTNAME": "a-0"}

    def call(*arguments: str) -> str:
        return subprocess.run([*worker, *arguments], env=environment, capture_output=True, text=True).stdout

    assert call("status", str(here.workdir)) == "s2sjax new 0\n"
    assert call("start", str(here.workdir), "60") == "s2sjax started on a-0\n"
    assert call("start", str(here.workdir), "60") == "s2sjax is running already on a-0\n"
    (here.workdir / "checkpoints" / "120").mkdir(parents=True)
    (here.workdir / "checkpoints" / "tmp-130").mkdir()
    assert call("status", str(here.workdir)) == "s2sjax running 120\n"
    assert call("status", str(here.workdir.parent)) == "s2sjax other 0\n"
    call("signal", "KILL")
    while (now := call("status", str(here.workdir))) != "s2sjax 137 120\n":
        assert now == "s2sjax running 120\n"  # it takes a moment to die


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_the_shell_of_a_worker_reaches_the_program_whose_exit_code_is_kept(cloud, tmp_path, told):
    here = cloud("exit 1")
    program = "trap 'sleep 0.3; echo saved; exit 75' TERM; echo up; for _ in {1..300}; do sleep 0.1; done"
    install(tmp_path / "repository", program)
    worker = ["bash", str(tmp_path / "repository" / "launch" / "tpu_worker.sh")]
    place = tmp_path / "cloud" / "w-0" / "place"
    environment = os.environ | {"S2SJAX_PLACE": str(place), "HOSTNAME": "a-0"}
    subprocess.run(
        [*worker, "start", str(here.workdir), "train"], env=environment, check=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # ignored where tests outlive a terminal
    )  # fmt: skip
    log = here.workdir / "logs" / "process-0.log"
    while not log.exists() or "up" not in log.read_text():
        time.sleep(0.02)
    os.kill(int((place / "pid").read_text()), told)
    status = "s2sjax running 0\n"
    while status == "s2sjax running 0\n":
        status = subprocess.run(
            [*worker, "status", str(here.workdir)], env=environment, capture_output=True, text=True
        ).stdout
    assert status == "s2sjax 75 0\n"
    assert log.read_text() == "up\nsaved\n"


def test_stop_has_every_worker_save_and_ends_the_run_with_code_75(cloud):
    here = cloud("""
        trap 'echo saved; exit 75' TERM
        echo up
        while true; do sleep 0.05; done""")
    with here.start("run", *WHERE, *KIND, "--", "train", f"--workdir={here.workdir}") as process:
        while len([path for path in here.workdir.glob("logs/*.log") if "up" in path.read_text()]) < 2:
            assert process.poll() is None
        assert here.run("stop", *WHERE)[0] == 0
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "saved and stopped" in err
    assert [here.log(worker) for worker in range(2)] == ["up\nsaved\n"] * 2


@pytest.mark.slow
def test_run_typed_again_looks_after_what_is_running_and_starts_nothing(cloud):
    here = cloud('while [[ ! -e "$WORKDIR/go" ]]; do sleep 0.05; done')
    command = ["run", *WHERE, *KIND, "--", "train", f"--workdir={here.workdir}"]
    with here.start(*command) as process:
        while not (here.workdir / "logs" / "process-1.log").exists():
            assert process.poll() is None
        process.kill()
        process.communicate()
    code, _, err = here.run(*command[:-1], "--workdir=/another")
    assert (code, "busy with a training in another workdir" in err) == (2, True)
    with here.start(*command) as process:
        polled = len(here.calls("describe"))
        while len(here.calls("describe")) < polled + 2:
            assert process.poll() is None
        (here.workdir / "go").touch()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert here.starts() == 1
