"""Several processes, real ones that share two cores, compute what one computes, stop together, and end together."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s2sjax import sharding
from tests.computation import compute
from tests.test_same_computation import FAMILIES, REMATERIALISED
from tests.tiny import (
    assert_same_state,
    command,
    compiling_once,
    config_file,
    environment,
    on_one_device,
    read_state,
    records,
    s2s,
    tiny,
    write_text,
)  # fmt: skip

PATIENCE = 8
"""Seconds after which a process that says nothing is lost."""


class Together:
    """Processes of one run, each with what it prints in files of its own; a context manager that leaves none behind."""

    def __init__(self, place: Path, *arguments: str, count: int = 2, devices: int = 1) -> None:
        """Args:
        arguments: a command; `{process}` in them is a process's number.
        devices: of each process.
        """
        self.place, self.count = place, count
        place.mkdir(parents=True, exist_ok=True)
        with socket.socket() as listener:
            listener.bind(("", 0))
            port = listener.getsockname()[1]
        shared = environment(place.parent / "cache")
        shared["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
        self.processes = []
        for number in range(count):
            variables = {
                "S2SJAX_COORDINATOR": f"127.0.0.1:{port}", "S2SJAX_PROCESSES": str(count),
                "S2SJAX_PROCESS": str(number), "S2SJAX_PEER_TIMEOUT": str(PATIENCE),
            }  # fmt: skip
            with open(place / f"out{number}", "wb") as out, open(place / f"err{number}", "wb") as err:
                given = [argument.replace("{process}", str(number)) for argument in arguments]
                self.processes.append(subprocess.Popen(given, env=shared | variables, stdout=out, stderr=err))

    def __enter__(self) -> "Together":
        return self

    def __exit__(self, *exception) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self, *numbers: int) -> list[int]:
        """Exit codes of these processes, or of all."""
        return [self.processes[n].wait(timeout=800) for n in numbers or range(self.count)]

    def out(self, number: int = 0) -> str:
        return (self.place / f"out{number}").read_text()

    def err(self, number: int = 0) -> str:
        return (self.place / f"err{number}").read_text(errors="replace")

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something that they do."""
        end = time.monotonic() + 600
        while not happened():
            assert time.monotonic() < end, "nothing happened\n" + self.err()
            assert all(process.poll() is None for process in self.processes), self.everything()
            time.sleep(0.01)

    def everything(self) -> str:
        return "\n".join(f"== process {n}: {p.poll()}\n{self.err(n)}" for n, p in enumerate(self.processes))


def run(place: Path, *arguments: str, count: int = 2, devices: int = 1) -> Together:
    """s2sjax, to the end, and well."""
    with Together(place, *command(*arguments), count=count, devices=devices) as together:
        codes = together.wait()
        assert codes == [0] * count, together.everything()
        return together


