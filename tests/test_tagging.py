"""Tagging from Python: a hidden Markov model's states for the tokens of a text."""

import jax
import numpy as np
import pytest

import s2sjax
from s2sjax.errors import UserError
from s2sjax.train import train
from tests.tiny import compiling_once, on_devices, tiny


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("text")
    for split, count in (("train", 60), ("validation", 5), ("test", 5)):
        (directory / f"{split}.txt").write_text("abababab\n" * count)
    with pytest.MonkeyPatch.context() as patch, compiling_once(directory / "xla"):
        on_devices(patch, 1)
        yield directory


def options(steps):
    return {
        "data__source": "", "data__target": "{split}.txt", "train__label_smoothing": 0.0, "train__steps": steps,
        "train__log_every": 50,
    }  # fmt: skip


def test_letters_that_alternate_have_states_that_alternate(directory):
    """Learned by expectation maximisation, whose likelihood never falls."""
    em = {
        "optimizer__name": "em", "optimizer__learning_rate": 1.0, "optimizer__warmup_steps": 1,
        "optimizer__schedule": "inverse_sqrt", "model__learning": "em", "model__states": 3,
    }  # fmt: skip
    train(tiny(directory, "hmm", **options(60), **em), directory / "hmm")
    run = s2sjax.load(directory / "hmm")
    (tagged,) = run.tag(["ababab"])
    assert [token for token, _ in tagged] == [*"ababab", "</s>"]
    states = [state for _, state in tagged]
    assert states == [states[0], states[1]] * 3 + [states[-1]]
    assert len({states[0], states[1], states[-1]}) == 3
    # The path's states are those that the parameters find likeliest for the tokens themselves.
    emission = np.asarray(jax.nn.log_softmax(run.params["emission"], axis=-1))
    a, b = run.tokenizers.target.encode(["ab"])[0]
    assert emission[states[0], a] > emission[states[0], b] and emission[states[1], b] > emission[states[1], a]


def test_a_model_without_hidden_states_says_so(directory):
    train(tiny(directory, "lstm_lm", **options(1)), directory / "lstm")
    with pytest.raises(UserError, match="lstm_lm has no hidden states"):
        s2sjax.load(directory / "lstm").tag(["ab"])
