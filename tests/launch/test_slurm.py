"""launch/slurm.sh on a Slurm cluster of one machine: real sbatch, srun, preemption and requeueing."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.checkout import lay_out
from tests.launch.cluster import MISSING, Cluster, cluster
from tests.tiny import assert_same_state, config_file, environment, write_text

SCRIPT = str(Path(__file__).parents[2] / "launch" / "slurm.sh")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"no {', '.join(MISSING)}: apt-get install --no-install-recommends slurm-wlm munge",
    ),
]


@pytest.fixture(scope="module")
def slurm():
    with cluster() as started:
        yield started


def until(condition: Callable[[], bool], timeout: float = 90) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def said(directory: Path, job: str) -> str:
    return (directory / f"slurm-{job}.out").read_text()


def tasks(slurm: Cluster, job: str) -> list[int]:
    """The processes that Slurm started on this machine for the tasks of a job, in their order."""
    lines = (line.split() for line in slurm.call("scontrol", "listpids", f"{job}.0").splitlines()[1:])
    return [int(pid) for _, pid in sorted((int(rank), pid) for pid, *_, rank in lines if rank.isdecimal())]


def logs(workdir: Path) -> list[str]:
    return [path.read_text() for path in sorted((workdir / "logs").glob("process-*.log"))]


STEPS = 40


class Training:
    """Real runs of two tasks each, of one config, by their workdirs."""

    def __init__(self, slurm: Cluster, place: Path):
        self._slurm, self._cache = slurm, place / "cache"
        self.home = lay_out(place / "home", f'exec {sys.executable} -m s2sjax "$@"')
        options = {"model__dropout": 0.2, "train__steps": STEPS, "checkpoint__every_steps": 10}
        self._config = config_file(place / "config.py", write_text(place / "data"), **options)
        undisturbed = self.submit("undisturbed")
        assert slurm.wait(undisturbed, 280)["JobState"] == "COMPLETED", self.story(undisturbed, "undisturbed")

    def submit(self, workdir: str) -> str:
        arguments = ["train", f"--config={self._config}", f"--workdir={workdir}", "--config.train.ema_decay=0.99"]
        return self._slurm.submit(self.home, "--ntasks=2", SCRIPT, *arguments, environment=environment(self._cache))

    def freeze(self, job: str, workdir: str, step: int) -> list[int]:
        """Stop the processes of a job once they have done a step, however fast they are. Returns them, by rank."""
        metrics = self.home / workdir / "metrics.jsonl"
        until(metrics.exists, 280)
        frozen = tasks(self._slurm, job)
        until(lambda: metrics.read_text().count("\n") >= step)  # a line a step
        for task in frozen:
            os.kill(task, signal.SIGSTOP)
        return frozen

    def story(self, job: str, workdir: str) -> str:
        return "\n".join([said(self.home, job), *logs(self.home / workdir)])


@pytest.fixture(scope="module")
def training(slurm, tmp_path_factory):
    return Training(slurm, tmp_path_factory.mktemp("training"))


@pytest.mark.timeout(900)
def test_two_tasks_that_are_preempted_are_requeued_and_end_with_the_bits_of_undisturbed_ones(slurm, training):
    job = training.submit("preempted")
    training.freeze(job, "preempted", 3)  # with SIGTERM, Slurm will send SIGCONT
    other = slurm.submit(training.home, "--partition=high", "--ntasks=2", "--wrap=sleep 1")
    assert slurm.wait(other)["JobState"] == "COMPLETED"
    ended = slurm.wait(job, 280)

    story = training.story(job, "preempted")
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), story
    stopped = int(story.partition("saved and stopped at step ")[2].partition(";")[0])
    assert 0 < stopped < STEPS
    starts = [f"start 1 of job {job}: 2 processes", f"start 2 of job {job}: 2 processes"]
    assert all(start in story for start in (*starts, "from step 0;", f"from step {stopped};"))
    assert f"stopped at step {stopped}, which is saved" in logs(training.home / "preempted")[0]
    assert len(logs(training.home / "preempted")) == 2
    assert_same_state(training.home / "undisturbed", training.home / "preempted")


@pytest.mark.timeout(900)
def test_two_tasks_one_of_which_is_killed_are_requeued_and_end_with_the_bits_of_undisturbed_ones(slurm, training):
    job = training.submit("killed")
    one, other = training.freeze(job, "killed", 13)
    os.kill(other, signal.SIGKILL)
    os.kill(one, signal.SIGCONT)
    ended = slurm.wait(job, 280)

    story = training.story(job, "killed")
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), story
    assert "process 1 (" in logs(training.home / "killed")[0], story  # process 0 names who died
    saved = story.partition("a process was lost (status 137); failure 1 at step ")[2].partition(",")[0]
    assert int(saved) in (0, 10)  # 10 unless it is killed while it saves
    assert f"start 2 of job {job}: 2 processes" in story and f"from step {saved};" in story
    assert_same_state(training.home / "undisturbed", training.home / "killed")


def test_a_users_mistake_ends_the_job_and_is_not_tried_again(slurm, tmp_path):
    home = lay_out(tmp_path, "echo a mistake; exit 2")
    job = slurm.submit(home, "--ntasks=2", SCRIPT, "train", "--workdir", "my run", "--config.a=b c")
    ended = slurm.wait(job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "2:0", "0")
    assert "failed with status 2; see my run/logs" in said(home, job)
    assert logs(home / "my run") == ["a mistake\n"] * 2


def test_options_of_sbatch_win_and_arguments_arrive_as_they_were_given(slurm, tmp_path):
    home = lay_out(tmp_path, 'printf "%s|" "$@" "$SLURM_JOB_NAME" "$SLURM_NTASKS" "$SRUN_CPUS_PER_TASK"')
    job = slurm.submit(home, "--job-name=mine", "--cpus-per-task=2", SCRIPT, "train", "--workdir=run", "--config.a=b c")
    assert slurm.wait(job)["JobState"] == "COMPLETED", said(home, job)
    assert logs(home / "run") == ["train|--workdir=run|--config.a=b c|mine|1|2|"]


def test_a_cancelled_job_saves_and_is_not_requeued(slurm, tmp_path):
    home = lay_out(tmp_path, "trap 'sleep 1; echo saved; exit 75' TERM; echo up; while true; do sleep 0.1; done")
    job = slurm.submit(home, "--ntasks=2", SCRIPT, "train", "--workdir=run")
    until(lambda: sum("up" in log for log in logs(home / "run")) == 2)
    slurm.call("scancel", job)
    ended = slurm.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0")
    assert ["saved" in log for log in logs(home / "run")] == [True, True]
    until(lambda: "not starting again" in said(home, job))


@pytest.mark.parametrize("told", ["HUP", "USR1"])
def test_a_signal_to_the_shell_alone_has_processes_save_and_the_job_starts_again(slurm, tmp_path, told):
    home = lay_out(
        tmp_path,
        """
        if [[ "$SLURM_RESTART_COUNT" == 1 ]]; then exit 0; fi
        trap 'echo saved; exit 75' USR1; echo up; while true; do sleep 0.1; done""",
    )
    job = slurm.submit(home, "--ntasks=2", SCRIPT, "train", "--workdir=run")
    until(lambda: sum("up" in log for log in logs(home / "run")) == 2)
    slurm.call("scancel", "--batch", f"--signal={told}", job)
    ended = slurm.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), said(home, job)
    assert ["saved" in log for log in logs(home / "run")] == [True, True]
    assert f"told to stop by {told}" in said(home, job)


def test_the_time_limit_has_processes_save_and_the_job_starts_again(slurm, tmp_path):
    home = lay_out(
        tmp_path,
        """
        if [[ "$SLURM_RESTART_COUNT" == 1 ]]; then exit 0; fi
        trap 'echo saved; exit 75' TERM; while true; do sleep 0.1; done""",
    )
    job = slurm.submit(home, "--ntasks=2", "--time=1", "--signal=TERM@55", SCRIPT, "train", "--workdir=run")
    ended = slurm.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    assert ["saved" in log for log in logs(home / "run")] == [True, True]


def test_a_job_that_slurm_is_still_signalling_starts_again(slurm, tmp_path):
    home = lay_out(tmp_path, 'if [[ "$SLURM_RESTART_COUNT" != 1 ]]; then exit 75; fi')
    squeue = tmp_path / "squeue"
    squeue.write_text(
        f"#!/bin/bash\necho called >>{tmp_path}/calls\n"
        f'[[ $(wc -l <{tmp_path}/calls) -gt 2 ]] || {{ echo SIGNALING; exit; }}\nexec {shutil.which("squeue")} "$@"\n'
    )
    squeue.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{slurm.environment['PATH']}"}
    job = slurm.submit(home, SCRIPT, "train", "--workdir=run", environment=path)
    ended = slurm.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), said(home, job)
    assert (tmp_path / "calls").read_text() == "called\n" * 3


def test_a_lost_process_has_the_job_requeued_and_only_so_often_without_a_new_checkpoint(slurm, tmp_path):
    home = lay_out(
        tmp_path,
        """
        echo started
        if [[ "$SLURM_PROCID" == 0 ]]; then
          if [[ "${SLURM_RESTART_COUNT:-0}" -le 1 ]]; then mkdir -p run/checkpoints/$((10 + SLURM_RESTART_COUNT)); fi
          sleep 0.5; exit 76
        fi
        kill -KILL $$""",
    )
    job = slurm.submit(home, "--ntasks=2", SCRIPT, "train", "--workdir=run")
    ended = slurm.wait(job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "137:0", "4")
    assert "failed with status 137 4 times in a row without getting beyond step 11" in said(home, job)
    assert [log.count("started") for log in logs(home / "run")] == [5, 5]


def test_a_mistake_in_the_call_is_told(slurm, tmp_path):
    job = slurm.submit(tmp_path, SCRIPT, "train", "--workdir=run")
    assert slurm.wait(job)["ExitCode"] == "2:0"
    assert "make it with bash launch/setup.sh, and call sbatch from that directory" in said(tmp_path, job)
    job = slurm.submit(lay_out(tmp_path, "exit 0"), SCRIPT, "train")
    assert slurm.wait(job)["ExitCode"] == "2:0"
    assert "--workdir is missing" in said(tmp_path, job)
