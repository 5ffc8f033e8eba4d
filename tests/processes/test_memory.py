"""Memory that does not suffice is a sentence that names sizes and the way out, wherever a device is asked for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.data.columns import Column, Examples
from s2sjax.errors import UserError
from s2sjax.inference import forced
from s2sjax.processes.memory import needing_memory
from s2sjax.runs.evaluate import Evaluator
from s2sjax.training.loop import Loop, train
from tests.tiny import on_one_device, tiny, write_split, write_text


def exhausted(*arguments, **options):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 76856649296 bytes.")


def test_what_a_device_really_says_is_a_sentence():
    """64 TiB: no machine of today gives them."""
    expected = pytest.raises(UserError, match="^there is not enough memory for this: ask for less$")
    with expected, needing_memory("for this: ask for less"):
        jnp.zeros(1 << 46, np.int8).block_until_ready()


def test_other_errors_pass():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), needing_memory("for this: ask for less"):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")
    with pytest.raises(UserError, match="^a mistake$"), needing_memory("for this: ask for less"):
        raise UserError("a mistake")


@pytest.mark.parametrize("layers", [(), None])
def test_pairs_that_are_too_long_to_be_forced_are_named_by_their_sizes(monkeypatch, layers):
    monkeypatch.setattr(forced, "force", exhausted)
    monkeypatch.setattr(forced, "force_logits", exhausted)
    rows = [np.full(20, 5, np.int32)]
    split = Examples.of_pairs(Column.from_rows([row[:3] for row in rows]), Column.from_rows(rows))
    with pytest.raises(UserError, match="for 1 pair of 8 source and 24 target tokens: lower config.decode.batch_size"):
        forced.forced_pairs(None, {}, split, forced.ForcedOptions(8, layers))


@pytest.fixture
def data(tmp_path):
    data = write_text(tmp_path / "data", train=20, held_out=4)
    write_split(data, "validation", ["ab", "abc" * 20], ["ba", "cba" * 20])
    return data


def test_a_validation_example_that_memory_does_not_hold_ends_training_before_its_first_step(
    data, tmp_path, monkeypatch
):
    """Training leaves such examples out and would never meet them."""
    make = Evaluator.__init__

    def make_exhausted(self, *arguments, **options):
        make(self, *arguments, **options)
        self._sums = exhausted

    monkeypatch.setattr(Evaluator, "__init__", make_exhausted)
    monkeypatch.setattr(Loop, "_train", pytest.fail)
    experiment = tiny(data, batching__max_source_length=16, batching__max_target_length=16, train__steps=3)
    with on_one_device(tmp_path), pytest.raises(UserError, match="longest example, number 2, has 61 and 61 tokens: "):
        train(experiment, tmp_path / "run")


def test_a_batch_that_memory_does_not_hold_says_which_settings_make_it_smaller(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Loop, "_dispatch", exhausted)
    with on_one_device(tmp_path), pytest.raises(UserError, match="lower config.batching.tokens, or compute a batch"):
        train(tiny(data, train__steps=3), tmp_path / "run")