def losses(workdir: Path, kind: str = "train") -> list[float]:
    return [record["loss"] for record in records(workdir, kind)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("processes")
    write_text(place / "data")
    return place


@pytest.fixture(scope="module")
def trained(place) -> Path:
    """Six steps by two processes."""
    config = config_file(
        place / "six.py", place / "data", "lstm_lm", model__dropout=0.2, train__steps=6, evaluate__every_steps=6,
    )  # fmt: skip
    together = run(place / "six.run", "train", f"--config={config}", f"--workdir={place}/six")
    assert re.search(r"on 2 cpu devices", together.err())
    assert together.out() == together.out(1) == "", "no output but of this program"
    assert "step 6/6" in together.err() and "step" not in together.err(1), "process 0 speaks"
    return place / "six"


@pytest.mark.timeout(600)
def test_two_processes_train_as_one_does(place, trained):
    with on_one_device(place / "one.cache"):
        assert s2s("train", f"--config={place}/six.py", f"--workdir={place}/one") == 0
    np.testing.assert_allclose(losses(trained), losses(place / "one"), rtol=1e-5)
    np.testing.assert_allclose(losses(trained, "validation"), losses(place / "one", "validation"), rtol=1e-5)
    assert [record["step"] for record in records(trained)] == [1, 2, 3, 4, 5, 6], "each line once"
    assert read_state(trained)["step"] == 6


@pytest.mark.parametrize("axes, processes, expected", [
    ({"data": 8}, 2, [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]]),
    ({"data": 1, "tensor": 8}, 2, [list(range(16))] * 2),
    ({"data": 2, "sequence": 2, "tensor": 2}, 4, [[*range(4)], [*range(4, 8)], [*range(8, 12)], [*range(12, 16)]]),
    ({"data": 2, "tensor": 4}, 4, [[*range(8)], [*range(8)], [*range(8, 16)], [*range(8, 16)]]),
])  # fmt: skip
def test_the_mesh_says_which_rows_a_process_reads(axes, processes, expected, monkeypatch):
    place = sharding.batch_sharding(sharding.make_mesh(sharding.MeshConfig(**axes)))
    whole = place.devices_indices_map((16,))
    each = len(place.mesh.devices.flat) // processes
    for number, rows in enumerate(expected):
        mine = [device for device in whole if device.id // each == number]
        monkeypatch.setattr(
            type(place), "addressable_devices_indices_map", lambda self, shape: {d: whole[d] for d in mine}  # noqa: B023
        )  # fmt: skip
        assert sharding.rows_here(place, 16).tolist() == rows
        monkeypatch.undo()


def computed(place: Path, name: str, cases: list, count: int) -> list[dict]:
    """What several processes compute of these cases, (family, overrides) each."""
    arguments = [sys.executable, "-m", "tests.computed_by_processes", str(place / "data"), json.dumps(cases)]
    with Together(place / name, *arguments, count=count) as together:
        assert together.wait() == [0] * count, together.everything()
        return [json.loads(line) for line in together.out().splitlines() if line.startswith("{")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.grid(3)
@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("count", [2, 4])
def test_thirty_steps_have_the_losses_and_the_batches_of_one_process(place, count, part):
    """Every third of the models and meshes."""
    meshes = {2: [{}, {"mesh__fsdp": 2}], 4: [{}, {"mesh__data": 2, "mesh__tensor": 2}]}[count]
    meshes = [(FAMILIES[name], mesh) for name in FAMILIES for mesh in meshes[: 1 + (name in ("lstm", "transformer"))]]
    meshes += [(FAMILIES["transformer"], {"mesh__sequence": 2, "mesh__data": count // 2})]
    meshes += [(REMATERIALISED["transformer, scan"], {"mesh__fsdp": count, "mesh__data": 1})]  # layers gathered in turn
    cases = [
        (family, {"batching__row_multiple": 8, "train__steps": 30, **options, **mesh})
        for (family, options), mesh in meshes[part::3]
    ]
    made = computed(place, f"thirty{count}-{part}", cases, count)
    for case, got in zip(cases, made, strict=True):
        family, options = case
        alone = {name: value for name, value in options.items() if not name.startswith("mesh__")}
        with compiling_once(place / "xla"):
            expected = compute(tiny(place / "data", family, **alone), 1)
        assert got["batches"] == expected.batches
        np.testing.assert_allclose(got["losses"], expected.losses, rtol=1e-5, err_msg=str(case))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_goes_on_with_half_the_processes_and_again_with_half_the_devices(place):
    settings = {"model__dropout": 0.2, "batching__buckets": 2, "batching__row_multiple": 8, "checkpoint__keep_last": 9}
    config = config_file(place / "halves.py", place / "data", **settings, train__steps=30)
    run(place / "halves-one.run", "train", f"--config={config}", f"--workdir={place}/halves-one", count=1)
    for number, (steps, count, devices) in enumerate([(10, 4, 2), (20, 2, 2), (30, 2, 1)]):
        run(
            place / f"halves{number}.run", "train", f"--config={config}", f"--workdir={place}/halves",
            f"--config.train.steps={steps}", count=count, devices=devices,
        )  # fmt: skip
    assert len(losses(place / "halves")) == 30
    np.testing.assert_allclose(losses(place / "halves"), losses(place / "halves-one"), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_validate_and_decode_what_they_store_in_parts(place):
    settings = {"train__steps": 4, "evaluate__every_steps": 2, "evaluate__decode": True, "evaluate__samples": 2}
    config = config_file(place / "parts.py", place / "data", decode__beam_size=2, **settings)
    made = {}
    for count in (1, 2):
        workdir = place / f"parts{count}"
        flags = f"--config={config}", f"--workdir={workdir}", f"--config.mesh.fsdp={count}"
        run(place / f"parts{count}.run", "train", *flags, count=count)
        validated = records(workdir, "validation")
        assert [each["step"] for each in validated] == [2, 4] and all("chrf" in each for each in validated)
        assert (workdir / "plots" / "attention_2.png").is_file()
        made[count] = validated, (workdir / "samples.jsonl").read_text()
    assert made[2][1] == made[1][1]
    for one, two in zip(made[1][0], made[2][0], strict=True):
        for record in (one, two):  # when it was said; what remains are numbers
            del record["time"], record["seconds"], record["kind"]
        assert two == pytest.approx(one, rel=1e-5)


SEARCH = ("--config.decode.beam_size=4", "--config.decode.nbest=4", "--config.decode.batch_size=6")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_and_four_processes_decode_score_and_evaluate_as_one(place, trained):
    data = place / "data"
    (place / "blank.src").write_text("abc\n\n" + (data / "test.src").read_text())
    made: dict[int, list] = {}
    for count in (1, 2, 4):
        each = place / f"results-{count}"
        output = each / "decoded.jsonl"
        read = (f"--input={place}/blank.src", f"--output={output}", "--format=jsonl", *SEARCH)
        run(each / "decode", "decode", f"--workdir={trained}", *read, count=count)
        pairs = (f"--source={data}/test.src", f"--target={data}/test.tgt")
        scored = run(each / "score", "score", f"--workdir={trained}", *pairs, count=count)
        table = run(each / "evaluate", "evaluate", f"--workdir={trained}", count=count)
        assert table.out().startswith(str(trained))
        assert all(not table.out(n) and not scored.out(n) for n in range(1, count)), "only process 0 writes"
        results = json.loads((trained / "results" / "test.json").read_text())
        del results["seconds"]
        entries = [json.loads(line) for line in output.read_text().splitlines()]
        texts = [[h["text"] for h in entry["hypotheses"]] for entry in entries]
        assert [entry["source"] for entry in entries] == (place / "blank.src").read_text().splitlines()
        made[count] = [texts, [float(line) for line in scored.out().split()], results]
    for count in (2, 4):
        assert made[count][0] == made[1][0]
        np.testing.assert_allclose(made[count][1], made[1][1], rtol=1e-5)
        for name, value in made[1][2].items():
            assert made[count][2][name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5)), name


LONG = {
    "model__dropout": 0.2, "train__steps": 150, "train__ema_decay": 0.99, "checkpoint__every_steps": 5, "mesh__fsdp": 2,
    "evaluate__every_steps": 60,
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(place) -> Path:
    config = config_file(place / "long.py", place / "data", **LONG)
    run(place / "undisturbed.run", "train", f"--config={config}", f"--workdir={place}/undisturbed")
    return place / "undisturbed"


def begin(place: Path, name: str) -> Together:
    return Together(place / f"{name}.run", *command("train", f"--config={place}/long.py", f"--workdir={place / name}"))


def saved(workdir: Path) -> int:
    return max((int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*")), default=0)


def finish_and_compare(place: Path, name: str, undisturbed: Path) -> None:
    run(place / f"{name}-again.run", "train", f"--config={place}/long.py", f"--workdir={place / name}")
    assert_same_state(undisturbed, place / name)
    assert losses(undisturbed) == losses(place / name)
    assert losses(undisturbed, "validation") == losses(place / name, "validation")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_signal_to_one_process_stops_all_at_one_step_and_nothing_is_lost(place, undisturbed):
    name, told = "told", 1
    with begin(place, name) as together:
        together.until(lambda: saved(place / name) >= 10)
        together.processes[told].send_signal(signal.SIGTERM)
        assert together.wait() == [75, 75], together.everything()
        stopped = int(re.findall(r"stopped at step (\d+), which is saved", together.err())[-1])
    assert saved(place / name) == stopped < 150
    finish_and_compare(place, name, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_the_other_by_name_and_nothing_is_lost(place, undisturbed, lost):
    name = f"killed{lost}"
    with begin(place, name) as together:
        together.until(lambda: saved(place / name) >= 20)
        together.processes[lost].kill()
        began = time.monotonic()
        assert together.wait(1 - lost) == [76], together.everything()
        assert time.monotonic() - began < PATIENCE, "a connection that closes is noticed at once"
        pid = together.processes[lost].pid
        words = rf"s2sjax: process {lost} \(\S+, pid {pid}\) has died; step (\d+) was the last begun here"
        said = re.findall(words, together.err(1 - lost))
        assert len(said) == 1 and 20 <= int(said[0]) <= 150, together.everything()
    finish_and_compare(place, name, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stuck", [0, 1])
def test_a_process_that_stands_still_ends_the_other_by_name(place, undisturbed, stuck):
    name = f"stuck{stuck}"
    with begin(place, name) as together:
        together.until(lambda: saved(place / name) >= 10)
        together.processes[stuck].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert together.wait(1 - stuck) == [76], together.everything()
        assert PATIENCE - 2 < time.monotonic() - began < 3 * PATIENCE
        pid = together.processes[stuck].pid
        assert re.search(
            rf"process {stuck} \(\S+, pid {pid}\) has not answered for {PATIENCE} s; step \d+ was the last begun here",
            together.err(1 - stuck),
        ), together.everything()
        together.processes[stuck].send_signal(signal.SIGCONT)
        assert together.wait(stuck) == [76], "who comes back finds the others gone"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_directory_that_hosts_do_not_share_is_refused(place):
    config = config_file(place / "apart.py", place / "data", train__steps=6)
    with Together(
        place / "apart.run", *command("train", f"--config={config}", f"--workdir={place}/apart{{process}}")
    ) as together:
        assert together.wait() == [2, 2], together.everything()
        said = together.err(0) + together.err(1)
        assert len(re.findall(r"process 1 \(\S+\) does not see the \S+ of process 0", said)) == 1, together.everything()
        assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("wrong", [0, 1])
def test_a_mistake_that_one_process_sees_is_said_once_and_ends_all(place, wrong):
    config_file(place / f"mistake{wrong}-{1 - wrong}.py", place / "data", train__steps=6)  # the other has none
    given = (f"--config={place}/mistake{wrong}-{{process}}.py", f"--workdir={place}/none")
    with Together(place / f"mistake{wrong}.run", *command("train", *given)) as together:
        assert together.wait() == [2, 2], together.everything()
        said = together.err(0) + together.err(1)
        assert said.count("there is no config file") == 1 and "there is no config file" in together.err(0)
        assert "Traceback" not in said
    assert not (place / "none").exists()
