"""`s2sjax average`: what it prints, and what it answers to mistakes."""

import pytest

from tests.tiny import on_devices, random_state, s2s, tiny, write_run, write_text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("average")
    experiment = tiny(write_text(place / "data", train=8, held_out=4), "hmm", train__ema_decay=0.9)
    states = {step: (random_state(experiment, step), {"loss": float(step)}) for step in (1, 2, 3)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S2SJAX_CACHE", str(place / "cache"))
        on_devices(patch, 1)
        yield write_run(place / "run", experiment, states)


def test_it_prints_which_parameters_of_which_steps_were_averaged(run, tmp_path, capsys):
    assert s2s("average", f"--workdir={run}", f"--output={tmp_path / 'a'}", "--best=2") == 0
    parameters = "moving average of the parameters (config.train.ema_decay=0.9)"
    assert capsys.readouterr().out == (
        f"{tmp_path / 'a'}: the {parameters} of {run}, best 2 by loss:\n  step 1: 0.5\n  step 2: 0.5\n"
    )
    assert s2s("average", f"--workdir={run}", f"--output={tmp_path / 'b'}", "--ema=0.5") == 0
    assert capsys.readouterr().out.endswith("ema 0.5:\n  step 1: 0.1429\n  step 2: 0.2857\n  step 3: 0.5714\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--last=2"], "--output is missing"),
        (["--output={tmp}/out"], "by exactly one of last=N, best=N and ema=DECAY"),
        (["--output={tmp}/out", "--last=2", "--ema=0.5"], "by exactly one of"),
        (["--output={tmp}/out", "--last=two"], "--last is 'two', expected a whole number"),
        (["--output={tmp}/out", "--ema=much"], "--ema is 'much', expected a number"),
        (["--output={tmp}/out", "--last=0"], "last is 0, expected at least 1"),
        (["--output={tmp}/out", "--last=9"], "has 3 checkpoints (1, 2, 3), of which the last 9"),
        (["--output={run}", "--last=1"], "run exists already"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(run, tmp_path, capsys, arguments, message):
    assert s2s("average", f"--workdir={run}", *(a.format(tmp=tmp_path, run=run) for a in arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("s2sjax: ") and message in said and "Traceback" not in said
