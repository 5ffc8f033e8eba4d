"""A small T5 on Multi30k, English to German, from scratch (Raffel et al. 2020, arXiv:1910.10683; blocks as in v1.1).

Relative position buckets, RMS normalisation, gated GELU, no biases, the source behind a prompt in words. All embeddings
are one table, unlike v1.1's.

    s2sjax train --config=configs/multi30k/t5.py --workdir=runs/m30k_t5 --config.data.dir=DIR

Reached 37.4 BLEU, 60.7 chrF on test_2016_flickr (sacreBLEU 13a, cased, beam 5) after 4,000 steps, 23 min on one EPYC
(Zen 5) core with other work beside it, 2026-11-21, commit e511000.
"""

from s2sjax import recipes


def get_config():
    config = recipes.multi30k(model="transformer")

    config.batching.kind = "pack"
    config.batching.pack_length = 64

    config.data.prompt = "translate English to German: {source}"

    config.model.positions = "relative"
    config.model.norm_kind = "rms"
    config.model.mlp = "gated_gelu"
    config.model.biases = False
    config.model.scale_attention = False
    config.model.hidden = 192
    config.model.dropout = 0.2

    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 800

    config.train.steps = 4000
    config.train.ema_decay = 0.998

    config.evaluate.every_steps = 2000

    config.decode.alpha = 1.0
    return config
