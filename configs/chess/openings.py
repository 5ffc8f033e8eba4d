"""A language model of chess openings: their moves as words, "1. e4 e5 2. f4", with the numbers as they stand in a game.

The files are `train.tsv` and `dev.tsv` of lichess-org/chess-openings, with a column `pgn`: 3,157 and 300 openings, 15
words on the average. Lines extend one another, so much of a held-out line stands in a line that was trained on.

    s2sjax train --config=configs/chess/openings.py --workdir=runs/chess --config.data.dir=DIR
    s2sjax evaluate --workdir=runs/chess --split=validation
    s2sjax decode --workdir=runs/chess --prompt="1. e4 e5 2. f4" --config.decode.method=sample --config.decode.samples=5

Reached on dev, which chose the checkpoint (step 800): 2.9 perplexity a word, which is 4.8 a move, with the end counted
as one and the numbers, which are certain, as none. The most probable move is legal at 93.4 % of its 1,070 different
positions; of 500 games drawn from the start, as long as the model made them, 95.3 % of the moves are, each game counted
to its first illegal one. `tests/benchmarks/chess_moves.py` has the commands. 126 s in all on one EPYC (Zen 5) core with
much other work beside it, 2026-11-28. One seed.
"""

from s2sjax.experiment import base_config


def get_config():
    config = base_config(model="causal_lm", task="language")

    config.data.format = "tsv"
    config.data.file = "{split}.tsv"
    config.data.target = "pgn"
    config.data.validation = config.data.test = "dev"
    config.batching.tokens = 2048
    config.batching.buckets = 2

    config.tokenizer.kind = "word"

    config.model.layers = 3
    config.model.width = 128
    config.model.hidden = 512
    config.model.heads = 4
    config.model.positions = "learned"
    config.model.max_positions = 256
    config.model.dropout = 0.2

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0

    config.train.steps = 1000
    config.train.precision = "bfloat16_products"
    config.train.label_smoothing = 0.0

    config.evaluate.every_steps = 200
    config.checkpoint.every_steps = 200
    return config
