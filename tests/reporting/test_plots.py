import json
import math
import os
import warnings

import numpy as np
import pytest

from s2sjax.errors import UserError
from s2sjax.reporting import plots
from s2sjax.reporting.plots import attention_map, compared_curves, learning_curves


def write(path, *records, tail=""):
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail, encoding="utf-8")
    return path


def read_png(path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)


@pytest.fixture
def figure(monkeypatch):
    """The matplotlib figure of the last picture saved."""
    seen = []
    monkeypatch.setattr(plots, "_save", lambda figure, *_: seen.append(figure))
    return seen


def test_learning_curves_have_a_panel_for_each_kind_of_number(tmp_path, figure):
    train = [{"step": s, "kind": "train", "loss": 9 / s, "learning_rate": s * 1e-4} for s in range(1, 9)]
    for record in train:
        record["perplexity"] = math.exp(record["loss"])
    validation = [{"step": s, "kind": "validation", "loss": 8 / s, "bleu": 4.0 * s} for s in (4, 8)]
    learning_curves(write(tmp_path / "metrics.jsonl", *train, *validation), tmp_path / "curves.png")
    loss, scores, rate = figure[0].axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    assert list(loss.lines[1].get_xdata()) == [4, 8] and list(loss.lines[1].get_ydata()) == [2, 1]
    assert [line.get_label() for line in scores.lines] == ["BLEU 32.0"]
    assert list(rate.lines[0].get_ydata()) == [record["learning_rate"] for record in train]
    labels = [axes.get_ylabel() for axes in figure[0].axes]
    assert labels == ["loss (nats per token)", "validation (%)", "learning rate"]
    assert rate.get_xlabel() == "step (updates)"


def test_a_smoothed_loss_is_drawn_beside_the_plain_one_and_called_so(tmp_path, figure):
    train = [{"step": s, "kind": "train", "loss": 2.0 / s + 0.5, "perplexity": math.exp(2.0 / s)} for s in (1, 2)]
    metrics = write(tmp_path / "m.jsonl", *train, {"step": 2, "kind": "validation", "loss": 1.5})
    learning_curves(metrics, tmp_path / "curves.png", smoothing=0.1)
    lines = {line.get_label(): list(line.get_ydata()) for line in figure[0].axes[0].lines}
    assert lines == {
        "training": pytest.approx([2.0, 1.0]), "validation": [1.5],
        "training as optimised, with label smoothing 0.1": [2.5, 1.5],
    }  # fmt: skip


def test_compared_runs_share_a_panel_only_where_their_numbers_compare(tmp_path, figure):
    """One run is smoothed and the other is not."""
    plain, smoothed = ([{"step": 1, "loss": 2.0 + extra, "perplexity": math.exp(2.0)}] for extra in (0.0, 0.5))
    validation = [{"step": 1, "loss": 1.0, "bleu": 20.0, "character_error_rate": 0.0, "perplexity": 3.0}]
    compared_curves({"a": (plain, validation), "b": (smoothed, validation)}, tmp_path / "c.png", by="steps")
    drawn = {axes.get_title(loc="left"): axes for axes in figure[0].axes if axes.lines}
    assert [line.get_ydata() for line in drawn["training loss (nats per token)"].lines] == [pytest.approx([2.0])] * 2
    (only,) = drawn["training loss as optimised: with label smoothing, auxiliary terms"].lines
    assert only.get_label() == "b" and only.get_ydata() == [2.5]
    assert {"validation BLEU (%)", "validation character error rate (%)", "validation perplexity"} < drawn.keys()


@pytest.mark.parametrize("values", [(100.0, 100.0), (0.0, 0.0), (99.0, 100.0), (0.0, 100.0), (20.0, 140.0)])
def test_a_panel_of_percent_ends_where_percent_ends(tmp_path, figure, values):
    records = [{"step": s, "kind": "validation", "loss": 1.0, "ter": value} for s, value in enumerate(values)]
    learning_curves(write(tmp_path / "m.jsonl", *records), tmp_path / "curves.png")
    axes = figure[0].axes[1]
    low, high = axes.get_ylim()
    assert low <= min(values) and max(values) <= high and axes.get_ylabel() == "validation (%)"
    if max(values) <= 100:
        assert low > -5 and high < 105 and {t for t in axes.get_yticks() if low <= t <= high}


@pytest.mark.parametrize(
    "kind, begins", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")]
)
def test_a_picture_is_what_its_name_ends_in_and_always_the_same(tmp_path, kind, begins):
    runs = {"a": ([{"step": 1, "loss": 2.0}], [])}
    for name in ("one", "two"):
        compared_curves(runs, tmp_path / f"{name}.{kind}", by="steps")
    one, two = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("one", "two"))
    assert one.startswith(begins) and one == two


def test_other_scores_are_drawn_too_and_error_rates_where_there_is_no_score(tmp_path, figure):
    def labels(**metrics):
        records = [{"step": s, "kind": "validation", "loss": 8 / s, **metrics} for s in (4, 8)]
        learning_curves(write(tmp_path / "m.jsonl", *records), tmp_path / "curves.png")
        return [line.get_label() for line in figure[-1].axes[1].lines]

    assert labels(rougeL=20.0, exact_match=5.0, ter=70.0) == ["exact match 5.0", "ROUGE-L 20.0"]
    assert labels(ter=70.0, character_error_rate=40.0) == ["TER 70.0", "character error rate 40.0"]


