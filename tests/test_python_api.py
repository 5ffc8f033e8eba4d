"""What Python offers: everything that is public, what it refuses, and the examples in its docstrings, run."""

import contextlib
import dataclasses
import doctest
import importlib
import inspect
import io
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

import s2sjax
from s2sjax.errors import UserError
from s2sjax.experiment import config_dict, override
from s2sjax.processes.stopping import SIGNALS
from s2sjax.reporting.report import Reporter
from s2sjax.runs.run import Run
from tests.tiny import on_one_device, random_state, tiny, write_run, write_text

OPTIONS = {"decode__beam_size": 2, "decode__max_length_factor": 1.0, "decode__batch_size": 4}
SOURCES = ["abc", "fe", "bad"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("python")


@pytest.fixture(scope="module", autouse=True)
def setting(place):
    with on_one_device(place):
        yield


@pytest.fixture(scope="module")
def make(place, setting):
    """Makes runs that were never trained."""
    data = write_text(place / "data", train=8, held_out=6, longest=4)

    def make(name, family, seed=0, **options):
        experiment = tiny(data, family, **{**OPTIONS, **options})
        checkpoints = {7: (random_state(experiment, seed), {"loss": 1.5})}
        return write_run(place / name, experiment, checkpoints)

    return make


@pytest.fixture(scope="module")
def run(make):
    """A model with attention, of the family that compiles fastest."""
    return s2sjax.load(make("attentive", "rnn_seq2seq", model__attention="dot"))


@pytest.fixture(scope="module")
def tagger(make):
    return s2sjax.load(make("tagger", "hmm"))


CALLS = {
    "decode": lambda run, sources, targets: run.decode(sources),
    "score": lambda run, sources, targets: run.score(sources, targets),
    "logits": lambda run, sources, targets: run.logits(sources, targets),
    "align": lambda run, sources, targets: run.align(sources, targets),
    "explain": lambda run, sources, targets: run.explain(sources, targets and [[target] for target in targets]),
    "tag": lambda run, sources, targets: run.tag(sources),
}
"""Each method that takes texts, with the lists that it takes."""


def test_every_public_method_is_among_the_calls():
    methods = {name for name, value in vars(Run).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert methods == {*CALLS, "evaluate", "with_config"}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "given", ["hello", b"hello", None, 3, {"a": "b"}, {"a"}, [None], ["a", 3], [["a"]], ["\udc80"]]
)
def test_no_method_takes_what_is_no_list_of_texts(run, tagger, name, given):
    asked = tagger if name == "tag" else run
    with pytest.raises(UserError, match=r"^(sources|texts)(\[\d\])? (is|holds) "):
        CALLS[name](asked, given, ["a"])


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("decode", "tag")])
@pytest.mark.parametrize("targets", [["a"], ["a", "b", "c", "d"], [], "abc", [None] * 3, None])
def test_targets_are_one_for_each_source(run, name, targets):
    with pytest.raises(UserError, match="(targets|found)"):
        CALLS[name](run, SOURCES, targets)


@pytest.mark.parametrize("name", CALLS)
def test_of_nothing_nothing_is_said(run, tagger, name):
    assert CALLS[name](tagger if name == "tag" else run, [], []) == []


def test_what_decode_takes_beside_sources_is_checked_too(run):
    for asked, message in (
        ({"prefixes": ["a"]}, "prefixes: 1 item for 3 sources; give one for each"),
        ({"prefixes": "abc"}, "prefixes is one text"),
        ({"phrases": ["abc"] * 3}, r"phrases\[0\] is one text"),
        ({"phrases": [["a"]]}, "phrases: 1 item for 3 sources"),
        ({"choices": "abc"}, "choices is one text"),
        ({"choices": [b"a"]}, r"choices\[0\] is b'a'"),
    ):
        with pytest.raises(UserError, match=message):
            run.decode(SOURCES, **asked)


@pytest.mark.parametrize("split", [None, 3, ["test"]])
def test_a_split_is_a_name(run, split):
    with pytest.raises(UserError, match="split is .*, but the name of a split, such as .test., was expected"):
        run.evaluate(split)


@pytest.mark.parametrize("layer", ["1", 1.5, True])
def test_a_layer_is_a_number(run, layer):
    with pytest.raises(UserError, match="layer .*expected a whole number"):
        run.align(["a"], ["b"], layer=layer)


