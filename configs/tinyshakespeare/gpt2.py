"""A character-level GPT on tiny Shakespeare, of the size that nanoGPT trains on a CPU.

4 layers, 4 heads, 128 wide. Lines up to 35,525 are trained on (the first 90 % of the text to within a line), the rest
validates. Published: 1.88 nats a character after 2,000 steps of 12 x 64 characters (nanoGPT's README); a step here is
32 x 128 characters, five times as many.

    s2sjax train --config=configs/tinyshakespeare/gpt2.py --workdir=runs/shakespeare --config.data.dir=DIR

Reached on the last tenth: 1.60 nats a character, 2.31 bits a byte; one busy EPYC (Zen 5) core, 33 minutes, 2026-11-21,
commit fb2e5b8. (Each line ended with end-of-sentence then, one token too. Now a line end is a character, so that the
model writes lines when it goes on with a text.)
"""

from s2sjax.experiment import base_config


def get_config():
    config = base_config(model="causal_lm", task="language")

    config.task.join = True
    config.task.keep_line_ends = True
    config.task.context = 128
    config.task.stride = 64
    config.data.target = "{split}.txt"
    config.data.train = "input[:35525]"
    config.data.validation = "input[35525:]"
    config.data.test = "input[35525:]"
    config.batching.buckets = 1
    config.batching.tokens = 4096

    config.tokenizer.kind = "char"

    config.model.layers = 4
    config.model.width = 128
    config.model.hidden = 512
    config.model.heads = 4
    config.model.positions = "learned"
    config.model.max_positions = config.task.context
    config.model.mlp = "gelu_tanh"
    config.model.scale_embeddings = False
    config.model.dropout = 0.1

    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0

    config.train.steps = 2000
    config.train.precision = "bfloat16_products"
    config.train.label_smoothing = 0.0

    config.evaluate.every_steps = 500
    config.evaluate.samples = 0
    config.checkpoint.every_steps = 500
    return config
