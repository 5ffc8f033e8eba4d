"""Pictures for the workdir: learning curves, and the attention between a source and its translation.

Drawn with matplotlib's Agg canvas, without pyplot and so without global state, a display, or a thread of its own.
A picture is renamed into place when it is whole. `inside` is the run directory that a picture belongs to, in which no
link is followed; without it, the picture's place is the user's choice.
"""

import functools
import io
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s2sjax.errors import UserError
from s2sjax.files import rundir
from s2sjax.files.paths import configure_matplotlib
from s2sjax.metrics.names import METRICS, TEXT_METRICS
from s2sjax.reporting.history import is_number, read_history

_STYLE: Any = {
    "figure.facecolor": "white",
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "s2sjax",
}
FORMATS = ("png", "svg", "pdf")
"""What a picture can be; the end of its file's name says which."""
_BLUE, _PALE, _ORANGE, _GREEN, _GREY = "#2f6db3", "#8db6de", "#d9772b", "#3a923a", "#666666"
_COLORS = {"bleu": _BLUE, "chrf": _GREEN, "exact_match": _ORANGE}
_OTHER_COLORS = ("C4", "C5", "C3", "C6", "C8", "C9")
_TITLES = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2",
           "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}  # fmt: skip
_DEFAULT_FONT = "DejaVu Sans"
# Longer pieces than this would leave no room for the picture.
_LABEL_LENGTH = 24


def check_format(path: Path, where: str) -> None:
    """Raise a `UserError` unless the end of a picture's name is one of `FORMATS`."""
    if path.suffix[1:].lower() not in FORMATS:
        named = ", ".join(f".{each}" for each in FORMATS)
        raise UserError(f"{where} is '{path}', expected a name that ends in one of {named}")


