"""What stands at one position: which families accept what, what is refused and how, and how vectors enter a model."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax import models, sharding, tasks
from s2sjax.api import batch_shapes
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment, base_config, resolve
from s2sjax.learning import optim
from s2sjax.learning.state import abstract_state, initializer
from s2sjax.nn.layers import Dense, Embedding
from s2sjax.nn.source import embed_source, source_embedding
from s2sjax.ops.linear import Precision
from s2sjax.ports import Ports, Tokens, Vectors
from s2sjax.runs.assembly import build_model
from s2sjax.tasks.text import Text
from s2sjax.training.loop import train
from s2sjax.vocabulary import own_vocabulary
from tests.contract.conftest import VECTOR_SUBJECTS, WIDTH, bucketed, packed, vectors_of
from tests.tiny import compiling_once, on_devices, records, tiny, write_text

FLOAT32 = Precision.FLOAT32
TOKENS, VECTORS = Tokens(19), Vectors(WIDTH)
KINDS = {"nothing": None, "tokens": TOKENS, "vectors": VECTORS}
READERS_OF_VECTORS = {"encoder", "gnmt", "rnn_encoder", "rnn_seq2seq", "transformer"}
LANGUAGE_MODELS = {"causal_lm", "griffin", "hmm", "lstm_lm"}
ACCEPTED = {
    ("nothing", "tokens"): LANGUAGE_MODELS,
    ("tokens", "tokens"): set(models.families()),
    ("vectors", "tokens"): READERS_OF_VECTORS,
}
"""Families by what they read and write; the others read and write something else."""


def untied(family: str):
    """A config that vectors can be read with."""
    module = models.family(family)
    fields = {field.name for field in dataclasses.fields(module.Config)}
    return module.Config(**({"tied": "decoder"} if READERS_OF_VECTORS & {family} and "tied" in fields else {}))


@pytest.mark.parametrize("writes", ["tokens", "vectors"])
@pytest.mark.parametrize("reads", KINDS)
@pytest.mark.parametrize("family", models.families())
def test_a_family_is_built_for_what_it_accepts_and_the_rest_is_refused_with_those_that_would_do(family, reads, writes):
    ports, accepted = Ports(KINDS[reads], KINDS[writes]), ACCEPTED.get((reads, writes), set())
    if family in accepted:
        model = models.build(family, untied(family), ports, precision=FLOAT32)
        assert type(model).__module__ == f"s2sjax.models.{family}"
        return
    with pytest.raises(UserError) as refused:
        models.build(family, untied(family), ports, precision=FLOAT32)
    message = str(refused.value)
    assert message.startswith(f"config.model.name is '{family}', which reads tokens")
    assert f"{reads} {'is' if reads == 'nothing' else 'are'} to be read and {writes} to be written: " in message
    advice = message.rpartition(": ")[2]
    alike = {name for name in accepted if (name in models.text_writers()) == (family in models.text_writers())}
    named = set(advice.removeprefix("choose ").split(" or ")) if accepted else set()
    assert named == (alike or accepted)
    assert accepted or advice == "no family does that; choose another config.task.name"


@pytest.mark.parametrize("family", ["gnmt", "rnn_seq2seq", "transformer"])
def test_what_needs_the_tokens_of_a_source_is_refused_where_vectors_are_read(family):
    module = models.family(family)
    for options, remedy in (
        ({"tied": "all"}, "tied is 'all', but the source is vectors, .* set config.model.tied=decoder"),
        ({"tied": "decoder", "copy": True}, "the source is vectors: set config.model.copy=False"),
    ):
        with pytest.raises(UserError, match=remedy):
            models.build(family, module.Config(**options), Ports(VECTORS, TOKENS), precision=FLOAT32)


def test_vectors_have_at_least_one_number():
    with pytest.raises(UserError, match="vectors of 0 numbers say nothing: give them a width of 1 or more"):
        Vectors(0)


@dataclasses.dataclass(frozen=True)
class Frames(Text):
    """A task whose sources are frames."""

    name: ClassVar[str] = "frames"
    defaults: ClassVar[Mapping[str, Any]] = {"model.tied": "decoder"}

    def ports(self, source, target):
        return Ports(VECTORS, Tokens(target.size, target.start))

    def batch(self, planned, examples, **how):
        batch = super().batch(planned, examples, **how)
        return {**batch, "inputs": vectors_of(batch)}


def with_frames(family: str, **model) -> Experiment:
    config = base_config(family)
    for key, value in model.items():
        config.model[key] = value
    return dataclasses.replace(resolve(config), task=Frames())


def test_a_config_is_refused_before_data_is_read_if_no_vocabulary_would_mend_it():
    with_frames("transformer", tied="decoder")
    with pytest.raises(UserError, match=r"^config.model.tied is 'all', but the source is vectors"):
        with_frames("transformer")
    expected = (
        r"^config.model.name is 'causal_lm', which reads tokens and writes tokens, but vectors are to be read and "
        r"tokens to be written: choose gnmt or rnn_seq2seq or transformer$"
    )
    with pytest.raises(UserError, match=expected):
        with_frames("causal_lm")


@pytest.mark.parametrize("task", tasks.names())
def test_defaults_of_a_task_and_a_family_fit_the_vocabularies_that_the_task_has(task):
    for family in models.families():
        try:
            experiment = resolve(base_config(family, task))
        except UserError as error:
            assert "choose" in str(error), "the family cannot do it"
            continue
        sizes = (9, 9) if task == "language" or experiment.task.tokenizer(experiment.tokenizer).joint else (9, 4)
        build_model(experiment, tuple(map(own_vocabulary, sizes)), "float32")


def test_a_task_has_defaults_for_the_keys_that_a_family_has(monkeypatch):
    monkeypatch.setattr(tasks, "named", lambda name: Frames)
    for family in sorted(READERS_OF_VECTORS & set(models.text_writers())):
        config = base_config(family, "frames")
        assert isinstance(resolve(config).task, Frames)
        assert config.model.get("tied", "decoder") == "decoder"


@pytest.mark.slow
def test_training_reads_vectors_on_any_mesh(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "named", lambda name: Frames)
    monkeypatch.setattr("s2sjax.experiment.Text", Frames)
    data, losses = write_text(tmp_path / "data"), []
    settings = {"train__steps": 3, "batching__row_multiple": 8}
    with compiling_once(tmp_path / "xla"):
        for devices, changes in ((1, {"train__accumulate": 2}), (8, {"mesh__fsdp": 2, "mesh__sequence": 2})):
            with pytest.MonkeyPatch.context() as patch:
                on_devices(patch, devices)
                experiment = tiny(data, **settings, **changes)
                assert isinstance(experiment.task, Frames)
                assert train(experiment, tmp_path / str(devices)) == 0
            made = records(tmp_path / str(devices))
            losses.append([record["loss"] for record in made])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert min(record["padding"] for record in made) < 0.6, "positions are counted, and not the numbers at each"


@pytest.mark.parametrize("batch", [bucketed(), packed()], ids=["bucketed", "packed"])
def test_the_shapes_of_a_batch_are_those_that_batches_have(batch):
    rows, source, target = (*batch["inputs"].shape, batch["targets"].shape[1])
    for reads, made in ((TOKENS, batch), (VECTORS, {**batch, "inputs": vectors_of(batch)})):
        shapes = batch_shapes(Ports(reads, TOKENS), rows, source, target)
        assert {name: (x.shape, x.dtype) for name, x in shapes.items()} == {
            name: (x.shape, x.dtype) for name, x in made.items()
        }


@pytest.mark.parametrize("subject", VECTOR_SUBJECTS, ids=lambda subject: subject.name)
def test_every_parameter_of_a_model_of_vectors_has_its_place_on_a_mesh(subject):
    optimizer = optim.make_optimizer(optim.OptimizerConfig(), 9)
    init = initializer(subject.model, Ports(VECTORS, TOKENS), optimizer, ema=True)
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=2))
    rules = models.family(subject.family).sharding_rules(subject.model.config)
    kernel = abstract_state(init, mesh, rules).params["source_embedding"]["kernel"]
    assert kernel.shape == (WIDTH, 16) and "fsdp" in str(kernel.sharding.spec)


def test_vectors_of_variance_one_become_such_vectors_and_what_stands_in_padding_is_nothing():
    rng = np.random.default_rng(0)
    inputs, segments = jnp.asarray(rng.standard_normal((4, 50, 40)), jnp.float32), np.ones((4, 50), np.int32)
    segments[1, 30:], segments[3] = 0, 0
    embedding = source_embedding(Vectors(40), 64, FLOAT32)
    assert isinstance(embedding, Dense)

    def embedded(params, padding):
        given = jnp.where(segments[..., None] > 0, inputs, padding)
        return embedding.apply(params, given, method=lambda own, x: embed_source(own, batch(x), jnp.dtype("float32")))

    def batch(x):
        return {"inputs": x, "input_segments": segments}

    params = embedding.init(jax.random.key(0), inputs)
    params = jax.tree.map(lambda p: p + 0.1 if p.ndim == 1 else p, params)
    x = np.asarray(embedded(params, np.nan))
    np.testing.assert_allclose(x[segments == 0], 0.1, rtol=1e-6)
    assert 0.9 < np.std(x[segments > 0]) < 1.1

    def summed(params, padding):
        return jnp.sum(embedded(params, padding)[segments > 0] ** 2)

    expected = jax.grad(summed)(params, 0.0)
    for padding in (np.nan, np.inf, -3e38):
        jax.tree.map(np.testing.assert_array_equal, expected, jax.grad(summed)(params, padding))
    assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(expected))


def test_a_source_of_tokens_has_the_table_that_it_is_tied_to():
    table = Embedding(19, 8)
    assert source_embedding(TOKENS, 8, FLOAT32, tied=table) is table
    assert source_embedding(TOKENS, 8, FLOAT32) == Embedding(19, 8)
