"""What an assistant says next, given up to five turns before it: Schema-Guided Dialogue (Rastogi et al. 2020,
arXiv:1909.05855), by a pointer-generator network (See et al. 2017, arXiv:1704.04368).

`records.py` beside this file makes `dialogue.train.jsonl` and `dialogue.dev.jsonl`. Dev has services that train has
not. Its first 2,000 turns are validated; evaluation of all 24,363 takes long, a slice a minute.

    python configs/sgd/records.py DIR OUT
    s2sjax train --config=configs/sgd/dialogue.py --workdir=runs/sgd_dialogue --config.data.dir=OUT
    s2sjax evaluate --workdir=runs/sgd_dialogue "--split=dev[:500]"

Reached on dev[:500]: 17.3 perplexity a token, 38.4 a word, 9.6 sacreBLEU (13a, cased), 29.0 ROUGE-L with beam 5. The
commonest turn has 1.0 and 9.7. 16 min on one EPYC (Zen 5) core beside much other work, 2026-11-28, for 1,500 steps: a
quarter of an epoch. It was stopped at step 1,250 of 2,500 and resumed with 1,500, so the learning rate fell late. One
seed.
"""

from s2sjax.experiment import base_config


def get_config():
    config = base_config(model="rnn_seq2seq")

    config.data.format = "jsonl"
    config.data.file = "dialogue.{split}.jsonl"
    config.data.source, config.data.target = "history", "reply"
    config.data.validation = "dev[:2000]"
    config.data.test = "dev"
    config.batching.max_source_length = 160
    config.batching.max_target_length = 64
    config.batching.tokens = 2560
    config.batching.buckets = 3

    config.tokenizer.kind = "bpe"
    config.tokenizer.vocab_size = 4000
    config.tokenizer.user_symbols = ("USER:", "SYSTEM:")

    config.model.width = 128
    config.model.tied = "all"
    config.model.dropout = 0.1
    config.model.copy = True

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 200
    config.optimizer.clip_norm = 1.0

    config.train.steps = 1500
    config.train.precision = "bfloat16_products"

    config.evaluate.every_steps = 1000
    config.evaluate.decode = False
    config.evaluate.metrics = ("perplexity", "word_perplexity", "bleu", "rougeL")
    config.checkpoint.every_steps = 1000

    config.decode.max_new_tokens = 64
    return config
