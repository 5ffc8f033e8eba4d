"""From a planned batch and rows of tokens or vectors to the arrays of a batch (`api` names them)."""

import numpy as np

from s2sjax.data.columns import Column, Examples
from s2sjax.data.plan import PlannedBatch
from s2sjax.data.segmentation import Segmentation
from s2sjax.vocabulary import FILL


def assemble(
    planned: PlannedBatch,
    split: Examples,
    *,
    only: np.ndarray | None = None,
    segmentation: Segmentation | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of one batch. Rows without an example are all padding: segment 0, weight 0.

    Inputs are of the type and width that the column `source` has; what stands in their padding is 0.

    Args:
        only: numbers of the rows to make, ascending.
        segmentation: cuts the examples anew; None: as they stand in the split.
    """
    only = np.arange(planned.shape.rows) if only is None else only
    here, rows_here = np.isin(planned.rows, only), len(only)
    examples, rows = planned.examples[here], np.searchsorted(only, planned.rows[here])
    if segmentation is not None:
        split, examples = segmentation(split, planned, examples, rows), np.arange(len(examples))
    # 1-based number of the example within its row
    segments = np.arange(len(rows)) - np.searchsorted(rows, rows) + 1
    inputs = _fill(split["source"], examples, rows, segments, (rows_here, planned.shape.source))
    targets = _fill(split["target"], examples, rows, segments, (rows_here, planned.shape.target))
    return {
        "inputs": inputs["values"],
        "input_segments": inputs["segments"],
        "input_positions": inputs["positions"],
        "targets": targets["values"],
        "target_segments": targets["segments"],
        "target_positions": targets["positions"],
        "decoder_inputs": shift_right(targets["values"], targets["positions"], targets["segments"], split.start),
        "weights": _weights(targets, split, examples),
    }


def _weights(targets: dict[str, np.ndarray], split: Examples, examples: np.ndarray) -> np.ndarray:
    """1 where a token is to be predicted; 0 on padding and on an example's first tokens that are only given. [B, T]"""
    weights = (targets["segments"] > 0).astype(np.float32)
    if split.given is not None:
        lengths = split["target"].lengths[examples]
        # Filled cells, read row by row, are the tokens of the examples one after another.
        weights[targets["segments"] > 0] = _positions(lengths) >= np.repeat(split.given[examples], lengths)
    return weights


def _positions(lengths: np.ndarray) -> np.ndarray:
    """0, 1, .. within each of several runs, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def shift_right(tokens: np.ndarray, positions: np.ndarray, segments: np.ndarray, start: int) -> np.ndarray:
    """Each segment moved one to the right, begun by `start`; padding stays padding. [B, T] -> [B, T]"""
    shifted = np.roll(tokens, 1, axis=1)
    return np.where(segments == 0, FILL, np.where(positions == 0, start, shifted)).astype(np.int32)


def _fill(column: Column, examples, rows, segments, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    lengths = column.offsets[examples + 1] - column.offsets[examples]
    ends = np.cumsum(lengths)
    # column at which each example begins: tokens before it, less the tokens before its row
    before = ends - lengths
    columns = before - before[np.searchsorted(rows, rows)] if len(rows) else before
    within = _positions(lengths)
    cells = np.repeat(rows * shape[1] + columns, lengths) + within
    width = column.values.shape[1:]
    out = {"values": np.full((*shape, *width), FILL, column.values.dtype)}
    out |= {name: np.zeros(shape, np.int32) for name in ("segments", "positions")}
    places = np.repeat(column.offsets[examples], lengths) + within
    out["values"].reshape(-1, *width)[cells] = column.values[places]
    out["segments"].flat[cells] = np.repeat(segments, lengths)
    out["positions"].flat[cells] = within
    return out
