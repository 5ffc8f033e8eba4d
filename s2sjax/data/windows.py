"""Long texts as windows: what a language model reads at a time, each token predicted exactly once."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from s2sjax.data.columns import Column, Examples


@dataclass(frozen=True)
class Windows:
    """How texts are cut.

    Attributes:
      context: most tokens of a window; 0: texts stay whole.
      join: all texts are one running text.
      stride: tokens from one window of evaluation to the next; 0: `context` - 1, as in training.
    """

    context: int = 0
    join: bool = False
    stride: int = 0


def windowed(split: Examples, windows: Windows, *, evaluation: bool = False) -> Examples:
    """The examples, cut into windows.

    A text of n tokens becomes windows of at most `context` tokens that begin `stride` tokens apart. The first window
    predicts all of its tokens; each later one reads its first tokens, those that a window before has predicted, and
    predicts the rest. With context 4 and stride 2, "abcdefg" is read as abcd, cdef, efg and predicted as abcd, ef, g.
    """
    if not windows.context:
        return split
    if split.parts:
        return _one_after_another(split, windows, evaluation=evaluation)
    target = split["target"]
    if windows.join:
        target = Column(target.values, np.array([0, len(target.values)], np.int64))
    stride = windows.stride if evaluation and windows.stride else windows.context - 1
    starts, ends, given = [], [], []
    for begin, end in zip(target.offsets[:-1], target.offsets[1:], strict=True):
        # The first window holds `context` tokens; as many more follow as there are strides in the rest.
        count = 1 + max(0, -(-int(end - begin - windows.context) // stride))
        window_starts = begin + stride * np.arange(count)
        starts.append(window_starts)
        ends.append(np.minimum(window_starts + windows.context, end))
        given.append(np.where(np.arange(count) > 0, windows.context - stride, 0))
    first, last = np.concatenate(starts), np.concatenate(ends)
    lengths = last - first
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = target.values[np.repeat(first - offsets[:-1], lengths) + np.arange(offsets[-1])]
    return dataclasses.replace(
        split, columns={"target": Column(tokens, offsets)}, given=np.concatenate(given).astype(np.int32)
    )


def _one_after_another(split: Examples, windows: Windows, *, evaluation: bool) -> Examples:
    """Each set of a mixture by itself: no window reaches from one into the next."""
    ends = np.cumsum([*split.parts.values()]).tolist()
    made = [
        windowed(split.part(start, stop), windows, evaluation=evaluation)
        for start, stop in zip([0, *ends[:-1]], ends, strict=True)
    ]
    tokens = np.concatenate([each["target"].values for each in made])
    lengths = np.concatenate([each["target"].lengths for each in made])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return dataclasses.replace(
        split,
        columns={"target": Column(tokens, offsets)},
        given=np.concatenate([each.given for each in made if each.given is not None]),
        parts={name: len(each) for name, each in zip(split.parts, made, strict=True)},
    )
