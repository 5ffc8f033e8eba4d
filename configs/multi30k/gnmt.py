"""A small GNMT on Multi30k, from English to German and French and back: one model, told the language by a tag
(Wu et al. 2016, arXiv:1609.08144; Johnson et al. 2017, arXiv:1611.04558).

It never sees German beside French: translating between them is zero-shot. Choose what to evaluate and decode with
`--config.data.pairs`, for instance `"('de-fr',)"`; the results go into `results/test.de-fr.json`.

    s2sjax train --config=configs/multi30k/gnmt.py --workdir=runs/m30k_gnmt --config.data.dir=DIR
    s2sjax evaluate --workdir=runs/m30k_gnmt --config.data.pairs="('de-fr',)"

Reached on test_2016_flickr, BLEU (sacreBLEU 13a, cased, beam 5): en-de 36.4, de-en 41.1, en-fr 55.9, fr-en 51.2, and
zero-shot de-fr 4.8, fr-de 4.4; 8,000 steps on one EPYC (Zen 5) core with other work beside it, stopped and resumed once
(63 min for the last 5,384), 2026-11-21, commit fb2e5b8. 116,000 pairs are few for zero-shot translation: see BUILD.md.
"""

from s2sjax import recipes


def get_config():
    config = recipes.multi30k(model="gnmt")

    config.data.source = "{split}.{source_language}"
    config.data.target = "{split}.{target_language}"
    config.data.pairs = ("en-de", "de-en", "en-fr", "fr-en")
    config.data.prompt = "<2{target_language}> {source}"
    config.batching.kind = "bucket"
    config.batching.buckets = 5

    config.tokenizer.vocab_size = 10_000
    config.tokenizer.user_symbols = ("<2en>", "<2de>", "<2fr>")

    config.model.encoder_layers = 4
    config.model.decoder_layers = 4
    config.model.width = 192
    config.model.tied = "all"
    config.model.dropout = 0.1

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 400

    config.train.steps = 8000

    config.evaluate.every_steps = 2000
    return config