WRONG = (
    None, 3, -1, 3.5, True, float("nan"), 10**400, np.int64(3), np.float32(1), np.zeros((2, 2)), np.array([1]),
    "x", "", "\0", "\udc80", "a" * 300, np.str_("x"), np.array(["a", "b"]), b"x", [b"x"], bytearray(b"x"),
    [], [1], [None], [["a"]], ("a",), {"a": 1}, {"a"}, object(), abs, Path("x"), io.StringIO("x"), range(2),
)  # fmt: skip
"""Values of many types, each right for some argument and wrong for most."""


def arguments(function):
    return [name for name in inspect.signature(function).parameters if name not in ("self", "changes")]


def attempt(call, *names):
    """What is said of a call with a wrong value; empty if it works.

    A refusal is one sentence that names the argument or the config key.
    """
    try:
        call()
    except UserError as error:
        text = str(error)
        assert any(name in text for name in names) and "\n" not in text and len(text) < 900, text
        assert not re.search(r"object at 0x|<(class|function)|of type (int|str|float|NoneType)\b", text), text
        return text
    return ""


@pytest.mark.parametrize("name", [*CALLS, "evaluate"])
def test_whatever_a_method_is_given_works_or_is_refused_in_one_sentence(run, tagger, name):
    asked = tagger if name == "tag" else run
    right = {"sources": ["abc"], "targets": ["a"], "texts": ["abc"], "split": "test"}
    if name == "explain":
        right["found"] = run.decode(["abc"])
    method = getattr(asked, name)
    refused = 0
    for argument in arguments(method):
        given = {key: value for key, value in right.items() if key in arguments(method)}
        for value in WRONG:
            # Of a split that is not there the message names the file or the config key.
            also = ("vocabulary", "split", "config.data", "config.decode") if argument in ("choices", "split") else ()
            refused += bool(attempt(lambda: method(**{**given, argument: value}), argument, *also))  # noqa: B023
    assert refused > len(WRONG) // 2


@pytest.mark.parametrize(
    "key", ["beam_size", "alpha", "method", "forbidden", "expand_late", "data.dir", "evaluate.metrics"]
)
def test_whatever_a_setting_is_given_works_or_is_refused_in_one_sentence(run, key):
    said = [attempt(lambda: run.with_config(**{key: value}), key.split(".")[-1]) for value in WRONG]  # noqa: B023
    assert all("was expected" in text or "expected " in text or "known: " in text or not text for text in said), said
    assert sum(map(bool, said)) > len(WRONG) // 2


def test_whatever_load_train_and_base_config_are_given_works_or_is_refused_in_one_sentence(run, place, monkeypatch):
    monkeypatch.chdir(place)
    for argument in arguments(s2sjax.load):
        for value in WRONG:
            attempt(lambda: s2sjax.load(**{"workdir": run.workdir, argument: value}), argument, "config", "directory")  # noqa: B023
    for value in WRONG:
        attempt(lambda: s2sjax.load(run.workdir, checkpoint=value), "checkpoint")  # noqa: B023
        attempt(lambda: s2sjax.base_config(value), "config.model.name")  # noqa: B023
        attempt(lambda: s2sjax.train(value, "new"), "config")  # noqa: B023
        nowhere = s2sjax.base_config("hmm")
        nowhere.data.source, nowhere.data.target = "{split}.none", "{split}.none"
        attempt(lambda: s2sjax.train(nowhere, value), "workdir", "config.data", "none", "a" * 300)  # noqa: B023
        attempt(lambda: s2sjax.train(nowhere, "new", **{"train.steps": value}), "train.steps", "none")  # noqa: B023
    assert not (place / "new").exists()


def test_a_generator_an_array_and_a_list_are_the_same_sources(run):
    listed = run.decode(SOURCES)
    assert listed == run.decode(source for source in SOURCES) == run.decode(np.array(SOURCES))
    targets = [hypotheses[0] for hypotheses in listed]
    np.testing.assert_allclose(run.score(iter(SOURCES), iter(targets)), [h.score for h in targets], atol=1e-4)


# ---- logits ----


