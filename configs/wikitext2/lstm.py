"""A plain LSTM language model on WikiText-2: what AWD-LSTM (`awd_lstm.py`) is without its regularisers.

    s2sjax train --config=configs/wikitext2/lstm.py --workdir=runs/wt2_lstm --config.data.dir=DIR

Reached: 209.2 perplexity a word on test, 225.0 on valid, after two epochs; one EPYC (Zen 5) core, 27 minutes with other
work beside it, 2026-11-21, shortly before commit 9d2f7e6. One seed.
"""

from s2sjax import recipes


def get_config():
    config = recipes.wikitext2(model="lstm_lm")

    config.model.layers = 2
    config.model.width = 256
    config.model.embedding_width = 256

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0

    config.train.precision = "bfloat16_products"
    return config