def test_what_was_not_recorded_or_not_finite_is_left_out(tmp_path, figure):
    records = [{"step": s, "kind": "train", "loss": None if s == 2 else 1.0} for s in (1, 2, 3)]
    learning_curves(write(tmp_path / "m.jsonl", *records, tail='{"step": 4, "ki'), tmp_path / "curves.png")
    (axes,) = figure[0].axes
    assert list(axes.lines[0].get_xdata()) == [1, 3]


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize("name", ["step", "loss", "bleu", "learning_rate"])
@pytest.mark.parametrize("values", [(1e308, -1e308), (-1e300, 9e29), (9e29, -9e29), (5e-324, 1e-323)])
def test_numbers_of_any_size_draw_a_picture(tmp_path, name, values):
    records = [
        {"step": step, "kind": kind, "loss": 1.0, "bleu": 2.0, "learning_rate": 0.1, name: value}
        for kind in ("train", "validation")
        for step, value in zip((1, 2, 3), (*values, 1.0), strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learning_curves(write(tmp_path / "m.jsonl", *records), tmp_path / "curves.png")
    assert read_png(tmp_path / "curves.png").size


def test_metrics_that_are_missing_empty_or_broken_are_a_users_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read as the metrics of a run: .*No such file"):
        learning_curves(tmp_path / "none.jsonl", tmp_path / "curves.png")
    with pytest.raises(UserError, match="holds no metrics yet"):
        learning_curves(write(tmp_path / "empty.jsonl"), tmp_path / "curves.png")
    with pytest.raises(UserError, match="holds no metrics yet"):
        learning_curves(write(tmp_path / "broken.jsonl", tail="{oops}\n"), tmp_path / "curves.png")


def test_lines_that_are_none_cost_themselves_and_not_the_picture(tmp_path, figure):
    lines = ["{oops}", "[1]", '{"step": 2}', '{"step": "x", "kind": "train"}']
    lines += [
        '{"step": 1e999, "kind": "train"}',
        "[" * 9999,
        '{"step": 2, "kind": "other", "loss": 1}',
    ]
    records = [{"step": n, "kind": "train", "loss": 1.0 / n} for n in (1, 4)]
    records.append({"step": 5, "kind": "train", "loss": "a"})  # a line, of which the loss is none
    metrics = write(tmp_path / "m.jsonl", *records, tail="\n".join([*lines, "{cut"]))
    assert learning_curves(metrics, tmp_path / "curves.png") == len(lines)
    assert list(figure[0].axes[0].lines[0].get_xdata()) == [1, 4]


def test_the_records_of_a_million_steps_are_drawn_and_a_file_without_end_is_refused(tmp_path, figure):
    """The hole between the lines takes no room on the disk."""
    records = [{"step": n, "kind": "train", "loss": 1.0 / n} for n in (1, 4)]
    metrics = write(tmp_path / "m.jsonl", records[0])
    with open(metrics, "r+b") as file:
        file.seek(300 << 20)
        file.write(b"\n" + json.dumps(records[1]).encode())
    assert learning_curves(metrics, tmp_path / "curves.png") == 1
    assert list(figure[0].axes[0].lines[0].get_xdata()) == [1, 4]
    os.truncate(metrics, 2 << 30)
    with pytest.raises(UserError, match="has 2,147,483,648 bytes, expected at most 1,073,741,824"):
        learning_curves(metrics, tmp_path / "curves.png")


def test_pictures_are_png_files_that_show_something(tmp_path):
    metrics = write(tmp_path / "metrics.jsonl", {"step": 1, "kind": "validation", "loss": 1.0})
    learning_curves(metrics, tmp_path / "plots" / "curves.png")
    attention_map(["a", "b", "c"], ["x", "y"], np.eye(2, 3), tmp_path / "plots" / "map.png", "title")
    for name in ("curves.png", "map.png"):
        pixels = read_png(tmp_path / "plots" / name)
        assert min(pixels.shape[:2]) > 100 and pixels[..., :3].std() > 0.01
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["curves.png", "map.png"]


def test_rows_are_target_pieces_and_columns_source_pieces(tmp_path, figure):
    weights = np.array([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]])
    attention_map(["a", "$b$", "c"], ["x", "y"], weights, tmp_path / "map.png")
    axes = figure[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "$b$", "c"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())  # a dollar is a dollar
    assert np.array_equal(axes.images[0].get_array(), weights)
    with pytest.raises(AssertionError, match="a row a target piece"):
        attention_map(["a", "b"], ["x", "y", "z"], weights, tmp_path / "map.png")


def test_scripts_that_no_font_has_are_spelled_and_nothing_is_warned_of(tmp_path, monkeypatch):
    regular = plots._regular_fonts()
    monkeypatch.setattr(plots, "_regular_fonts", lambda: {"DejaVu Sans": regular["DejaVu Sans"]})
    pieces = ["▁март", "年月", "मार्च", "مارس", "a\u202f\x07b", "\U000f0000", "", " ", "x" * 40]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attention_map(pieces, pieces[::-1], np.eye(len(pieces)), tmp_path / "map.png", "title 年")
    families, shown = plots._displayable(pieces)
    assert families == ["DejaVu Sans"]
    assert shown[:2] == ["▁март", "U+5E74 U+6708"] and shown[3] == "مارس" and "U+0007" in shown[4]
    assert shown[5] == "U+F0000"


def test_an_installed_font_is_used_where_the_default_has_no_glyph(monkeypatch):
    coverage = {"DejaVu Sans": {97}, "Aaa": {97, 98}, "Bbb": {24180}, "Noto Sans CJK JP": {24180}}
    monkeypatch.setattr(plots, "_regular_fonts", lambda: dict.fromkeys(coverage, "file"))
    monkeypatch.setattr(plots, "_coverage", lambda family: frozenset(coverage[family]))
    assert plots._displayable(["a年"]) == (["DejaVu Sans", "Noto Sans CJK JP"], ["a年"])
    assert plots._displayable(["a"]) == (["DejaVu Sans"], ["a"])
