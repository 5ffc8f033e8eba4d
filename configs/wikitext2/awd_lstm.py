"""AWD-LSTM on WikiText-2 (Merity et al. 2018, arXiv:1708.02182), smaller and trained for minutes in place of days.

Published: 65.8 test perplexity with three layers of 1,150, 750 epochs and finetuning.

    s2sjax train --config=configs/wikitext2/awd_lstm.py --workdir=runs/wt2_awd_lstm --config.data.dir=DIR

Reached: 219.7 perplexity a word on test, 236.6 on valid, after two epochs; one EPYC (Zen 5) core, 46 minutes with other
work beside it, 2026-11-21, commit e511000. One seed. The plain LSTM (`lstm.py`) reaches 209.2: two epochs are too few
to overfit, and regularisers only cost.
"""

from s2sjax import recipes


def get_config():
    config = recipes.wikitext2(model="lstm_lm")

    config.model.layers = 2
    config.model.width = 256
    config.model.embedding_width = 256
    config.model.word_dropout = 0.05
    config.model.input_dropout = 0.2
    config.model.dropout = 0.1
    config.model.output_dropout = 0.2
    config.model.weight_dropout = 0.2
    config.model.activation_penalty = 2.0
    config.model.change_penalty = 1.0

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0

    config.train.precision = "bfloat16_products"
    return config
