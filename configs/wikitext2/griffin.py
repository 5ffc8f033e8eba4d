"""A small Griffin on WikiText-2: gated linear recurrences, local attention (De et al. 2024, arXiv:2402.19427).

    s2sjax train --config=configs/wikitext2/griffin.py --workdir=runs/wt2_griffin --config.data.dir=DIR

Reached: 155.7 perplexity a word on test, 168.2 on valid, after two epochs; one EPYC (Zen 5) core, 38 minutes with other
work beside it, 2026-11-21, commit e511000. One seed.
"""

from s2sjax import recipes


def get_config():
    config = recipes.wikitext2(model="griffin")

    config.model.width = 128
    config.model.recurrent_width = 176
    config.model.window = 32

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0

    config.train.precision = "bfloat16_products"
    return config
