"""Questions on children's stories, FairytaleQA (Xu et al. 2022, arXiv:2203.13947): a passage and a question to an
answer of a few words, by a pointer-generator network; after a colon, `types` tells the kind of a question instead.

The files are `train.csv` and `val.csv`, all stories of a split in one file with a column `story_section` for the
passage; compressed ones need `--config.data.file={split}.csv.xz`. An answer is compared with both annotators'; of ROUGE
the better counts.

    s2sjax train --config=configs/fairytaleqa.py:types --workdir=runs/types --config.data.dir=DIR
    s2sjax train --config=configs/fairytaleqa.py --workdir=runs/answers --config.data.dir=DIR
    s2sjax evaluate --workdir=runs/types --split=validation

Reached on validation: types 96.2 % accuracy, 95.8 macro F1 after 42 s (the same questions chose the checkpoint);
answers 16.2 ROUGE-L, 0.8 % exact after 11 min on one EPYC (Zen 5) core with other work beside it, 2026-11-28. One seed.
The sentence of the passage with most words of the question has 20.5, "the" for every question 13.4, and the second
annotator, compared with the first, 64.8: 8,548 questions alone do not teach answering.
"""

from s2sjax import recipes
from s2sjax.experiment import base_config

VARIANTS = ("types",)


def get_config(argument: str = ""):
    recipes.check_variant(argument, VARIANTS, of="configs/fairytaleqa.py")
    config = types() if argument else answers()
    config.data.format = "csv"
    config.data.file = "{split}.csv"
    config.data.validation = config.data.test = "val"
    config.optimizer.schedule = "cosine"
    config.optimizer.clip_norm = 1.0
    return config


def types():
    """Which of seven kinds a question is of: about a character, a setting, a feeling, ..."""
    config = base_config(model="rnn_seq2seq", task="classification")

    config.data.source, config.data.target = "question", "attribute1"
    config.batching.tokens = 2048

    config.tokenizer.kind = "word"
    config.tokenizer.vocab_size = 4000

    config.model.width = 128

    config.optimizer.warmup_steps = 30
    config.train.steps = 300

    config.evaluate.every_steps = 100
    config.checkpoint.metric = "macro_f1"
    return config


def answers():
    """Question and passage in, the answer out."""
    config = base_config(model="rnn_seq2seq")

    config.data.source = "{question} {story_section}"
    config.data.target = ("answer1", "answer4")
    config.batching.max_source_length = 400
    config.batching.max_target_length = 40
    config.batching.tokens = 3200
    config.batching.buckets = 3

    config.tokenizer.kind = "bpe"
    config.tokenizer.vocab_size = 8000

    config.model.width = 128
    config.model.tied = "all"
    config.model.dropout = 0.2
    config.model.copy = True

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 200
    config.train.steps = 3000

    config.evaluate.every_steps = 1000
    config.evaluate.decode = False
    config.evaluate.metrics = ("rougeL", "exact_match")
    config.checkpoint.every_steps = 1000

    config.decode.max_new_tokens = 40
    config.decode.alpha = 1.0
    config.decode.min_length_offset = 6  # without, three words are the likeliest answer to most questions
    return config
