"""A small Griffin on WikiText-2: gated linear recurrences, local attention (De et al. 2024, arXiv:2402.19427).

    s2sjax train --config=configs/wikitext2/griffin.py --workdir=runs/wt2_griffin --config.data.dir=DIR

Reached: 155.7 perplexity a word on test, 168.2 on valid, after two epochs; one EPYC (Zen 5) core, 38 minutes with other
work beside it, 2026-11-21, commit e511000. One seed.
"""

from s2sjax.experiment import base_config


def get_config(argument: str = ""):
    config = base_config(model="griffin")

    config.data.source = ""
    config.data.target = "{split}.txt"
    config.data.validation = "valid"
    config.data.join = True
    config.data.context = 64
    config.data.stride = 32
    config.data.batching = "bucket"
    config.data.buckets = 1
    config.data.batch_tokens = 2048

    config.tokenizer.kind = "word"
    config.tokenizer.vocab_size = 40_000  # more than there are: 33,278

    config.model.width = 128
    config.model.recurrent_width = 176
    config.model.window = 32

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0

    config.train.steps = 2000
    config.train.precision = "bfloat16_products"
    config.train.label_smoothing = 0.0

    config.evaluate.every_steps = 1000
    config.evaluate.decode = False
    config.evaluate.samples = 0
    config.checkpoint.every_steps = 1000
    return config