def check_logits(run, atol=1e-5):
    found = [hypotheses[0] for hypotheses in run.decode(SOURCES)]
    targets = ["cab", found[1], ""]
    scores = run.score(SOURCES, targets)
    vocab = run.tokenizers.target.vocab_size
    for pair, score in zip(run.logits(SOURCES, targets), scores, strict=True):
        assert pair.values.dtype == pair.log_probs.dtype == np.float32
        assert pair.values.shape == (len(pair.ids), vocab) and len(pair.tokens) == len(pair.ids)
        np.testing.assert_allclose(pair.log_probs, jax.nn.log_softmax(pair.values), atol=1e-5)
        assert pair.log_probs[range(len(pair.ids)), list(pair.ids)].sum() == pytest.approx(score, abs=atol)
    first, second, last = run.logits(SOURCES, targets)
    assert first.tokens == ("c", "a", "b", "</s>") and last.tokens == ("</s>",)
    assert second.ids == found[1].ids and second.tokens == found[1].tokens
    alone = run.logits(SOURCES[:1], ["cab"])[0]
    np.testing.assert_allclose(alone.values, first.values, atol=1e-5)


def test_logits_are_what_score_adds_up(run):
    check_logits(run)


def test_an_ensemble_s_logits_are_those_of_its_members_together(make, tagger):
    both = s2sjax.load(tagger.workdir, ensemble=[make("other", "hmm", seed=1, model__states=5)])
    check_logits(both)
    pairs = (run.logits(["abc"], ["cab"])[0].log_probs for run in (tagger, *both.others))
    mixture = np.log(np.mean([np.exp(log_probs) for log_probs in pairs], axis=0))
    np.testing.assert_allclose(both.logits(["abc"], ["cab"])[0].values, mixture, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, options",
    [
        ("transformer", {"task__target_order": "right_to_left"}),
        ("causal_lm", {"decode__precision": "bfloat16_products"}),
        ("causal_lm", {"data__source": ""}),
        ("gnmt", {}),
    ],
    ids=["right to left", "prompted", "plain text", "gnmt"],
)
def test_logits_are_what_score_adds_up_of_every_kind_of_run(make, family, options, request):
    check_logits(s2sjax.load(make(request.node.callspec.id.replace(" ", "_"), family, **options)))


# ---- with_config ----


def leaves(run):
    return jax.tree.leaves(run.predictor.params)


def test_other_settings_share_the_parameters_and_say_what_a_run_opened_with_them_says(run):
    changed = run.with_config(beam_size=np.int64(3), nbest=2, **{"batching.max_source_length": 2})
    assert changed.experiment.decode.beam_size == 3 and run.experiment.decode.beam_size == 2
    assert all(one is other for one, other in zip(leaves(run), leaves(changed), strict=True))
    assert changed.decode(SOURCES) == s2sjax.load(run.workdir, experiment=changed.experiment).decode(SOURCES)
    assert [len(found) for found in changed.decode(SOURCES)] == [2, 2, 2]


@pytest.mark.slow
def test_another_precision_is_another_predictor_of_the_same_parameters(run, make, tagger):
    rounded = run.with_config(precision="bfloat16_products")
    opened = s2sjax.load(run.workdir, precision="bfloat16_products")
    assert rounded.decode(SOURCES) == opened.decode(SOURCES)
    again = rounded.with_config(beam_size=1)
    assert all(one is other for one, other in zip(leaves(rounded), leaves(again), strict=True))
    both = s2sjax.load(run.workdir, ensemble=[run.workdir]).with_config(precision="bfloat16_products")
    assert both.others[0].experiment.decode.precision == "bfloat16_products"
    np.testing.assert_allclose(both.score(["abc"], ["cab"]), rounded.score(["abc"], ["cab"]), atol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"beam_sise": 3}, "config.decode.beam_sise is not a config key: did you mean 'beam_size'"),
        ({"beam_size": "3"}, "config.decode.beam_size is '3', but a whole number was expected"),
        ({"beam_size": 0}, "beam_size is 0, expected at least 1"),
        ({"method": "bean"}, "did you mean 'beam'"),
        ({"coverage": 0.1, "data.nonsense": 1}, "config.data.nonsense is not a config key"),
        ({"checkpoint": "last"}, r"checkpoint decides what is loaded, .* s2sjax.load\("),
        ({"decode.checkpoint": "last"}, "decides what is loaded"),
        ({"mesh.data": 1}, "decides what is loaded"),
        ({"model.width": 3}, "model.width is not with_config's to change"),
        ({"task.target_order": "right_to_left"}, "target_order is 'right_to_left', not 'left_to_right', as .* learned"),
        ({"config.seed": 3}, "did you mean 'seed'|config.decode.seed|seed"),
    ],
)
def test_settings_are_checked_as_on_the_command_line(run, changes, message):
    if "config.seed" in changes:  # without a section it is decode's
        assert run.with_config(method="sample", **changes).experiment.decode.seed == 3
        return
    with pytest.raises(UserError, match=message):
        run.with_config(**changes)


