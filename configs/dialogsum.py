"""Dialogues to summaries on DialogSum (Chen et al. 2021, findings-acl.449), by an LSTM with additive attention. After a
colon, `copy` makes it a pointer-generator network (See et al. 2017, arXiv:1704.04368), and `decoder_only` a Transformer
that reads the dialogue as a prompt and goes on with the summary.

The files are `dialogsum.train.jsonl` and `dialogsum.dev.jsonl` of github.com/cylnlp/dialogsum (CC BY-NC-SA 4.0), folder
DialogSum_Data; if they are compressed, say `--config.data.file=dialogsum.{split}.jsonl.gz`.

    s2sjax train --config=configs/dialogsum.py:copy --workdir=runs/dialogsum --config.data.dir=DIR
    s2sjax evaluate --workdir=runs/dialogsum --split=validation --config.decode.checkpoint=last

Reached on dev (500 dialogues, one reference), ROUGE-1/2/L without stemming: plain 29.5/7.6/23.7 after 17 min, `copy`
37.5/13.3/30.8 after 24 min, `decoder_only` 25.3/5.1/21.0 after 11 min. The first three turns have 26.8/7.2/20.6. One
EPYC (Zen 5) core with other work beside it, 2026-11-28. One seed each. More is in BUILD.md, log of that day.
"""

from s2sjax import recipes
from s2sjax.experiment import base_config

VARIANTS = ("copy", "decoder_only")


def get_config(argument: str = ""):
    recipes.check_variant(argument, VARIANTS, of="configs/dialogsum.py")
    config = decoder_only() if argument == "decoder_only" else encoder_decoder(copy=argument == "copy")

    config.data.format = "jsonl"
    config.data.file = "dialogsum.{split}.jsonl"
    config.data.source, config.data.target = "dialogue", "summary"
    config.data.validation = config.data.test = "dev"
    config.batching.max_source_length = 384
    config.batching.max_target_length = 96
    config.batching.tokens = 2048
    config.batching.row_multiple = 4
    config.batching.buckets = 3

    config.tokenizer.kind = "bpe"
    config.tokenizer.vocab_size = 8000
    config.tokenizer.user_symbols = tuple(f"#Person{n}#" for n in range(1, 8))

    config.optimizer.schedule = "cosine"
    config.optimizer.clip_norm = 1.0

    config.evaluate.every_steps = 1000
    config.evaluate.decode = False
    config.evaluate.metrics = ("rouge1", "rouge2", "rougeL")
    config.checkpoint.every_steps = 500

    config.decode.max_new_tokens = 96
    config.decode.alpha = 1.0
    config.decode.min_length_offset = 20  # without, the likeliest outputs are short, and some are empty
    config.decode.no_repeat_ngram = 3
    return config


def encoder_decoder(*, copy: bool):
    config = base_config(model="rnn_seq2seq")

    config.model.width = 128
    config.model.tied = "all"
    config.model.dropout = 0.2
    config.model.copy = copy

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 200

    config.train.steps = 4000
    return config


def decoder_only():
    """A prefix-LM: the tokens of the dialogue see each other in both directions."""
    config = base_config(model="causal_lm")

    config.model.prefix = True
    config.model.positions = "rotary"
    config.model.dropout = 0.2

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 300

    config.train.steps = 2500  # as long on a CPU as 4,000 of the encoder-decoder
    config.train.precision = "bfloat16_products"
    return config