def learning_curves(metrics_jsonl: Path, out: Path, *, smoothing: float = 0.0, inside: Path | None = None) -> int:
    """Draw what a run recorded: loss, and where there are any scores and learning rate, against the step.

    Training's loss is that of the targets as they are, which validation's is too. What is optimised is drawn beside it
    where it is something else, and says so.

    Returns how many lines were passed over because they cannot be read, a last one that is not whole not counted.

    Args:
        metrics_jsonl: written by `report.Reporter`.
        out: a picture of one of `FORMATS`, whose directory is made.
        smoothing: label smoothing of the loss that is optimised.

    Raises:
        UserError: nothing was recorded yet, or it cannot be read.
        OSError: the picture cannot be written.
    """
    configure_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    try:
        history = read_history(metrics_jsonl)
    except OSError as error:
        raise UserError(f"{metrics_jsonl} cannot be read as the metrics of a run: {error.strerror}") from error
    train, validation = history.train, history.validation
    if not train and not validation:
        raise UserError(f"{metrics_jsonl} holds no metrics yet")
    # Scores, which grow; and where there are none, the error rates.
    for sign in (-1, 1):
        names = [name for name in TEXT_METRICS if METRICS[name].sign == sign]
        scores = [(_series(validation, name), *_drawn_as(name, number)) for number, name in enumerate(names)]
        if scores := [score for score in scores if score[0][0]]:
            break
    rates = _series(train, "learning_rate")
    heights = [3.0, *([2.0] if scores else []), *([1.2] if rates[0] else [])]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 1.0 + sum(heights)), dpi=120, layout="constrained")
        panels = iter(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
        axes = next(panels)
        _draw(axes, _loss(train), "training", _BLUE, marker=None)
        why = f"label smoothing {smoothing:g}" if smoothing else "auxiliary terms"
        _draw(axes, _optimised(train), f"training as optimised, with {why}", _PALE, marker=None)
        _draw(axes, _series(validation, "loss"), "validation", _ORANGE)
        axes.set_ylabel("loss (nats per token)")
        _legend(axes)
        if scores:
            axes = next(panels)
            for series, label, color in scores:
                _draw(axes, series, f"{label} {series[1][-1]:.1f}", color)
            axes.set_ylabel("validation (%)")
            _within_percent(axes)
            _legend(axes)
        if rates[0]:
            axes = next(panels)
            _draw(axes, rates, "learning rate", _GREY, marker=None)
            axes.set_ylabel("learning rate")
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
            axes.set_ylim(bottom=0)
        axes.set_xlabel("step (updates)")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.margins(x=0.01)
        _save(figure, out, inside)
    return history.bad


def _drawn_as(name: str, number: int) -> tuple[str, str]:
    """The label and the colour of a score."""
    return _title(name), _COLORS.get(name, _OTHER_COLORS[number % len(_OTHER_COLORS)])


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


def _within_percent(axes: Any) -> None:
    """Show nothing below 0 % and above 100 % where no curve is there, but for half a marker."""
    low, high = axes.get_ylim()
    values = [value for line in axes.lines for value in line.get_ydata()]
    if min(values) >= 0 and max(values) <= 100:
        edge = 0.03 * (high - low)
        axes.set_ylim(max(low, -edge), min(high, 100 + edge))


def _loss(train: Iterable[Mapping[str, Any]], along: str = "step") -> tuple[list[float], list[float]]:
    """Training's loss of the targets as they are, in nats a token: the logarithm of its perplexity."""
    return _series([{**record, "loss": _plain_loss(record)} for record in train], "loss", along)


def _optimised(train: Sequence[Mapping[str, Any]], along: str = "step") -> tuple[list[float], list[float]]:
    """The loss that is optimised; empty where it is none but that of `_loss`."""
    pairs = [(record.get("loss"), _plain_loss(record)) for record in train]
    known = [(loss, plain) for loss, plain in pairs if is_number(loss) and is_number(plain)]
    other = any(not math.isclose(loss, plain, rel_tol=1e-4, abs_tol=1e-6) for loss, plain in known)
    return _series(train, "loss", along) if other else ([], [])


def _plain_loss(record: Mapping[str, Any]) -> Any:
    perplexity = record.get("perplexity", record.get("loss"))
    if "perplexity" not in record or not is_number(perplexity):
        return perplexity
    return math.log(perplexity) if perplexity > 0 else None


def compared_curves(
    runs: Mapping[str, tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]], out: Path, *, by: str
) -> None:
    """Draw the losses and the validation scores of several runs into one picture.

    Args:
        runs: by name, their records of training and of validation.
        out: a picture of one of `FORMATS`, whose directory is made.
        by: "steps", or "seconds" of training, which the records of older runs lack.

    Raises:
        UserError: there is nothing to draw, or the picture cannot be written.
    """
    configure_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    along = "step" if by == "steps" else "seconds"
    panels = {
        "training loss (nats per token)": {run: _loss(train, along) for run, (train, _) in runs.items()},
        "training loss as optimised: with label smoothing, auxiliary terms": {
            run: _optimised(train, along) for run, (train, _) in runs.items()
        },
    }
    for name in METRICS:
        unit = " (nats per token)" if name == "loss" else " (%)" if name in TEXT_METRICS else ""
        panels[f"validation {_title(name)}{unit}"] = {
            run: _series(validation, name, along) for run, (_, validation) in runs.items()
        }
    drawn = [(label, series) for label, series in panels.items() if any(points[0] for points in series.values())]
    if not drawn:
        raise UserError(f"none of {', '.join(runs)} has metrics by {by} to draw")
    families, labels = _displayable(list(runs))
    with matplotlib.rc_context(_STYLE | {"font.family": families}):
        rows = math.ceil(len(drawn) / 2)
        figure = Figure(figsize=(11, 0.6 + 0.22 * len(runs) + 3.0 * rows), dpi=120, layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False).ravel()
        colors: Any = matplotlib.color_sequences["tab10" if len(runs) <= 10 else "tab20"]
        for axes, (label, series) in zip(grid, drawn, strict=False):
            for number, points in enumerate(series.values()):
                marker = None if label.startswith("training") else "o"
                _draw(axes, points, labels[number], colors[number % len(colors)], marker=marker)
            if label.endswith("(%)"):
                _within_percent(axes)
            axes.set_title(label, fontsize=10, loc="left", color="#333333")
            axes.set_xlabel("step (updates)" if by == "steps" else "seconds of training")
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.margins(x=0.01)
        for axes in grid[len(drawn) :]:
            axes.set_visible(False)
        handles = [
            Line2D([], [], color=colors[number % len(colors)], label=label) for number, label in enumerate(labels)
        ]
        legend = figure.legend(handles=handles, loc="outside upper left", ncols=min(len(runs), 4))
        for text in legend.get_texts():
            text.set_parse_math(False)
        try:
            _save(figure, out, None)
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror}; give another --plot") from error


def attention_map(
    source_pieces: Sequence[str],
    target_pieces: Sequence[str],
    weights: np.ndarray,
    out: Path,
    title: str = "",
    *,
    inside: Path | None = None,
) -> None:
    """Draw how much each target piece attends to each source piece.

    Args:
        weights: `[T, S]`, rows of probabilities.
        out: a picture of one of `FORMATS`, whose directory is made.

    Raises:
        OSError: the picture cannot be written.
    """
    T, S = np.shape(weights)
    assert len(target_pieces) == T and len(source_pieces) == S, "a row a target piece, a column a source piece"
    axes = Matrix(source_pieces, target_pieces, "source", "target", "attention weight", title)
    _draw_matrix(axes, weights, out, inside)


def confusion_matrix(labels: Sequence[str], counts: np.ndarray, out: Path, *, inside: Path | None = None) -> None:
    """Draw which labels were taken for which.

    Args:
        counts: `[n, n]`: how often each label, a row, was taken for each, a column. Colours are shares of a row.
        out: a picture of one of `FORMATS`, whose directory is made.

    Raises:
        OSError: the picture cannot be written.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [f"{label} ({count:,})" for label, count in zip(labels, counts.sum(axis=1).tolist(), strict=True)]
    _draw_matrix(Matrix(labels, names, "predicted", "right", "share of the row"), shares, out, inside)


class Matrix(NamedTuple):
    """What stands beside a matrix that is drawn."""

    columns: Sequence[str]
    rows: Sequence[str]
    along: str
    """What columns are."""
    down: str
    """What rows are."""
    meaning: str
    """Of a cell's colour."""
    title: str = ""


