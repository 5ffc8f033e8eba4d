"""The fixed context vector on Multi30k, English to German: no attention (Sutskever et al. 2014, arXiv:1409.3215).

An LSTM reads the source from its end to its beginning; the state it ends in is all that the decoder learns of it. As
wide as `bahdanau.py` and `luong.py` and trained as long, so that the three can be compared.

    s2sjax train --config=configs/multi30k/fixed_context.py --workdir=runs/m30k_fixed --config.data.dir=DIR

Reached: 21.19 sacreBLEU (13a, cased), 45.6 chrF on test_2016_flickr with beam 5; one EPYC (Zen 5) core, 13 minutes with
other work beside it, 2026-11-21, shortly before commit 9d2f7e6. One seed.
"""

from s2sjax import recipes


def get_config():
    config = recipes.multi30k(model="rnn_seq2seq")

    config.batching.kind = "bucket"
    config.batching.buckets = 5

    config.model.cell = "lstm"
    config.model.attention = "none"
    config.model.bidirectional = False
    config.model.reverse_source = True
    config.model.input_feeding = False
    config.model.width = 256
    config.model.tied = "all"
    config.model.dropout = 0.3

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 400

    config.train.steps = 3000

    config.evaluate.every_steps = 1000

    config.decode.alpha = 1.0
    return config
