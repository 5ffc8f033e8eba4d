"""Morphological inflection of lemmas never seen: SIGMORPHON 2023's shared task 0, part 1, in four of its languages.

The argument is a language (deu eng fin spa). Without one, one model learns all four, and reads a tag of the language.

    s2sjax train --config=configs/sigmorphon2023/inflection.py --workdir=runs/inflection --config.data.dir=DIR
    s2sjax evaluate --workdir=runs/inflection --split=validation

Reached without a language, words right on dev in %; dev chose nothing, the last checkpoint counts:

    deu 80.2    eng 95.9    fin 88.0    spa 94.0

One EPYC (Zen 5) core with much other work beside it, 4 minutes for all four, 2026-11-28. One seed. One language alone
was not run.
"""

from s2sjax import recipes

LANGUAGES = ("deu", "eng", "fin", "spa")


def get_config(argument: str = ""):
    recipes.check_variant(argument, LANGUAGES, of="configs/sigmorphon2023/inflection.py")
    chosen = [argument] if argument else LANGUAGES
    config = recipes.inflection({language: files(language) for language in chosen})

    config.model.dropout = 0.3

    config.train.steps = 2100
    return config


def files(language: str) -> dict[str, str]:
    return {
        "file": f"{language}.{{split}}", "train": "trn", "validation": "dev", "test": "dev",
        "source": "{0}#{1}", "target": "2",
    }  # fmt: skip
