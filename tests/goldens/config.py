"""Tiny runs for goldens: numbers from English into German, counting, or tagging each number with itself.

    s2sjax train --config=tests/goldens/config.py:FAMILY --workdir=DIR --config.data.dir=tests/goldens/data

FAMILY is a model family; followed by "/text" it is a language model of plain text, followed by "/tags" it tags.
"""

from s2sjax.experiment import base_config

SMALL = {
    "width": 16,
    "hidden": 24,
    "heads": 2,
    "layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "embedding_width": 16,
    "recurrent_width": 16,
    "repeats": 1,
    "states": 16,
    "dropout": 0.1,
}
"""Sizes for whichever of these a family's config has."""


def get_config(argument: str = "transformer"):
    family, _, kind = argument.partition("/")
    config = base_config(model=family, task="tagging" if kind == "tags" else "text")
    sources = {"": "{split}.en", "text": "", "tags": "{split}.count"}
    config.data.source = sources[kind]
    config.data.target = "{split}.count" if kind else "{split}.de"
    config.batching.tokens = 256
    config.batching.buckets = 2
    config.batching.pack_length = 24
    config.tokenizer.kind = "word" if kind else "bpe"
    config.tokenizer.vocab_size = 56
    for name, value in SMALL.items():
        if name in config.model:
            config.model[name] = value
    if family == "griffin":
        config.model.pattern = ("recurrent", "attention")
        config.model.window = 4
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_steps = 2
    if family != "hmm":
        config.optimizer.clip_norm = 1.0
    config.train.steps = 5
    config.train.log_every = 1
    config.train.ema_decay = 0.9
    config.evaluate.decode = kind != "text"
    config.evaluate.every_steps = 5
    config.evaluate.samples = 1
    config.checkpoint.every_steps = 5
    if kind != "tags":
        config.decode.beam_size = 2
    return config