def _draw_matrix(names: Matrix, weights: np.ndarray, out: Path, inside: Path | None) -> None:
    configure_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    T, S = np.shape(weights)
    title = names.title
    families, labels = _displayable([*names.columns, *names.rows, title])
    cell = 0.28  # inches; long sentences get a larger picture, to a limit
    longest = max(map(len, labels), default=0)
    margin = 0.6 + 0.08 * min(longest, _LABEL_LENGTH)
    size = (min(cell * S, 24) + margin + 1.4, min(cell * T, 24) + margin + 0.6)
    style: Any = _STYLE | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}
    with matplotlib.rc_context(style | {"font.family": families}):
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(weights, cmap="Blues", vmin=0, aspect="auto", interpolation="nearest")
        text: dict[str, Any] = {"fontsize": 9, "parse_math": False}  # a dollar is a dollar
        shown = [_shorten(label) for label in labels]
        axes.set_xticks(range(S), shown[:S], rotation=60, ha="left", rotation_mode="anchor", **text)
        axes.set_yticks(range(T), shown[S : S + T], **text)
        axes.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False, length=0, labelcolor="#222222")
        axes.set_xticks(np.arange(S + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(T + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#eeeeee", linewidth=0.5)
        axes.tick_params(which="minor", length=0)
        axes.xaxis.set_label_position("top")
        axes.set_xlabel(names.along)
        axes.set_ylabel(names.down)
        if title:
            figure.suptitle(labels[-1], fontsize=11, parse_math=False)
        bar = figure.colorbar(image, ax=axes, fraction=0.05, aspect=30, shrink=min(1.0, 4 / (cell * T)), pad=0.02)
        bar.set_label(names.meaning)
        bar.outline.set_visible(False)
        _save(figure, out, inside)


def _draw(axes: Any, series: tuple[list[float], list[float]], label: str, color: str, marker: str | None = "o") -> None:
    if series[0]:
        one = len(series[0]) == 1  # a line of one point would not be seen
        axes.plot(*series, label=label, color=color, marker="o" if one else marker, markersize=4, linewidth=1.5)


def _legend(axes: Any) -> None:
    """In one row above the panel, where no curve can run through it."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0, borderpad=0.3)


def _save(figure: Any, out: Path, inside: Path | None) -> None:
    picture, kind = io.BytesIO(), out.suffix[1:].lower()
    when = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)  # the same curves are the same file
    figure.savefig(picture, format=kind, metadata=when)
    root = out.parent if inside is None else inside
    root.mkdir(parents=True, exist_ok=True)
    rundir.write(root, out.relative_to(root).as_posix(), picture.getvalue())


def _series(records: Iterable[Mapping[str, Any]], name: str, along: str = "step") -> tuple[list[float], list[float]]:
    """Steps, or what else is recorded along, and values of a metric, without the steps where it was not finite."""
    pairs = ((record.get(along), record.get(name)) for record in records)
    points = [(step, value) for step, value in pairs if is_number(step) and is_number(value)]
    return [step for step, _ in points], [value for _, value in points]


def _displayable(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Font families that together show the texts, and the texts, U+XXXX in place of what no installed font has."""
    missing = {ord(c) for text in texts for c in text} - _coverage(_DEFAULT_FONT)
    families = [_DEFAULT_FONT]
    for family in sorted(_regular_fonts(), key=_preference) if missing else ():
        found = missing & _coverage(family)
        if found:
            families.append(family)
            missing -= found
        if not missing:
            break
    # Spaces of all kinds look alike, and controls must not reach the layout.
    plain = {c: " " if unicodedata.category(chr(c)) == "Zs" else f" U+{c:04X} " for c in missing}
    return families, [" ".join(text.translate(plain).split()) or text for text in texts]


def _preference(family: str) -> tuple[bool, str]:
    """Families made for many scripts first."""
    return not family.startswith(("Noto Sans", "Unifont", "Droid Sans")), family


@functools.cache
def _regular_fonts() -> dict[str, str]:
    """Installed font families and the file of their upright face of normal weight."""
    from matplotlib.font_manager import fontManager

    return {
        font.name: font.fname
        for font in fontManager.ttflist
        # The font of last resort has a box for everything, which says less than U+XXXX.
        if font.style == "normal" and font.weight in (400, "normal", "regular") and "Last Resort" not in font.name
    }


@functools.cache
def _coverage(family: str) -> frozenset[int]:
    """Code points that a font family has glyphs for, controls never."""
    from matplotlib.font_manager import get_font

    points = get_font(_regular_fonts()[family]).get_charmap()
    return frozenset(point for point in points if unicodedata.category(chr(point)) != "Cc")


def _shorten(label: str) -> str:
    return label if len(label) <= _LABEL_LENGTH else label[: _LABEL_LENGTH - 1] + "…"
