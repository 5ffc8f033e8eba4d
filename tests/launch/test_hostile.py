"""What the scripts in launch/ do with a run directory that a stranger made, and with names and numbers that a shell
would take for something else."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from s2sjax.files.rundir import ForeignError
from s2sjax.processes import launching
from tests.launch.checkout import lay_out

STRANGE = [
    "a[$(touch pwned)]", "$(touch pwned)", "`touch pwned`", "x; touch pwned", "1" + "0" * 30, "-1", "08", "0x10", "1e3",
    "", " ", "1\n2", "\n", "-n", "*", "~", "\u0663", "\udcff",
]  # fmt: skip
"""What bash would run, miscount, split, expand or take for an option; a digit that is none of the ten; no UTF-8."""

STAND_INS = {
    "srun": 'while [[ "$1" == --* ]]; do shift; done; SLURM_PROCID=0 exec "$@"',
    "squeue": "echo RUNNING",
    "scontrol": "echo requeued",
    "sleep": 'exec /bin/sleep 0.05',
}  # fmt: skip


class Scripts:
    """A checkout, in which `launch/NAME` runs as a user would have it run, with stand-ins for Slurm."""

    def __init__(self, place: Path):
        self.place = lay_out(place / "checkout", 'printf "%s\\0" "$@" >called; exit "${END:-0}"')
        self.victim = place / "victim"
        self.victim.write_text("mine\n")
        (place / "bin").mkdir()
        for name, text in STAND_INS.items():
            (place / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (place / "bin" / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "JAX_PLATFORMS": "cpu",
            "S2SJAX_PLACE": str(place / "memory"),
            "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here",
            "JOB_COMPLETION_INDEX": "0", "HOSTNAME": "a-0",
        }  # fmt: skip

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            ["bash", f"launch/{script}", *arguments], cwd=self.place, capture_output=True, text=True, timeout=60,
            env=self.environment | variables, errors="surrogateescape",
        )  # fmt: skip
        assert not (self.place / "pwned").exists()
        assert f"{script}: line" not in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert self.victim.read_text() == "mine\n"
        return done

    def called(self) -> list[str]:
        return (self.place / "called").read_text(errors="surrogateescape").split("\0")[:-1]


@pytest.fixture
def scripts(tmp_path) -> Scripts:
    return Scripts(tmp_path)


RUNS = {
    "local": ["local.sh"],
    "two": ["local.sh", "--processes=2"],
    "slurm": ["slurm.sh"],
    "pod": ["kubernetes/entrypoint.sh"],
}
"""How the same command is started by each script, in the foreground."""


@pytest.mark.fast_grid(3)
@pytest.mark.parametrize("how", ["local", "slurm", "pod"])
def test_a_run_directory_may_have_any_name(scripts, how):
    names = [*(name for name in STRANGE if name), "--config", "a  b"]
    for number, name in enumerate(names):
        given = [f"--workdir={name}"] if number % 2 else ["--workdir", name]
        done = scripts.run(*RUNS[how], "train", *given)
        assert done.returncode == 0, done.stderr
        assert scripts.called() == ["train", *given]
        assert (scripts.place / name / "logs" / "process-0.log").is_file()


@pytest.mark.parametrize("how", RUNS)
def test_a_run_directory_has_a_name(scripts, how):
    for given in ([], ["--workdir="], ["--workdir", ""], ["--workdir"], ["--workdirs=x"]):
        done = scripts.run(*RUNS[how], "train", *given)
        assert done.returncode == 2 and "--workdir is missing" in done.stderr


def a_link(scripts: Scripts, path: Path) -> None:
    path.symlink_to(scripts.victim)


def a_dangling_link(scripts: Scripts, path: Path) -> None:
    path.symlink_to(scripts.victim.with_name("new"))


def a_fifo(scripts: Scripts, path: Path) -> None:
    os.mkfifo(path)


def a_folder(scripts: Scripts, path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("how", RUNS)
@pytest.mark.parametrize("plant", [a_link, a_dangling_link, a_fifo, a_folder])
def test_a_log_that_is_no_file_is_not_written_to_and_nothing_is_started(scripts, how, plant: Callable):
    log = scripts.place / "run" / "logs" / ("process-1.log" if how == "two" else "process-0.log")
    log.parent.mkdir(parents=True)
    plant(scripts, log)
    done = scripts.run(*RUNS[how], "train", "--workdir=run")
    assert done.returncode == 2 and f"run/logs/{log.name} is" in done.stderr + log_of_process(scripts)
    assert not (scripts.place / "called").exists() and not scripts.victim.with_name("new").exists()


def log_of_process(scripts: Scripts) -> str:
    path = scripts.place / "run" / "logs" / "process-0.log"
    return path.read_text() if path.is_file() else ""


@pytest.mark.parametrize("how", RUNS)
@pytest.mark.parametrize("folder", ["logs", "checkpoints"])
def test_a_folder_that_is_a_link_is_not_followed(scripts, how, folder):
    if how == "pod" and folder == "checkpoints":
        pytest.skip("nothing there is read")
    outside = scripts.place / "outside"
    (outside / "99").mkdir(parents=True)
    (scripts.place / "run").mkdir()
    (scripts.place / "run" / folder).symlink_to(outside)
    done = scripts.run(*RUNS[how], "train", "--workdir=run")
    assert done.returncode == 2 and f"run/{folder} is a link" in done.stderr
    assert os.listdir(outside) == ["99"] and not (scripts.place / "called").exists()


@pytest.mark.parametrize("name", [name for name in STRANGE if name.strip("/ ")])
def test_what_else_lies_among_checkpoints_is_none(tmp_path, name):
    for step in ("0", "12", "9", name):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    assert launching.newest_checkpoint(tmp_path) == 12


@pytest.mark.parametrize("value", STRANGE)
@pytest.mark.parametrize("note", ["{}", "7 0 {}\n", "7 {} 1\n", "{} 0 1\n", "7 0 1 {}\n", "7 0 1\n{}\n", "7 0 1\0{}\n"])
def test_a_note_that_is_none_of_ours_counts_as_none(tmp_path, note, value):
    (tmp_path / "logs").mkdir()
    text = note.format(value)
    (tmp_path / "logs" / "restarts").write_text(text, errors="surrogateescape")
    expected = int(value) + 1 if note == "7 0 {}\n" and value == "08" else 1
    assert launching.note_loss(tmp_path, "7") == (expected, 0)
    assert (tmp_path / "logs" / "restarts").read_text() == f"7 0 {expected}\n"
    assert launching.note_loss(tmp_path, "7") == (expected + 1, 0)


def test_losses_are_counted_by_job_and_checkpoint(tmp_path):
    assert [launching.note_loss(tmp_path, "7") for _ in range(3)] == [(1, 0), (2, 0), (3, 0)]
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    assert [launching.note_loss(tmp_path, job) for job in ("7", "7", "8", "7")] == [(1, 20), (2, 20), (1, 20), (1, 20)]
    assert launching.main(["forget", str(tmp_path)]) == launching.main(["forget", str(tmp_path)]) == 0
    assert launching.note_loss(tmp_path, "7") == (1, 20)


def test_a_note_that_leads_elsewhere_is_neither_read_nor_written(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("7 0 5\n")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "restarts").symlink_to(victim)
    with pytest.raises(ForeignError):
        launching.note_loss(tmp_path, "7")
    assert victim.read_text() == "7 0 5\n"


@pytest.mark.parametrize("value", ["a[$(touch pwned)]", "1" + "0" * 30, "08", "", "-1"])
def test_a_job_of_slurm_counts_whatever_stands_in_its_note(scripts, value):
    (scripts.place / "run" / "logs").mkdir(parents=True)
    (scripts.place / "run" / "logs" / "restarts").write_text(f"7 0 {value}\n")
    done = scripts.run("slurm.sh", "train", "--workdir=run", END="76")
    failures = 9 if value == "08" else 1
    assert f"failure {failures} at step 0" in done.stdout or f"{failures} times in a row" in done.stdout


@pytest.mark.parametrize("name", ["SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_GPUS_ON_NODE", "SLURM_RESTART_COUNT"])
def test_numbers_of_slurm_are_numbers(scripts, name):
    for value in STRANGE:
        done = scripts.run("slurm.sh", "train", "--workdir=run", **{name: value})
        assert done.returncode == (0 if value == "" else 2), value
        assert value == "" or f"{name} is '" in done.stderr


@pytest.mark.parametrize("value", [*STRANGE, "0", "257", "9" * 20, "1.5", "+2"])
def test_the_number_of_processes_is_bounded(scripts, value):
    for given in ([f"--processes={value}"], ["--processes", value]):
        done = scripts.run("local.sh", *given, "train", "--workdir=run")
        assert done.returncode == 2 and f"--processes is '{value}', expected a number from 1 to 256" in done.stderr
    assert not (scripts.place / "run").exists()


@pytest.mark.parametrize("name", ["S2SJAX_RESTARTS", "S2SJAX_PEER_TIMEOUT"])
@pytest.mark.parametrize("value", [value for value in STRANGE if value not in ("", "08")])
def test_settings_that_are_no_numbers_are_told(scripts, name, value):
    done = scripts.run("local.sh", "train", "--workdir=run", **{name: value})
    assert done.returncode == 2 and f"{name} is '{value}', expected" in done.stderr


@pytest.mark.parametrize(
    "visible, listed, shares",
    [
        (None, "0\n1\n2\n3", ["0,1", "2,3"]),
        (None, "NVIDIA-SMI has failed because it could not communicate with the driver", ["", ""]),
        (None, "a[$(touch pwned)]\n08x", ["", ""]),
        ("", "0\n1", ["", ""]),
        ("-1", "0\n1", ["-1", "-1"]),
        ("GPU-a[$(touch pwned)],*", "0\n1\n2\n3", ["GPU-a[$(touch pwned)]", "*"]),
    ],
)
def test_gpus_are_shared_out_and_nothing_else_is(scripts, tmp_path, visible, listed, shares):
    (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/usr/bin/env bash\nprintf '%s\\n' '{listed}'\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    (scripts.place / ".venv/bin/s2sjax").write_text(
        '#!/usr/bin/env bash\nprintf %s "${CUDA_VISIBLE_DEVICES:-}" >"share-$S2SJAX_PROCESS"\n'
    )
    scripts.environment.pop("CUDA_VISIBLE_DEVICES", None)
    variables = {"JAX_PLATFORMS": ""} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    done = scripts.run("local.sh", "--processes=2", "train", "--workdir=run", **variables)
    assert done.returncode == 0, done.stderr
    assert [(scripts.place / f"share-{number}").read_text() for number in (0, 1)] == shares


def test_programs_hear_of_a_closed_pipe_as_they_would_without_a_log(tmp_path):
    command = [sys.executable, "-I", "-m", "s2sjax.processes.launching", "log", str(tmp_path), "a.log"]
    subprocess.run([*command, "bash", "-c", "yes | head -n 1"], check=True, timeout=60)
    assert (tmp_path / "logs" / "a.log").read_text() == "y\n"


def test_a_signal_ends_the_start(scripts):
    (scripts.place / ".venv" / "bin" / "python").write_text(
        '#!/usr/bin/env bash\ncase "$4" in\n'
        f'  newest) echo 0 ;;\n  note) touch starting; /bin/sleep 0.5 ;;\n  *) exec {sys.executable} "$@" ;;\nesac\n'
    )
    process = subprocess.Popen(
        ["bash", "launch/local.sh", "--processes=256", "train", "--workdir=run"],
        cwd=scripts.place, env=scripts.environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (scripts.place / "starting").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75 and not (scripts.place / "called").exists()


@pytest.mark.parametrize("value", ["a[$(touch pwned)]", "1" + "0" * 30, "-1", "1", "08", "1\n2"])
def test_a_worker_takes_what_it_finds_for_no_process_and_no_exit_code(scripts, tmp_path, value):
    memory = tmp_path / "memory"
    memory.mkdir()
    for name in ("pid", "status", "workdir"):
        (memory / name).write_text(value, errors="surrogateescape")
    assert scripts.run("tpu_worker.sh", "status", "run").stdout == "s2sjax 1 0\n"
    for told in ("TERM", "KILL"):
        assert scripts.run("tpu_worker.sh", "signal", told).returncode == 0
    done = scripts.run("tpu_worker.sh", "start", "run", "train", "--workdir=run")
    assert done.stdout == "s2sjax started on a-0\n"
    while scripts.run("tpu_worker.sh", "status", "run").stdout != "s2sjax 0 0\n":
        pass


def test_a_worker_does_not_use_what_another_user_put_in_its_place(scripts, tmp_path):
    memory, elsewhere = tmp_path / "memory", tmp_path / "elsewhere"
    elsewhere.mkdir()
    memory.symlink_to(elsewhere)
    for arguments in (["status", "run"], ["signal", "KILL"], ["start", "run", "train"]):
        done = scripts.run("tpu_worker.sh", *arguments)
        assert done.returncode == 2 and "is no directory of your own" in done.stderr
    assert not os.listdir(elsewhere)
    memory.unlink()
    memory.mkdir()
    os.chown(memory, 12345, 12345) if os.getuid() == 0 else pytest.skip("only root can give a directory away")
    assert scripts.run("tpu_worker.sh", "status", "run").returncode == 2


def test_a_worker_whose_log_leads_elsewhere_does_not_start(scripts):
    (scripts.place / "run" / "logs").mkdir(parents=True)
    (scripts.place / "run" / "logs" / "process-0.log").symlink_to(scripts.victim)
    done = scripts.run("tpu_worker.sh", "start", "run", "train", "--workdir=run")
    assert done.returncode == 2 and "process-0.log is a link" in done.stderr
