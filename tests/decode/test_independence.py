"""What a sentence is translated to is its own affair: a thousand real sentences, in five kinds of company."""

import dataclasses
import random
from collections.abc import Iterable

import pytest

import s2sjax
from s2sjax.data.phrases import TAGS, phrases
from s2sjax.experiment import base_config, resolve
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.training.loop import train
from tests.tiny import compiling_once, on_devices

TOLERANCE = 1e-4
"""In nats. Scores are equal to this; two hypotheses of one sentence that are closer are a tie, and may swap."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A Transformer that has seen the phrases for 150 updates: it has opinions, and many of them are close."""
    place = tmp_path_factory.mktemp("phrases")
    config = base_config(model="transformer")
    config.data.format = "phrases"
    config.data.cache_dir = str(place / "cache")
    config.batching.kind = "pack"
    config.batching.pack_length = 48
    config.batching.tokens = 1536
    config.tokenizer.kind = "unigram"
    config.tokenizer.vocab_size = 1200
    config.tokenizer.split_digits = True
    config.tokenizer.user_symbols = TAGS
    config.tokenizer.max_train_sentences = 20_000
    config.model.width = config.model.hidden = 64
    config.model.encoder_layers = config.model.decoder_layers = 1
    config.model.dropout = 0.0
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_steps = 30
    config.train.steps = 150
    config.evaluate.decode = False
    config.evaluate.samples = 0
    with pytest.MonkeyPatch.context() as patch, compiling_once(place / "xla"):
        on_devices(patch, 1)
        train(resolve(config), place / "run")
        yield s2sjax.load(place / "run")


def translations(run, groups: Iterable[list[str]], **decode) -> dict[str, Hypothesis]:
    """The best hypothesis of each sentence, where each group is decoded by a call of its own."""
    experiment = dataclasses.replace(run.experiment, decode=dataclasses.replace(run.experiment.decode, **decode))
    here = s2sjax.load(run.workdir, experiment=experiment)
    return {
        source: hypotheses[0]
        for group in groups
        for source, hypotheses in zip(group, here.decode(group), strict=True)
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.grid(3)
@pytest.mark.parametrize("part", range(3))
def test_the_best_hypothesis_does_not_depend_on_company_order_or_nbest(run, part):
    """Every third of 1,000 sentences."""
    sources = list(dict.fromkeys(pair["source"] for pair in phrases("test")))[:1000]
    assert len(sources) == 1000
    sources = sources[part::3]
    shuffled = random.Random(0).sample(sources, len(sources))

    def groups(texts, size):
        return [texts[i : i + size] for i in range(0, len(texts), size)]

    alone = translations(run, groups(sources, 1))
    assert len({h.text for h in alone.values()}) > 100, "a model that says one thing to everybody would prove nothing"
    companies = {
        "in batches of 64": translations(run, groups(sources, 64)),
        "shuffled": translations(run, groups(shuffled, 64)),
        "all at once": translations(run, [shuffled]),
        "5 best": translations(run, [sources], nbest=5),
        "5 best, in odd batches": translations(run, groups(shuffled, 37), nbest=5, batch_size=16),
    }
    wrong, ties, largest = [], {}, 0.0
    for name, found in companies.items():
        ties[name] = 0
        for source in sources:
            a, b = alone[source], found[source]
            distance = max(abs(a.score - b.score), abs(a.ranking_score - b.ranking_score))
            if a.tokens == b.tokens:
                largest = max(largest, distance)
            if a.tokens != b.tokens and abs(a.ranking_score - b.ranking_score) < TOLERANCE:
                ties[name] += 1
            elif a.tokens != b.tokens or distance > TOLERANCE:
                wrong.append(f"{name}: {source!r}: {a.text!r} {a.score:.6f}, {b.text!r} {b.score:.6f}")
    print(f"ties: {ties}; the same hypothesis' scores differ by {largest:.1e} nats at most")
    assert not wrong, f"{len(wrong)} of {len(companies) * len(sources)} differ:\n" + "\n".join(wrong[:10])
    assert sum(ties.values()) <= 10, "ties are rare"
