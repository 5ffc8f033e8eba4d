"""A hidden Markov model of 128 states as a word-level language model on WikiText-2.

Learned by gradient, or, with the argument "em", by stepwise EM (Cappe and Moulines 2009, arXiv:0712.4273).

    s2sjax train --config=configs/wikitext2/hmm.py --workdir=runs/wt2_hmm --config.data.dir=DIR

Reached: 322.5 perplexity a word on test, 340.2 on valid, by EM, at commit 3a1eec1; 512.4 and 546.4 by gradient, shortly
before commit 9d2f7e6; one EPYC (Zen 5) core, 10 minutes each with other work beside it, 2026-11-21. One seed.
"""

from s2sjax import recipes

VARIANTS = ("em",)


def get_config(argument: str = ""):
    recipes.check_variant(argument, VARIANTS, of="configs/wikitext2/hmm.py")
    config = recipes.wikitext2(model="hmm")

    config.model.states = 128

    if argument == "em":
        config.model.learning = "em"
        config.optimizer.name = "em"
        config.optimizer.learning_rate = 1.0
        config.optimizer.schedule = "inverse_sqrt"
        config.optimizer.warmup_steps = 1
    else:
        config.optimizer.learning_rate = 2e-2
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup_steps = 100
        config.optimizer.clip_norm = 1.0
    return config
