"""Dialogues to summaries with an LSTM and additive attention, on DialogSum (Chen et al. 2021, findings-acl.449); after
a colon, `copy` makes it a pointer-generator network (See et al. 2017, arXiv:1704.04368).

The files are `dialogsum.train.jsonl` and `dialogsum.dev.jsonl` of github.com/cylnlp/dialogsum (CC BY-NC-SA 4.0), folder
DialogSum_Data; if they are compressed, say `--config.data.file=dialogsum.{split}.jsonl.gz`.

    s2sjax train --config=configs/dialogsum.py:copy --workdir=runs/dialogsum --config.data.dir=DIR
    s2sjax evaluate --workdir=runs/dialogsum --split=validation

Measured with 2,048 tokens a batch and rows in fours: BUILD.md, log of 28 November 2026. As it stands here, not yet.
"""

from s2sjax.errors import UserError
from s2sjax.experiment import base_config


def get_config(argument: str = ""):
    if argument not in ("", "copy"):
        raise UserError(f"{argument!r} is no variant of configs/dialogsum.py: say dialogsum.py or dialogsum.py:copy")
    config = base_config(model="rnn_seq2seq")

    config.data.format = "jsonl"
    config.data.file = "dialogsum.{split}.jsonl"
    config.data.source, config.data.target = "dialogue", "summary"
    config.data.validation = config.data.test = "dev"
    config.batching.max_source_length = 384
    config.batching.max_target_length = 96
    config.batching.tokens = 3072
    config.batching.buckets = 3

    config.tokenizer.kind = "bpe"
    config.tokenizer.vocab_size = 8000
    config.tokenizer.user_symbols = tuple(f"#Person{n}#" for n in range(1, 8))

    config.model.width = 128
    config.model.tied = "all"
    config.model.dropout = 0.2
    config.model.copy = argument == "copy"

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 200
    config.optimizer.clip_norm = 1.0

    config.train.steps = 4000

    config.evaluate.every_steps = 1000
    config.evaluate.decode = False
    config.evaluate.metrics = ("rouge1", "rouge2", "rougeL")
    config.checkpoint.every_steps = 500

    config.decode.max_new_tokens = 96
    config.decode.alpha = 1.0
    config.decode.min_length_offset = 20  # without, the likeliest outputs are short, and some are empty
    config.decode.no_repeat_ngram = 3
    return config
