"""A small GPT-2 on WikiText-2, words as tokens (Radford et al. 2019).

    s2sjax train --config=configs/wikitext2/gpt2.py --workdir=runs/wt2_gpt2 --config.data.dir=DIR

Reached: 229.5 perplexity a word on test, 249.3 on valid, after two epochs; one EPYC (Zen 5) core, 23 minutes with other
work beside it, 2026-11-21, commit e511000. One seed.
"""

from s2sjax import recipes


def get_config():
    config = recipes.wikitext2(model="causal_lm")

    config.model.layers = 4
    config.model.width = 128
    config.model.hidden = 512
    config.model.heads = 4
    config.model.positions = "learned"
    config.model.max_positions = config.task.context
    config.model.mlp = "gelu_tanh"
    config.model.scale_embeddings = False
    config.model.dropout = 0.2

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0

    config.train.precision = "bfloat16_products"
    return config
