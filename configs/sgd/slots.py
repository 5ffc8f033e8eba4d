"""Slots in what a user says, as BIO tags: Schema-Guided Dialogue (Rastogi et al. 2020, arXiv:1909.05855), by LSTMs in
both directions over words.

`records.py` beside this file makes `slots.train.jsonl` and `slots.dev.jsonl`. The last twentieth of train validates: it
has the services that are trained on. The test split is dev, where 8 of 17 services are new, and 8 of 40 slots.

    python configs/sgd/records.py DIR OUT
    s2sjax train --config=configs/sgd/slots.py --workdir=runs/sgd_slots --config.data.dir=OUT
    s2sjax evaluate --workdir=runs/sgd_slots --split=validation
    s2sjax evaluate --workdir=runs/sgd_slots

Not yet run.
"""

from s2sjax.experiment import base_config


def get_config():
    config = base_config(model="rnn_encoder", task="tagging")

    config.data.format = "jsonl"
    config.data.file = "slots.{split}.jsonl"
    config.data.source, config.data.target = "words", "tags"
    config.data.train, config.data.validation = "train[:95%]", "train[95%:]"
    config.data.test = "dev"
    config.batching.max_source_length = 64
    config.batching.tokens = 2048

    config.tokenizer.vocab_size = 8000

    config.model.width = 128
    config.model.dropout = 0.3

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 200
    config.optimizer.clip_norm = 1.0

    config.train.steps = 2000
    config.train.label_smoothing = 0.0

    config.evaluate.every_steps = 500
    config.checkpoint.every_steps = 500
    config.checkpoint.metric = "span_f1"
    return config
