import ast
import dataclasses
import json

import pytest
from ml_collections import ConfigDict, config_flags

from s2sjax import experiment as experiments
from s2sjax import models, tasks
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment, base_config, config_dict, resolve
from tests.config_files import CONFIGS, FILES, config_names, config_of


def load_config_file(name: str) -> ConfigDict:
    """What the command line makes of it. Args: name: one of `config_names`."""
    from absl import flags

    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["s2sjax"])
    file, colon, variant = name.partition(":")
    values(["s2sjax", f"--config={CONFIGS / file}.py{colon}{variant}"])
    return values["config"].value


@pytest.mark.parametrize("name", config_names())
def test_every_config_file_resolves_and_survives_the_way_through_json(name, tmp_path):
    made = resolve(load_config_file(name))
    experiments.save(made, tmp_path / "config.json")
    assert experiments.load(tmp_path / "config.json") == made
    assert resolve(config_dict(made)) == made


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: path.stem)
def test_every_config_file_opens_with_what_it_is_and_the_command(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""')
    docstring = text.split('"""')[1]
    assert str(path.relative_to(CONFIGS.parent)) in docstring or "launch/" in docstring


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_config_file_takes_an_argument_and_ignores_it(path):
    (function,) = [n for n in ast.parse(path.read_text()).body if getattr(n, "name", "") == "get_config"]
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    assert {argument.arg for argument in function.args.args} <= used


@pytest.mark.parametrize("name", sorted({name.partition(":")[0] for name in config_names() if ":" in name}))
def test_a_variant_that_a_config_does_not_have_is_told_with_those_that_it_has(name):
    variants = [variant for file, _, variant in (n.partition(":") for n in config_names()) if file == name and variant]
    with pytest.raises(UserError, match=f"'smaller' is no variant of configs/{name}.py: say .*{' or '.join(variants)}"):
        config_of(f"{name}:smaller")


@pytest.mark.parametrize("family", models.families())
def test_a_familys_base_config_is_its_defaults(family):
    task = "text" if family in models.text_writers() else "classification"
    made = resolve(base_config(model=family, task=task))
    assert made == Experiment(family, models.family(family).Config(), tasks.named(task)())
    assert base_config(model=family, task=task).model.name == family


def test_the_names_that_every_config_shares_are_there():
    config = base_config()
    assert {"steps"} <= set(config.train) and {"every_steps"} <= set(config.checkpoint)
    assert {"dir"} <= set(config.data) and {"beam_size"} <= set(config.decode) and "seed" in config


def test_a_new_key_cannot_be_set_in_a_config_file():
    config = base_config()
    with pytest.raises(AttributeError, match="lerning_rate"):
        config.optimizer.lerning_rate = 1.0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sead": 1}, "config.sead is not a config key: did you mean 'seed'"),
        ({"optimizer": {"lerning_rate": 1.0}}, "config.optimizer.lerning_rate .* did you mean 'learning_rate'"),
        ({"model": {"name": "transformr"}}, "config.model.name is 'transformr': did you mean 'transformer'"),
        ({"model": {}}, "config.model.name is None: known: causal_lm, encoder, gnmt, griffin"),
        ({"model": 5}, "config.model is 5"),
        ({"model": {"name": "../transformer"}}, "config.model.name is '../transformer'"),
        ({"model": {"name": "transformer", "witdh": 8}}, "config.model.witdh .* did you mean 'width'"),
        ({"model": {"name": "transformer", "heads": 3}}, "width 128 is not divisible by config.model.heads 3"),
        ({"model": {"name": "transformer", "heads": 0}}, "config.model.heads"),
        ({"model": {"name": "transformer", "dropout": 1.5}}, "config.model.dropout is 1.5"),
        ({"model": {"name": "rnn_seq2seq", "dropout": -0.1}}, "config.model.dropout is -0.1"),
        (
            {"model": {"name": "transformer", "encoder_window": 8}, "mesh": {"sequence": 2}},
            "sequence is 2, but config.model.encoder_window is 8.*set config.mesh.sequence=1",
        ),
        (
            {"model": {"name": "transformer"}, "mesh": {"sequence": 3}},
            "sequence is 3, but rows have multiples of 4 positions; set config.batching.length_multiple=12",
        ),
        (
            {"model": {"name": "causal_lm", "experts": 3}, "mesh": {"expert": 2}},
            "experts, 3, is not a multiple of it; set config.mesh.expert=1 or config.model.experts=6",
        ),
        ({"seed": "one"}, "config.seed is 'one', but a whole number was expected"),
        ({"data": 5}, "config.data is 5"),
        ({"train": {"precision": "float16"}}, "config.train.precision is 'float16'"),
        ({"train": {"steps": 0}}, "config.train.steps is 0, but must be at least 1"),
        ({"train": {"label_smoothing": 1.0}}, "config.train.label_smoothing is 1.0"),
        ({"evaluate": {"every_steps": 0}}, "every_steps must be at least 1"),
        ({"decode": {"nbest": 9}}, "nbest is 9, but a beam of 5"),
        ({"decode": {"checkpoint": "newest"}}, "config.decode.checkpoint is 'newest': expected best, last or a step"),
        ({"checkpoint": {"metric": "blue"}}, "config.checkpoint.metric is 'blue': did you mean 'bleu'"),
        ({"checkpoint": {"metric": "/loss"}}, "config.checkpoint.metric is '/loss': did you mean 'loss'"),
        ({"task": {"name": "classification"}, "tokenizer": {"source_model": "m"}}, "beside labels .* leave it out"),
        ({"evaluate": {"metrics": ["chrF"]}}, "config.evaluate.metrics is 'chrF': did you mean 'chrf'"),
        ({"evaluate": {"metrics": ["bleu"], "bleu_tokenize": "zhh"}}, "bleu_tokenize is 'zhh': did you mean 'zh'"),
        ({"evaluate": {"rouge_tokenize": "utf8"}}, "config.evaluate.rouge_tokenize is 'utf8': known: ascii, unicode"),
        ({"evaluate": {"decode": False}, "checkpoint": {"metric": "ter"}}, "set config.evaluate.decode=True"),
        ({"batching": {"kind": "bukket"}}, "config.batching.kind is 'bukket': did you mean 'bucket'"),
        ({"data": {"source": ""}}, "needs sources; name one, with config.task.name=text, or .* causal_lm, griffin"),
        (
            {"model": {"name": "encoder"}},
            "=encoder labels what it reads and writes no text; .*: causal_lm, gnmt, griffin",
        ),
        (
            {"model": {"name": "rnn_encoder"}, "data": {"source": ""}},
            "=rnn_encoder labels what it reads and writes no text; .*: causal_lm, griffin, hmm, lstm_lm$",
        ),
        ({"data": {"source": ""}, "model": {"name": "hmm"}}, "set config.evaluate.decode=False"),
        (
            {"data": {"source": ""}, "model": {"name": "hmm"}, "tokenizer": {"joint": False}},
            "set config.tokenizer.joint=True",
        ),
        ({"model": {"name": "transformer", "positions": "learned", "max_positions": 255}}, "may reach position 256"),
        ({"model": {"name": "causal_lm", "positions": "learned", "max_positions": 511}}, "may reach position 512"),
        ({"optimizer": {"clip_norm": -1.0}}, "clip_norm is -1.0, but must not be negative"),
        ({"optimizer": {"b2": 2.0}}, "b2 is 2.0, but must be in 0..1"),
        ({"decode": {"method": "sample", "nbest": 3}}, "method=beam, config.decode.samples=3, or nbest to 1"),
        ({"decode": {"samples": 3}}, "or stochastic, config.decode.nbest=3, or samples to 1"),
        ({"decode": {"temperature": 0.5}}, "a beam draws nothing; set config.decode.method=sample"),
        ({"optimizer": {"name": "em"}}, "goes with config.model.learning=em"),
        ({"model": {"name": "hmm", "learning": "em"}}, "goes with config.model.learning=em"),
        ({"model": {"name": "hmm", "learning": "em"}, "optimizer": {"name": "em"}}, "config.train.label_smoothing=0"),
    ],
)
def test_a_mistake_is_a_sentence_with_the_way_out(change, message):
    values = config_dict(resolve(base_config())).to_dict()
    with pytest.raises(UserError, match=message):
        resolve(values | change)


def test_a_saved_config_that_is_none_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="is not a run directory: it has no config.json"):
        experiments.load(tmp_path / "config.json")
    for text in ("{", "[]", "5", "null", '"x"', '{"model": []}', "[[1]]", "\x00", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError):
            experiments.load(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b'{"model": "\xff"}')
    with pytest.raises(UserError, match="not valid"):
        experiments.load(tmp_path / "config.json")


def test_loading_a_config_runs_nothing(tmp_path):
    values = config_dict(resolve(base_config())).to_dict()
    values["data"]["dir"] = "__import__('os').system('touch " + str(tmp_path / "ran") + "')"
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert experiments.load(tmp_path / "config.json").data.dir.startswith("__import__")
    assert not (tmp_path / "ran").exists()


def test_an_experiment_is_frozen_and_says_everything_as_json():
    made = resolve(base_config())
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.seed = 1
    sections = {f.name for f in dataclasses.fields(Experiment)} - {"model_name"}
    assert set(config_dict(made)) == sections
    json.dumps(config_dict(made).to_dict())
