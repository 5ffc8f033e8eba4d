"""Settings that others keep from having an effect are told; configs that come with the package have none."""

import pytest

from s2sjax.experiment import base_config, config_dict, resolve
from s2sjax.training.unused import without_effect
from tests.config_files import config_names, config_of


def told(family="transformer", **settings):
    values = config_dict(resolve(base_config(family))).to_dict()
    for key, value in settings.items():
        section, _, name = key.partition("__")
        values[section][name] = value
    return list(without_effect(resolve(values)))


@pytest.mark.parametrize("family", ["transformer", "causal_lm", "rnn_seq2seq", "gnmt", "hmm", "griffin", "lstm_lm"])
def test_the_defaults_say_nothing(family):
    assert told(family) == []


@pytest.mark.parametrize(
    "family, settings, expected",
    [
        ("hmm", {"train__steps": 60}, "warmup_steps is 1000, but training has 60 steps"),
        ("hmm", {"optimizer__schedule": "wsd", "optimizer__warmup_steps": 9000}, "never reaches its peak"),
        ("hmm", {"optimizer__final_fraction": 0.1}, "final_fraction is 0.1, but config.optimizer.schedule is 'inverse"),
        ("hmm", {"optimizer__decay_fraction": 0.1, "optimizer__schedule": "cosine"}, "decay_fraction is 0.1"),
        ("hmm", {"optimizer__b2": 0.5, "optimizer__name": "sgd"}, "b2 is 0.5, but config.optimizer.name is 'sgd'"),
        ("hmm", {"optimizer__em_smoothing": 0.5}, "em_smoothing is 0.5"),
        ("hmm", {"faults__max_rollbacks": 7, "faults__beyond_max_skips": "stop"}, "max_rollbacks is 7"),
        ("gnmt", {"evaluate__rouge_tokenize": "unicode"}, "rouge_tokenize is unicode, but neither"),
        ("gnmt", {"evaluate__bleu_tokenize": "zh", "evaluate__metrics": ("chrf",)}, "bleu_tokenize is zh, but neither"),
        ("hmm", {"data__file": "x.tsv"}, "file is x.tsv, but config.data.format is 'text'"),
        ("hmm", {"data__header": False}, "header is False, but config.data.format is 'text'"),
        ("hmm", {"batching__pack_length": 64}, "pack_length is 64, but config.batching.kind is 'bucket'"),
        ("hmm", {"batching__buckets": 3, "batching__kind": "pack"}, "buckets is 3, but config.batching.kind is 'pack'"),
        ("hmm", {"tokenizer__kind": "byte", "tokenizer__vocab_size": 300}, "vocab_size is 300, but"),
        ("hmm", {"tokenizer__source_model": "x", "tokenizer__byte_fallback": True}, "byte_fallback is True, but"),
        ("gnmt", {"tokenizer__bpe_dropout": 0.2}, "bpe_dropout is 0.2, but config.tokenizer.sampling is 'none'"),
        (
            "gnmt", {"tokenizer__sampling": "both", "tokenizer__sampling_alpha": 0.2},
            "sampling_alpha is 0.2, but config.tokenizer.kind is 'bpe'",
        ),
        ("transformer", {"model__rotary_base": 5.0}, "rotary_base is 5.0, but config.model.positions is 'sinusoidal'"),
        ("transformer", {"model__relative_distance": 64}, "relative_distance is 64"),
        ("transformer", {"model__max_positions": 64}, "max_positions is 64"),
        ("causal_lm", {"model__positions": "rotary", "model__rotary_length": 9}, "rotary_length is 9"),
        ("causal_lm", {"model__balance": 0.5}, "balance is 0.5, but config.model.experts is 0"),
        ("causal_lm", {"model__experts": 4, "model__capacity_factor": 2.0}, "capacity_factor is 2.0"),
        ("rnn_seq2seq", {"model__window": 4}, "window is 4, but config.model.attention is 'additive'"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_named_with_the_reason(family, settings, expected):
    (sentence,) = told(family, **settings)
    assert expected in sentence


def test_labels_have_a_kind_of_their_own():
    config = base_config("rnn_encoder", "tagging")
    assert list(without_effect(resolve(config))) == []
    config.tokenizer.joint, config.tokenizer.target_kind = False, "word"
    (sentence,) = without_effect(resolve(config))
    assert "target_kind is word, but config.task.name is 'tagging', whose targets are of kind 'tag'" in sentence


def test_what_is_used_is_not_told_of():
    used = {"optimizer__schedule": "wsd", "optimizer__final_fraction": 0.1, "optimizer__decay_fraction": 0.3}
    assert told("causal_lm", **used, model__positions="rotary", model__rotary_base=5.0, model__window=4) == []
    assert told("rnn_seq2seq", model__attention="local", model__window=4) == []
    chosen = {"evaluate__metrics": ("loss",), "checkpoint__metric": "rougeL", "evaluate__rouge_tokenize": "unicode"}
    assert told("gnmt", **chosen) == told("gnmt", evaluate__bleu_tokenize="char") == []
    assert told("hmm", train__steps=1001) == []


@pytest.mark.parametrize("name", config_names())
def test_the_configs_of_the_package_have_no_such_setting(name):
    assert list(without_effect(resolve(config_of(name)))) == []
