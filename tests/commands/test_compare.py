"""`s2sjax compare`: what differs, what was measured, curves; run directories of strangers are only read."""

import json
import os

import numpy as np
import pytest

from s2sjax.cli import run_command
from s2sjax.experiment import base_config, resolve, save
from s2sjax.runs.comparison import differing_keys, read_run, rows
from tests.hostile import forbid


def write_run(place, name, *, seed=0, family="hmm", metric="loss", shift=0.0, seconds=True, **overrides):
    config = base_config(family)
    config.seed, config.checkpoint.metric = seed, metric
    for key, value in overrides.items():
        section, _, field = key.partition("__")
        config[section][field] = value
    workdir = place / name
    (workdir / "results").mkdir(parents=True)
    save(resolve(config), workdir / "config.json")
    lines = []
    for step in range(10, 60, 10):
        when = {"time": "2026-11-27T10:00:00Z", "seconds": step / 2} if seconds else {}
        lines.append({"step": step, "kind": "train", **when, "loss": 5 - step / 20 + shift})
        if step % 20 == 0:
            lines.append(
                {"step": step, "kind": "validation", **when, "loss": 3 + shift + (step == 40), "bleu": step / 2}
            )
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (workdir / "results" / "test.json").write_text(json.dumps({"loss": 3.5 + shift, "bleu": 20.0, "signature": "x"}))
    return workdir


