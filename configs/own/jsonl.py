"""Your own pairs as JSON lines: questions, dialogues, articles, whose texts may hold line breaks and several answers.

    s2sjax train --config=configs/own/jsonl.py --workdir=runs/own_jsonl

runs as it is, in half a minute: on a dozen lines that it writes to own/pairs.jsonl in the cache directory
(~/.cache/s2sjax, or $S2SJAX_CACHE), and that it learns by heart. Your own file goes after a colon, and is parted: its
first 90 % are trained on, the next 5 % validate, the last 5 % are the test split.

    s2sjax train --config=configs/own/jsonl.py:pairs.jsonl --workdir=runs/mine \
        --config.data.source="{title}: {article}" --config.data.target=summary

A field within a field has dots, "translation.en". A target that is a list of texts holds references: the first is
trained on, and evaluation compares with all. Files of their own for each split go after the colon, too:
`--config=configs/own/jsonl.py:{split}.jsonl --config.data.dir=DIR --config.data.train=train
--config.data.validation=dev --config.data.test=test`. Without a colon, sizes are for the dozen lines above.
What is longer than `batching.max_source_length` tokens is left out of training, which the log says.
"""

import json

from s2sjax import recipes
from s2sjax.data.cache import write
from s2sjax.files.paths import cache_root

EXAMPLE = [
    ("Italy", "What is the capital of Italy?", ["Rome", "It is Rome."]),
    ("Italy", "What do people speak there?", ["Italian"]),
    ("Peru", "What is the capital of Peru?", ["Lima", "It is Lima."]),
    ("Peru", "What do people speak there?", ["Spanish", "Quechua"]),
    ("Kenya", "What is the capital of Kenya?", ["Nairobi"]),
    ("Kenya", "What do people speak there?", ["Swahili", "English"]),
    ("Japan", "What is the capital of Japan?", ["Tokyo", "It is Tokyo."]),
    ("Japan", "What do people speak there?", ["Japanese"]),
    ("a poem", "Write two lines\nabout a rose.", ["The rose is red,\nthe sky is blue."]),
    ("a poem", "Write two lines\nabout the sea.", ["The sea is deep,\nthe fish are few."]),
    ("a list", "Name two colours.", ["red\nblue"]),
    ("a list", "Name two numbers.", ["one\ntwo"]),
]


def get_config(argument: str = ""):
    config = recipes.own_pairs(steps=10_000 if argument else 150, validations=10 if argument else 3)

    config.data.format = "jsonl"
    config.data.source, config.data.target = "{about}: {question}", "answers"
    if argument:
        config.data.file = argument
        config.data.train, config.data.validation, config.data.test = "all[:90%]", "all[90%:95%]", "all[95%:]"
        config.batching.tokens = 4096
        config.tokenizer.vocab_size = 8000
        config.model.encoder_layers = config.model.decoder_layers = 3
    else:
        path = cache_root() / "own" / "pairs.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        records = [dict(zip(("about", "question", "answers"), row, strict=True)) for row in EXAMPLE]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        write(path, lambda file: file.write(lines.encode()))
        config.data.dir, config.data.file = str(path.parent), path.name
        config.data.train = config.data.validation = config.data.test = "all[:]"
        config.batching.tokens, config.batching.buckets = 512, 1
        config.tokenizer.vocab_size = 120
        config.model.encoder_layers = config.model.decoder_layers = 1

    config.tokenizer.kind = "bpe"
    config.evaluate.metrics = ("exact_match", "rougeL", "chrf")
    return config
