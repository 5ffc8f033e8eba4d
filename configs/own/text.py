"""Your own pairs in two files, line N of one beside line N of the other: translation, as corpora come.

    s2sjax train --config=configs/own/text.py --workdir=runs/own_text

runs as it is, in half a minute: on a dozen lines that it writes to own/train.en, own/train.de and their like in the
cache directory (~/.cache/s2sjax, or $S2SJAX_CACHE), and that it learns by heart. Your own directory goes after a colon.

    s2sjax train --config=configs/own/text.py:corpus --workdir=runs/mine \
        --config.data.source={split}.en --config.data.target={split}.de

It reads corpus/train.en and corpus/train.de, and beside them validation.en, test.en and so on, plain or as .gz or .xz.
Where files are called otherwise: `--config.data.validation=dev`. Where there is one pair of files, parts of it:
`--config.data.source=all.en --config.data.target=all.de --config.data.train="all[:-2000]"
--config.data.validation="all[-2000:-1000]" --config.data.test="all[-1000:]"`.

Several references: `--config.data.target="('{split}.de', '{split}.de2')"`. The first is trained on, and evaluation
compares with all. Lines are text as they are: blank ones at the end of both files are left out, and "\\r" before a line
end. Text to go on with, rather than to translate: see configs/tinyshakespeare/gpt2.py.
"""

from s2sjax import recipes
from s2sjax.data.cache import write
from s2sjax.files.paths import cache_root

EXAMPLE = """\
A dog runs.|Ein Hund rennt.
A cat runs.|Eine Katze rennt.
The dog sleeps.|Der Hund schläft.
The cat sleeps.|Die Katze schläft.
A man reads a book.|Ein Mann liest ein Buch.
A woman reads a book.|Eine Frau liest ein Buch.
The man sees a dog.|Der Mann sieht einen Hund.
The woman sees a cat.|Die Frau sieht eine Katze.
Good morning!|Guten Morgen!
Good night!|Gute Nacht!
How are you?|Wie geht es dir?
Thank you very much.|Vielen Dank.
"""


def get_config(argument: str = ""):
    config = recipes.own_pairs(steps=10_000 if argument else 150, validations=10 if argument else 3)

    config.data.source, config.data.target = "{split}.en", "{split}.de"
    if argument:
        config.data.dir = argument
        config.batching.tokens = 4096
        config.tokenizer.vocab_size = 8000
        config.model.encoder_layers = config.model.decoder_layers = 3
    else:
        directory = cache_root() / "own"
        directory.mkdir(parents=True, exist_ok=True)
        for side, language in enumerate(("en", "de")):
            lines = [f"{line.split('|')[side]}\n" for line in EXAMPLE.splitlines()]
            write(directory / f"train.{language}", lambda file, lines=lines: file.write("".join(lines).encode()))
        config.data.dir = str(directory)
        config.data.validation = config.data.test = "train"
        config.batching.tokens, config.batching.buckets = 512, 1
        config.tokenizer.vocab_size = 100
        config.model.encoder_layers = config.model.decoder_layers = 1

    config.tokenizer.kind = "bpe"
    return config
