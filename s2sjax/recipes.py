"""What the configs of one data set share: its files and tokens, the size of its batches, and how a run of it is paced.

A config file begins with one of these, and sets what it is about; what it sets anew counts.
"""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from s2sjax.errors import UserError
from s2sjax.experiment import base_config


def multi30k(*, model: str) -> ConfigDict:
    """English to German in the files of Multi30k (Elliott et al. 2016, arXiv:1605.00459), `train.en`, `val.en`,
    `test_2016_flickr.en` and their like: 8,000 subwords, 2,560 tokens a batch, bfloat16 products."""
    config = base_config(model=model)

    config.data.source = "{split}.en"
    config.data.target = "{split}.de"
    config.data.validation = "val"
    config.data.test = "test_2016_flickr"
    config.batching.tokens = 2560

    config.tokenizer.kind = "bpe"
    config.tokenizer.vocab_size = 8000

    config.optimizer.schedule = "cosine"
    config.optimizer.clip_norm = 1.0

    config.train.precision = "bfloat16_products"

    config.evaluate.decode = False
    config.checkpoint.every_steps = 1000
    return config


def wikitext2(*, model: str) -> ConfigDict:
    """WikiText-2 (Merity et al. 2016, arXiv:1609.07843) as one running text, `train.txt` and its like, in windows of
    64 words of which evaluation only reads half; about two epochs."""
    config = base_config(model=model, task="language")

    config.task.join = True
    config.task.context = 64
    config.task.stride = 32
    config.data.target = "{split}.txt"
    config.data.validation = "valid"
    config.batching.kind = "bucket"
    config.batching.buckets = 1
    config.batching.tokens = 2048

    config.tokenizer.kind = "word"
    config.tokenizer.vocab_size = 40_000  # more than there are: 33,278

    config.train.steps = 2000
    config.train.label_smoothing = 0.0

    config.evaluate.every_steps = 1000
    config.evaluate.samples = 0
    config.checkpoint.every_steps = 1000
    return config


def pronunciation(*, model: str) -> ConfigDict:
    """Spelling to phonemes in TSV files without a header: letters in the first column, phonemes between spaces in the
    second; held-out words are called dev. `sequence_error_rate` is the word error rate."""
    config = base_config(model=model)

    config.data.format = "tsv"
    config.data.header = False
    config.data.source, config.data.target = "0", "1"
    config.data.validation = "dev"

    config.tokenizer.kind = "char"
    config.tokenizer.target_kind = "word"
    config.tokenizer.joint = False

    config.model.tied = "decoder"

    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 400
    config.optimizer.clip_norm = 1.0

    config.train.precision = "bfloat16_products"

    config.evaluate.every_steps = 1000
    config.evaluate.decode = False
    config.evaluate.metrics = ("sequence_error_rate", "token_error_rate", "accuracy")
    config.checkpoint.every_steps = 1000

    config.decode.alpha = 0.0
    return config


def inflection(sets: Mapping[str, Mapping[str, str]]) -> ConfigDict:
    """Lemma and features to the inflected form by an LSTM with attention: letters, and one token for each feature.

    The files are TSV without a header.

    Features in parentheses are tokens too: "sehen#V;IMP;NOM(2,SG)" ends in "#V", ";IMP", ";NOM", "(2", ",SG", ")".

    Args:
        sets: of each language, the keys of its data. Of several, one model learns all, and reads a tag of the language
            before the lemma.
    """
    config = base_config(model="rnn_seq2seq")

    config.data.format = "tsv"
    config.data.header = False
    if len(sets) == 1:
        (only,) = sets.values()
        config.data.update(only)
    else:
        config.data.mixture = {name: {**own, "prompt": f"<{name}>{{source}}"} for name, own in sets.items()}
        config.tokenizer.user_symbols = tuple(f"<{name}>" for name in sets)
    config.batching.buckets = 2
    config.batching.tokens = 2048 if len(sets) > 1 else 1024

    config.tokenizer.kind = "char"
    config.tokenizer.symbol_pattern = r"[#;(,][A-Z0-9][^#;(,)\s]*"

    config.model.tied = "all"
    config.model.width = 192

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0

    config.train.precision = "bfloat16_products"

    config.evaluate.every_steps = 1000
    config.evaluate.decode = False
    config.evaluate.metrics = ("accuracy", "character_error_rate")
    config.checkpoint.every_steps = 1000

    config.decode.alpha = 0.0
    config.decode.checkpoint = "last"
    return config


def own_pairs(*, steps: int, validations: int) -> ConfigDict:
    """A Transformer of width 128 for pairs of one's own, validated so many times while it is trained."""
    config = base_config(model="transformer")

    config.model.width = 128
    config.model.hidden = 256
    config.model.dropout = 0.1

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 20
    config.optimizer.clip_norm = 1.0

    config.train.steps = steps
    config.evaluate.every_steps = steps // validations
    config.train.log_every = config.checkpoint.every_steps = config.evaluate.every_steps
    return config


def check_variant(argument: str, variants: Sequence[str], *, of: str) -> None:
    """Raise a `UserError` if what stands after the colon of `--config=FILE:ARGUMENT` is no variant that the file has.

    Args:
      of: the file, as the message names it.
    """
    if argument not in ("", *variants):
        raise UserError(f"{argument!r} is no variant of {of}: say {of} alone, or after a colon {' or '.join(variants)}")
