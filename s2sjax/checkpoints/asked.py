"""What a checkpoint is read for, compared with what its manifest says that it holds.

Orbax would cast, cut or pad an array that is not as expected, without a word.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s2sjax.checkpoints.sizes import Arrays, bytes_of
from s2sjax.plural import counted

PyTree = Any

_MOST_BESIDE = 16
"""How many times the parameters a whole state may have: with moments and averages it has up to 6."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """The arguments of `CheckpointReader.restore`, which says what they mean."""

    state: PyTree
    partial: bool
    cast: bool

    @property
    def arrays(self) -> dict[str, Any]:
        """By path: leaves with a shape and a type."""
        return flatten(self.state)

    def casts(self, saved: Arrays) -> dict[str, str]:
        """The saved types, by path, of the arrays that are to be cast."""
        return _casts(saved, self.arrays) if self.cast else {}

    def problem(self, saved: Arrays) -> str:
        """Why a checkpoint with these arrays cannot be read for this, to be put after its name; empty if it can."""
        expected, casts = self.arrays, self.casts(saved)
        kept = {name: array for name, array in saved.items() if name not in casts}
        same = {name: leaf for name, leaf in expected.items() if name not in casts}
        if differing := _differences(kept, same, self.partial):
            more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            hint = "" if self.cast or not _casts(saved, expected) else " (types alone: config.checkpoint.cast=True)"
            return (
                f"is of another model or optimizer: {'; '.join(differing[:5])}{more}. Use the config it was trained "
                f"with{hint}, or another workdir."
            )
        needed = bytes_of({name: saved[name] for name in expected})
        if (stored := bytes_of(saved)) > _MOST_BESIDE * needed + (1 << 26):
            return (
                f"lists arrays of {counted(stored, 'byte')}, expected at most {counted(_MOST_BESIDE, 'time')} the "
                f"{needed:,} that are read of it; it is of another model or optimizer"
            )
        return ""


def flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, `params/encoder/kernel`. Files hold this flat form, which knows no NamedTuples or classes."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two leaves of the state have the same path")
    return named


def _differences(
    saved: Mapping[str, tuple[tuple[int, ...], str]], expected: Mapping[str, Any], partial: bool
) -> list[str]:
    wanted = {name: (tuple(leaf.shape), np.dtype(leaf.dtype).name) for name, leaf in expected.items()}
    return [
        f"{name}: saved {_describe(saved.get(name))}, expected {_describe(wanted.get(name))}"
        for name in (wanted if partial else dict.fromkeys([*wanted, *saved]))
        if saved.get(name) != wanted.get(name)
    ]


def _casts(saved: Mapping[str, tuple[tuple[int, ...], str]], expected: Mapping[str, Any]) -> dict[str, str]:
    """By name, the saved types of arrays whose shape is as expected and whose floating-point type is another."""
    return {
        name: saved[name][1]
        for name, leaf in expected.items()
        if name in saved
        and saved[name][0] == tuple(leaf.shape)
        and saved[name][1] != np.dtype(leaf.dtype).name
        and all(jnp.issubdtype(dtype, jnp.floating) for dtype in (saved[name][1], leaf.dtype))
    }


def _describe(array: tuple[tuple[int, ...], str] | None) -> str:
    return "nothing" if array is None else f"{array[1]}[{','.join(map(str, array[0]))}]"