# ---- load ----


def test_what_predicts_knows_what_it_reads(run):
    expected = run.experiment.task.ports(*run.tokenizers.vocabularies).reads
    assert run.predictor.scorer.reads == expected
    assert s2sjax.load(run.workdir, ensemble=[run.workdir]).predictor.scorer.reads == expected


def test_a_run_is_of_the_task_that_it_has_learned(run):
    with pytest.raises(UserError, match="config.task.name is 'classification', but what .* has learned is 'text'"):
        s2sjax.load(run.workdir, **{"task.name": "classification"})


def test_load_takes_settings_and_refuses_what_is_no_path(run, make):
    assert (
        s2sjax.load(str(run.workdir), checkpoint=7).step == s2sjax.load(run.workdir, checkpoint=np.int64(7)).step == 7
    )
    assert s2sjax.load(run.workdir, beam_size=1).experiment == override(run.experiment, {"decode.beam_size": 1})
    assert run.metrics == {"loss": 1.5} and run.step == 7
    for arguments, message in (
        ({"workdir": None}, "workdir is None, but the path"),
        ({"ensemble": str(run.workdir)}, "ensemble is one text, .* put it into a list"),
        ({"checkpoint": 8}, "there is no checkpoint 8 in .*there are|there is no other"),
        ({"workdir": ""}, "workdir is '', but the path of a run directory was expected"),
        ({"ensemble": [3]}, r"ensemble\[0\] is 3, but the path"),
        ({"beam": 3}, "config.decode.beam is not a config key"),
    ):
        with pytest.raises(UserError, match=message):
            s2sjax.load(**{"workdir": run.workdir, **arguments})
    config = config_dict(run.experiment)
    config.decode.beam_size = 3
    assert s2sjax.load(run.workdir, experiment=config).experiment.decode.beam_size == 3
    with pytest.raises(UserError, match="config is of type dict, but a ConfigDict was expected"):
        s2sjax.load(run.workdir, experiment=config.to_dict())


def test_what_a_notebook_shows_is_short(run):
    (hypotheses,) = run.decode(["abc"])
    assert repr(run) == f"Run({run.workdir}, rnn_seq2seq, {sum(x.size for x in leaves(run)):,} parameters, step 7)"
    assert repr(hypotheses[0]).startswith(f"Hypothesis({hypotheses[0].text!r}, score=-") and len(repr(hypotheses)) < 120
    assert "array" not in repr(run.align(["abc"], ["cab"])) + repr(run.logits(["abc"], ["cab"]))
    assert json.loads(json.dumps(dataclasses.asdict(hypotheses[0])))["score"] == hypotheses[0].score


