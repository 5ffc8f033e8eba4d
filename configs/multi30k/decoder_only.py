"""A decoder-only Transformer that translates: the source is a prompt, the loss is on the answer only.

The data of `transformer_tiny.py`: the model's name alone makes it a language model's. Source tokens see each other in
both directions (a prefix-LM; Raffel et al. 2020, arXiv:1910.10683, section 3.2.1).

    s2sjax train --config=configs/multi30k/decoder_only.py --workdir=runs/m30k_lm --config.data.dir=DIR

Reached 38.1 BLEU, 61.9 chrF on test_2016_flickr (sacreBLEU 13a, cased, beam 5) after 4,000 steps, 43 min on one EPYC
(Zen 5) core with other work beside it, stopped and resumed once, 2026-11-21, commit fb2e5b8.
"""

from s2sjax import recipes


def get_config():
    config = recipes.multi30k(model="causal_lm")

    config.batching.kind = "pack"
    config.batching.pack_length = 64

    config.model.layers = 6
    config.model.prefix = True
    config.model.positions = "rotary"
    config.model.dropout = 0.2

    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 800

    config.train.steps = 4000
    config.train.ema_decay = 0.998

    config.evaluate.every_steps = 2000

    config.decode.alpha = 1.0
    return config
