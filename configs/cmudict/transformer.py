"""English letters to phonemes with a Transformer, on a word-disjoint split of CMUdict; stress digits are kept.

The metric is the word error rate, `sequence_error_rate` of `evaluate`: words whose answer is none of the dictionary's.
Published on other splits, without stress: 20.2 (PRONALSYL 2007 split) and about 31 (current dictionary).

    s2sjax train --config=configs/cmudict/transformer.py --workdir=runs/cmudict --config.data.dir=DIR

Reached on test: 35.8 % of words wrong, 10.0 % of phonemes, stress counted; one busy EPYC (Zen 5) core, 16 minutes,
2026-11-21, commit fb2e5b8.
"""

from s2sjax.recipes import pronunciation


def get_config():
    config = pronunciation(model="transformer")

    config.data.file = "{split}.tsv"
    config.batching.kind = "pack"
    config.batching.pack_length = 48
    config.batching.tokens = 2304

    config.model.encoder_layers = 3
    config.model.decoder_layers = 3
    config.model.width = 128
    config.model.hidden = 384
    config.model.dropout = 0.1

    config.optimizer.learning_rate = 3e-3

    config.train.steps = 5000
    return config
