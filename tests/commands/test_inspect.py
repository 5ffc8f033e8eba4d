"""`s2sjax inspect`: what it prints, with and without data, of devices that are there and of others."""

import json
import subprocess

import pytest

from s2sjax.cli import run_command
from tests.tiny import command, config_file, environment, on_one_device, tiny, write_run, write_text

ROWS = {"batching__row_multiple": 16, "batching__tokens": 256}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("inspect")


@pytest.fixture(scope="module", autouse=True)
def setting(place):
    with on_one_device(place):
        yield


@pytest.fixture(scope="module")
def config(place):
    """Of a tiny hidden Markov model, on data that is there."""
    return config_file(place / "config.py", write_text(place / "data"), "hmm", train__label_smoothing=0.0, **ROWS)


def inspect(capsys, config, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        run_command(["inspect", f"--config={config}", *arguments])
    printed = capsys.readouterr()
    assert stopped.value.code == 0, printed.err
    return printed.out


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        run_command(["inspect", *(str(argument) for argument in arguments)])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_what_is_printed_needs_no_data_if_the_vocabulary_is_given(config, capsys):
    printed = inspect(capsys, config, "--vocab=50", "--config.data.dir=/nowhere", "--devices=1")
    assert printed.splitlines()[0] == "hmm, 472 parameters, float32, vocabulary 50"
    assert "on 1 cpu device; a batch of 16x(16+16) tokens, the longest rows that the config allows" in printed
    emission, total = (line for line in printed.splitlines() if line.startswith(("emission", "total")))
    assert emission.split() == ["emission", "8x50", "float32", "-,", "-", "1,600"]
    assert total.split() == ["total", "472", "1,888"]


def test_with_data_its_vocabulary_and_plan_are_taken(config, capsys):
    printed = inspect(capsys, config)
    assert "vocabulary 10" in printed.splitlines()[0], "six letters and what is special"
    assert "the only shape of its plan" in printed


def test_a_runs_own_tokenizers_are_used_as_those_that_it_was_given_may_be_gone(place, capsys):
    data = write_text(place / "data")
    options = {"tokenizer__kind": "bpe", "tokenizer__source_model": "/nowhere", "train__label_smoothing": 0.0}
    run = write_run(place / "run", tiny(data, "hmm", **options, **ROWS), {})
    (run / "data.json").write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        run_command(["inspect", f"--workdir={run}"])
    printed = capsys.readouterr()
    assert stopped.value.code == 0, printed.err
    assert "vocabulary 10" in printed.out.splitlines()[0]


def test_without_data_and_vocabulary_the_user_hears_of_both(config, capsys):
    message = refused(capsys, f"--config={config}", "--config.data.dir=/nowhere")
    assert "/nowhere" in message and "--vocab=" in message


def test_json_holds_what_the_tables_show(config, capsys):
    record = json.loads(inspect(capsys, config, "--vocab=50", "--devices=8", "--config.mesh.fsdp=8", "--format=json"))
    assert record["mesh"]["fsdp"] == 8
    assert record["memory"]["parameters"] == sum(p["bytes"] for p in record["parameters"])
    assert record["flops"]["total"] > 0 and "compiled" not in record


def test_the_step_is_compiled_for_more_devices_than_there_are(config, place):
    arguments = "--vocab=64", "--devices=16", "--config.mesh.fsdp=16", "--compile", "--format=json"
    done = subprocess.run(
        command("inspect", f"--config={config}", *arguments), env=environment(place / "cache"), capture_output=True,
        text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    compiled = json.loads(done.stdout)["compiled"]
    assert compiled["peak"] == sum(compiled[k] for k in ("arguments", "outputs", "temporaries")) - compiled["aliased"]
    assert {"all-reduce"} <= {row["kind"] for row in compiled["collectives"]}
    assert all(row["axes"] == ["fsdp"] for row in compiled["collectives"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--devices=many"], "--devices is 'many'"),
        (["--vocab=0"], "--vocab is '0'"),
        (["--format=xml"], "--format is 'xml'"),
        (["--vocab=50", "--devices=8", "--config.mesh.fsdp=3"], "does not fit 8 devices"),
        (["--vocab=50", "--config.mesh.fsbp=3"], "fsbp"),
    ],
)
def test_mistakes_are_answered_by_name(config, capsys, arguments, message):
    assert message in refused(capsys, f"--config={config}", *arguments)


def test_a_config_is_needed(capsys):
    assert "--config is missing" in refused(capsys)
