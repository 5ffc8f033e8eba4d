"""The quickstart: dates, times, durations, money, measurements and territories, from English into seven languages.

The data is made on the spot from Unicode CLDR (`s2sjax.data.phrases`); nothing is downloaded. A small Transformer.

    bash launch/quickstart.sh

Reached: 98.7 % exact match, 99.2 BLEU, 99.6 chrF on the held-out phrases; two EPYC (Zen 5) cores, 3 minutes 28
seconds with installation and evaluation, 2026-11-21, commit b24d8ec, and the same scores on 2026-11-28, commit c150c14.
One seed. (Before parameters were renamed, which draws other ones from the seed: 98.9, 99.4, 99.6, commit 89d5503.)
"""

from s2sjax.data.phrases import TAGS
from s2sjax.experiment import base_config


def get_config():
    config = base_config(model="transformer")

    config.data.format = "phrases"
    config.batching.kind = "pack"
    config.batching.pack_length = 48
    config.batching.tokens = 1536

    config.tokenizer.kind = "unigram"
    config.tokenizer.vocab_size = 1200
    config.tokenizer.split_digits = True
    config.tokenizer.user_symbols = TAGS

    config.model.encoder_layers = 3
    config.model.decoder_layers = 2
    config.model.width = 128
    config.model.hidden = 384
    config.model.dropout = 0.05

    config.optimizer.learning_rate = 4e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 200
    config.optimizer.clip_norm = 1.0

    config.train.steps = 1800
    config.train.precision = "bfloat16_products"
    config.train.label_smoothing = 0.05

    config.evaluate.every_steps = 600
    config.evaluate.decode = False
    config.checkpoint.every_steps = 600

    config.decode.alpha = 0.0
    config.decode.beam_size = 2
    return config
