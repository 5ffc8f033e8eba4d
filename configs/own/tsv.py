"""Your own pairs in one table: words and their features to inflected forms, or whatever stands in your columns.

    s2sjax train --config=configs/own/tsv.py --workdir=runs/own_tsv

runs as it is, in half a minute: on a dozen lines that it writes to own/pairs.tsv in the cache directory
(~/.cache/s2sjax, or $S2SJAX_CACHE), and that it learns by heart. Your own file goes after a colon, and is parted: its
first 90 % are trained on, the next 5 % validate, the last 5 % are the test split (shuffle lines that are sorted).

    s2sjax train --config=configs/own/tsv.py:pairs.tsv --workdir=runs/mine \
        --config.data.source="{lemma}#{features}" --config.data.target=form

The columns are those of the header; without one, `--config.data.header=False`, and they are numbers: "{0}#{2}" and 1.
Comma-separated files: `--config.data.format=csv`. Files of their own for each split go after the colon, too:
`--config=configs/own/tsv.py:{split}.tsv --config.data.dir=DIR --config.data.train=train --config.data.validation=dev
--config.data.test=test`. Without a colon, sizes are for the dozen lines above.

Characters are tokens. `symbol_pattern` makes one token of each tag: "#" or ";" and what follows, up to the next one.
For sentences rather than words: `--config.tokenizer.kind=bpe --config.tokenizer.symbol_pattern=`, and more steps.
"""

from s2sjax import recipes
from s2sjax.data.cache import write
from s2sjax.files.paths import cache_root

EXAMPLE = """\
lemma	features	form
walk	V;PST	walked
walk	V;PRS;3	walks
call	V;PST	called
call	V;PRS;3	calls
jump	V;PST	jumped
jump	V;PRS;3	jumps
sing	V;PST	sang
sing	V;PRS;3	sings
house	N;PL	houses
mouse	N;PL	mice
child	N;PL	children
dog	N;PL	dogs
"""


def get_config(argument: str = ""):
    config = recipes.own_pairs(steps=4000 if argument else 150, validations=8 if argument else 3)

    config.data.format = "tsv"
    config.data.source = "{lemma}#{features}"
    config.data.target = "form"
    if argument:
        config.data.file = argument
        config.data.train, config.data.validation, config.data.test = "all[:90%]", "all[90%:95%]", "all[95%:]"
        config.batching.tokens = 2048
        config.model.encoder_layers = config.model.decoder_layers = 3
    else:
        path = cache_root() / "own" / "pairs.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, lambda file: file.write(EXAMPLE.encode()))
        config.data.dir, config.data.file = str(path.parent), path.name
        config.data.train = config.data.validation = config.data.test = "all[:]"
        config.batching.tokens, config.batching.buckets = 512, 1
        config.model.encoder_layers = config.model.decoder_layers = 1

    config.tokenizer.kind = "char"
    config.tokenizer.symbol_pattern = "[#;][^#;]+"
    config.evaluate.metrics = ("accuracy", "character_error_rate")
    return config
