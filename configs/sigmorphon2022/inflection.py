"""Morphological inflection in six languages: SIGMORPHON 2022's shared task 0, part 1.

The argument is a language (ara hun kat kor pol tur), for 700 examples in place of 7,000 with _small after it:
"tur_small". Without a language, "" and "small", one model learns all six, and reads a tag of the language.

    s2sjax train --config=configs/sigmorphon2022/inflection.py:small --workdir=runs/inflection --config.data.dir=DIR
    s2sjax evaluate --workdir=runs/inflection --split=validation

Reached without a language, words right on dev in % (published: the task's neural baseline, a character Transformer for
each language, on dev); dev chose nothing, the last checkpoint counts:

    small    ara 52.3; 58.3    hun 40.0; 56.7    kat 27.2; 42.0    kor 18.7; 24.2    pol 50.4; 61.8    tur 64.5; 30.7
    7,000    ara 64.1; 75.5    hun 56.8; 76.6    kat 54.0; 89.9    kor 39.6; 57.3    pol 83.5; 75.3    tur 90.8; 34.6

EPYC (Zen 5), 2026-11-28: 5 minutes on one core with much other work beside it (30 epochs), and 7 on two (12 epochs).
One seed. Of one language alone only "pol_small" was tried, with a width of 128: 50.9.

The task also counts by what training has seen: both lemma and features, one of them, or neither (unseen). This parts
the dev file of a language, and evaluates a part:

    awk -F'\\t' 'NR == FNR {lemma[$1]; tags[$3]; next}
        {part = $1 in lemma ? "lemma" : "unseen"; if ($3 in tags) part = $1 in lemma ? "both" : "feats"
         print > ("dev." part)}' DIR/tur_small.train DIR/tur.dev
    s2sjax evaluate --workdir=runs/inflection --config.data.sets="('tur',)" --config.data.dir=. --split=dev.lemma
"""

from s2sjax import recipes

LANGUAGES = ("ara", "hun", "kat", "kor", "pol", "tur")
VARIANTS = ("small",)


def get_config(argument: str = ""):
    single = (*LANGUAGES, *(f"{language}_small" for language in LANGUAGES))
    recipes.check_variant(argument, (*VARIANTS, *single), of="configs/sigmorphon2022/inflection.py")
    size = "small" if argument.endswith("small") else "large"
    chosen = [argument[:3]] if argument in single else LANGUAGES
    config = recipes.inflection({language: files(language, size) for language in chosen})

    config.model.dropout = 0.4 if size == "small" else 0.3

    one, all_six = {"small": (600, 1500), "large": (1700, 6000)}[size]
    config.train.steps = one if len(chosen) == 1 else all_six
    return config


def files(language: str, size: str) -> dict[str, str]:
    return {
        "file": "{split}", "train": f"{language}_{size}.train", "validation": f"{language}.dev",
        "test": f"{language}.dev", "source": "{0}#{2}", "target": "1",
    }  # fmt: skip