def compare(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        run_command(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


def test_seeds_are_compared_with_mean_and_deviation(tmp_path, capsys):
    runs = [write_run(tmp_path, f"seed-{seed}", seed=seed, shift=seed / 10) for seed in range(3)]
    code, out, _ = compare(capsys, *runs)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and lines[0][:3] == ["seed-0", "seed-1", "seed-2"] and lines[0][3:] == ["mean", "±", "deviation"]
    assert ["seed", "0", "1", "2"] in lines
    test = lines[lines.index(["results/test.json"]) :]
    deviation = np.std([3.5, 3.6, 3.7], ddof=1)
    assert test[1] == ["loss", "3.5", "3.6", "3.7", "3.6", "±", f"{deviation:.2g}"]
    assert "signature" not in out


def test_numbers_that_cannot_be_averaged_or_drawn_are_shown_as_none(tmp_path, capsys):
    runs = [write_run(tmp_path, f"seed-{seed}", seed=seed) for seed in range(2)]
    for run in runs:
        with open(run / "metrics.jsonl", "a") as file:
            for kind, loss in (("train", 1e308), ("train", -1e308), ("validation", -1e308)):
                file.write(json.dumps({"step": 60, "kind": kind, "seconds": 1e308, "loss": loss, "bleu": 1e308}) + "\n")
        (run / "results" / "test.json").write_text(json.dumps({"loss": 1e308, "bleu": 20.0}))
    code, out, err = compare(capsys, *runs, f"--plot={tmp_path / 'curves.png'}")
    assert (code, err) == (0, "") and (tmp_path / "curves.png").stat().st_size
    assert max(map(len, out.splitlines())) < 80


def test_a_smoothed_loss_is_not_compared_with_another(tmp_path):
    runs = [
        read_run(write_run(tmp_path, str(smoothing), train__label_smoothing=smoothing), "") for smoothing in (0.0, 0.1)
    ]
    training = rows(runs)["training, last line"]
    assert (training["loss"], training["smoothed loss"]) == ([2.5, None], [None, 2.5])


def test_only_what_differs_in_the_config_is_shown_and_families_may_differ(tmp_path, capsys):
    one = write_run(tmp_path, "one", model__states=32)
    other = write_run(tmp_path, "other", family="lstm_lm", optimizer__learning_rate=0.5)
    runs = [read_run(one, "one"), read_run(other, "other")]
    keys = differing_keys(runs)
    assert {"model.name", "model.states", "model.width", "optimizer.learning_rate"} <= set(keys)
    assert not [key for key in keys if key.partition(".")[0] in ("data", "decode", "train", "seed")]
    assert rows(runs)["config"]["model.states"] == [32, None]
    assert "mean" not in compare(capsys, one, other)[1]


@pytest.mark.parametrize("metric, step", [("loss", 20), ("bleu", 40)])
def test_the_best_validation_is_by_the_metric_that_chooses_checkpoints(tmp_path, metric, step):
    best = read_run(write_run(tmp_path, "run", metric=metric), "run").best
    assert best["step"] == step


def test_json_holds_the_same(tmp_path, capsys):
    runs = [write_run(tmp_path, f"r{seed}", seed=seed) for seed in (0, 1)]
    found = json.loads(compare(capsys, *runs, "--format=json")[1])
    assert found["runs"] == [str(run) for run in runs] and found["config"] == {"seed": [0, 1]}
    assert found["training, last line"] == {"steps": [50, 50], "seconds": [25.0, 25.0], "smoothed loss": [2.5, 2.5]}


@pytest.mark.parametrize("by", ["steps", "seconds"])
def test_curves_of_all_runs_are_drawn_together(tmp_path, capsys, by):
    from matplotlib.image import imread

    runs = [write_run(tmp_path, f"a$b_{n}", seed=n, shift=n) for n in range(3)]
    write_run(tmp_path, "old", seconds=False)
    assert compare(capsys, *runs, tmp_path / "old", f"--plot={tmp_path / 'new' / 'c.png'}", f"--by={by}")[0] == 0
    picture = imread(tmp_path / "new" / "c.png")[:, :, :3]
    assert len({tuple(color) for color in picture.reshape(-1, 3).round(2)}) > 20, "something is drawn"


def test_metrics_of_older_runs_and_broken_lines_are_read_past(tmp_path, capsys):
    run = write_run(tmp_path, "run", seconds=False)
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'\xff\n[1]\n{"step": "x"}\n{"step": 1e400}\n' + b"[" * 5000 + b'\n{"step": 60, "ki')
    code, out, _ = compare(capsys, run)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and ["steps", "50"] in lines and ["seconds", "-"] in lines
    assert compare(capsys, run, "--by=seconds", f"--plot={tmp_path / 'c.png'}")[0] == 2
    (run / "metrics.jsonl").unlink()
    assert compare(capsys, run)[0] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no run is named: give the directories of one or more (s2sjax compare --help explains)"),
        (["{tmp}/none"], "none is not a run directory: there is no such directory"),
        (["{tmp}"], "it has no config.json"),
        (["{run}", "--plot={run}/config.json/x.png"], "cannot write"),
        (["{run}", "--by=hours"], "--by is 'hours'"),
        *[
            (["{run}", f"--plot={{tmp}}/{name}"], f"{name}', expected a name that ends in one of .png, .svg, .pdf")
            for name in ("curves.jpg", "curves", "curves.svgz", "png")
        ],
    ],
)
def test_a_mistake_is_a_message(tmp_path, capsys, arguments, message):
    run = write_run(tmp_path / "runs", "run")
    code, _, err = compare(capsys, *(argument.format(tmp=tmp_path, run=run) for argument in arguments))
    assert code == 2 and message in err and "Traceback" not in err


@pytest.mark.parametrize("name", ["metrics.jsonl", "results/test.json", "results"])
def test_a_link_in_a_run_directory_is_not_followed(tmp_path, capsys, name):
    run, other = write_run(tmp_path, "run"), write_run(tmp_path, "other", shift=7)
    path = run / name
    if path.is_dir():
        path.rename(tmp_path / "moved")
    else:
        path.unlink()
    os.symlink(other / name, path)
    code, out, _ = compare(capsys, run)
    assert code == 2 and out == ""


@pytest.mark.parametrize("name", ["metrics.jsonl", "results/test.json", "results", "config.json"])
def test_what_may_not_be_read_is_a_message(tmp_path, capsys, monkeypatch, name):
    run = write_run(tmp_path, "run")
    forbid(monkeypatch, os.path.basename(name))
    code, out, err = compare(capsys, run)
    assert (code, out) == (2, "") and f"{run / name}" in err and "Permission denied" in err


def test_text_of_a_stranger_does_not_steer_the_terminal(tmp_path, capsys):
    runs = [write_run(tmp_path, "a", data__name="\x1b[2Jx"), write_run(tmp_path, "b")]
    (runs[0] / "results" / "test.json").write_text('{"\\u001b[31mred": 1}')
    assert "\x1b" not in compare(capsys, *runs)[1]