def test_the_package_shows_what_it_offers_and_imports_nothing_for_it():
    code = """
import logging, sys, s2sjax
assert {"Hypothesis", "Run", "UserError", "base_config", "load", "train"} <= set(dir(s2sjax)), dir(s2sjax)
assert not {"jax", "numpy", "flax"} & set(sys.modules)
s2sjax.load, s2sjax.train, s2sjax.base_config
assert not logging.root.handlers, "a user's basicConfig would do nothing"
import s2sjax.training.loop
assert callable(s2sjax.train)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- train, and the examples in docstrings ----

NUMBERS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs"}


def numbers_config():
    config = s2sjax.base_config(model="rnn_seq2seq")
    config.data.dir, config.data.source, config.data.target = "data", "{split}.en", "{split}.de"
    config.batching.buckets, config.batching.tokens = 1, 512
    config.tokenizer.kind = "word"
    config.model.width, config.model.encoder_layers, config.model.decoder_layers = 32, 1, 1
    config.model.dropout = 0.0
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-2, 10
    config.train.steps, config.train.log_every, config.train.label_smoothing = 120, 40, 0.0
    config.evaluate.every_steps = config.checkpoint.every_steps = 60
    return config


@pytest.fixture(scope="module")
def numbers(place, setting):
    """A directory with `data` and with `runs/numbers`, a run that has learned to translate numbers."""
    rng = random.Random(0)
    directory = place / "numbers"
    (directory / "data").mkdir(parents=True)
    for split, count in (("train", 300), ("validation", 12), ("test", 12)):
        rows = [[rng.choice(list(NUMBERS)) for _ in range(rng.randint(1, 4))] for _ in range(count)]
        for suffix, lines in (("en", rows), ("de", [[NUMBERS[word] for word in row] for row in rows])):
            text = "".join(" ".join(line) + "\n" for line in lines)
            (directory / "data" / f"{split}.{suffix}").write_text(text, encoding="utf-8")
    with contextlib.chdir(directory):
        run = s2sjax.train(numbers_config(), "runs/numbers")
        assert (run.step, run.metrics["exact_match"]) == (120, 100.0)
        yield directory


@pytest.mark.slow
@pytest.mark.parametrize("module", ["s2sjax", "s2sjax.runs.run", "s2sjax.runs.loading", "s2sjax.python_api"])
def test_the_examples_in_docstrings_say_what_happens(numbers, module):
    names = {"s2sjax": s2sjax, "run": s2sjax.load("runs/numbers")}
    done = doctest.testmod(importlib.import_module(module), extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert done.attempted > 2 and not done.failed


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.slow
def test_training_that_is_interrupted_is_saved_and_goes_on(numbers, monkeypatch):
    """By the stop button of a notebook, and by a signal that somebody else takes as soon as no training does."""
    seen, advance, at = [], Reporter.advance, {30: signal.SIGINT, 50: signal.SIGTERM}

    def advance_and_ask(self, step):
        advance(self, step)
        if step in at:
            os.kill(os.getpid(), at.pop(step))

    monkeypatch.setattr(Reporter, "advance", advance_and_ask)
    mine = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        before, loggers = handlers(), list(logging.root.handlers)
        for name in ("SIGINT", "SIGTERM"):
            with pytest.raises(KeyboardInterrupt, match=f"stopped by {name}"):
                s2sjax.train(numbers_config(), "runs/again", **{"train.steps": 60})
            assert handlers() == before
        assert seen == [signal.SIGTERM] and logging.root.handlers == loggers
    finally:
        signal.signal(signal.SIGTERM, mine)
    with ThreadPoolExecutor() as pool:  # where no signals can be taken
        run = pool.submit(s2sjax.train, None, "runs/again").result()
    assert run.step == 60
    steps = sorted(int(path.name) for path in (numbers / "runs" / "again" / "checkpoints").glob("[0-9]*"))
    assert 60 in steps and 30 < steps[0] < 50


@pytest.mark.slow
def test_a_config_file_trains_as_a_config_does_and_mistakes_are_sentences(numbers):
    values = numbers_config().to_dict()
    (numbers / "config.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    from s2sjax import base_config\n\n"
        f"    config = base_config('rnn_seq2seq')\n    config.update({values!r})\n    return config\n"
    )
    opened = s2sjax.train("config.py", "runs/numbers")  # the same config, or it would be refused
    assert opened.step == 120
    for arguments, message in (
        (("nothing.py", "runs/x"), "config is 'nothing.py', and there is no such file"),
        ((None, "runs/x"), "config is None, which resumes a run, but runs/x holds none: give a config"),
        (({"seed": 1}, "runs/x"), "config is of type dict, but a ConfigDict was expected"),
        ((numbers_config(), None), "workdir is None"),
        ((numbers_config(), "data"), "data is not empty and has no config.json"),
    ):
        with pytest.raises(UserError, match=message):
            s2sjax.train(*arguments)
    with pytest.raises(UserError, match="runs/numbers holds a run of another config: config.seed was 0 and is 1"):
        s2sjax.train(None, "runs/numbers", seed=1)
    with pytest.raises(UserError, match="config.train.step is not a config key: did you mean 'steps'"):
        s2sjax.train(None, "runs/numbers", **{"train.step": 1})
