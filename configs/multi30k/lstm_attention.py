"""An LSTM encoder-decoder with additive attention and input feeding on Multi30k, English to German.

Bahdanau et al. 2015 (arXiv:1409.0473) with the input feeding of Luong et al. 2015 (arXiv:1508.04025); 256 wide, a
bidirectional encoder layer and a decoder layer.

    s2sjax train --config=configs/multi30k/lstm_attention.py --workdir=runs/m30k_lstm --config.data.dir=DIR

Reached: 37.80 sacreBLEU (13a, cased), 62.7 chrF on test_2016_flickr with beam 5; two EPYC (Zen 5) cores, 19 minutes,
2026-11-21, commit 7868047. One seed.
"""

from s2sjax import recipes


def get_config():
    config = recipes.multi30k(model="rnn_seq2seq")

    # A recurrent step costs the same for one row as for many: wide batches of short rows, not packed long ones.
    config.batching.kind = "bucket"
    config.batching.buckets = 5

    config.model.width = 256
    config.model.attention = "additive"
    config.model.tied = "all"
    config.model.dropout = 0.3

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 400

    config.train.steps = 5000
    config.train.ema_decay = 0.998

    config.evaluate.every_steps = 1000

    config.decode.alpha = 1.0
    return config
