"""A model's layers, counted before it is traced, for every family."""

import dataclasses

import jax
import pytest

from s2sjax import models
from s2sjax.checkpoints.asked import flatten
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.errors import UserError
from s2sjax.learning import optim
from s2sjax.learning.state import initializer
from s2sjax.ops.linear import Precision
from s2sjax.ports import Ports, Tokens
from s2sjax.runs.depth import check_depth, most_layers
from s2sjax.runs.loading import load
from tests.hostile import within
from tests.tiny import random_state, tiny, tiny_model, write_run


def arrays(family, **overrides):
    """The config of a tiny model, and the arrays of its state."""
    config = tiny_model(family, **overrides)
    ports = Ports(Tokens(10), Tokens(10))
    model = models.build(family, config, ports, precision=Precision.FLOAT32)
    init = initializer(model, ports, optim.make_optimizer(optim.OptimizerConfig(), 9), ema=False)
    return config, flatten(jax.eval_shape(init, jax.random.key(0)))


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize("family", models.families())
def test_every_family_has_as_many_arrays_as_layers_and_no_other_number_makes_more(family):
    config, few = arrays(family)
    scan = {"scan": True} if hasattr(config, "scan") else {}
    assert models.depth(config) <= most_layers(few)
    deeper = {name: 5 for name in models.layers(config) if name != "pattern"}
    for more in ({}, scan):
        config, found = arrays(family, **deeper, **more)
        assert models.depth(config) <= most_layers(found)
    numbers = {field.name for field in dataclasses.fields(config) if type(field.default) is int}
    for name in numbers - models.layers(config).keys():
        value = {"experts": 4, "kv_heads": 1}.get(name, 2 * max(getattr(config, name), 2))
        beside = {"encoder_window": 16} if name == "encoder_global_tokens" else {}  # which bounds it
        _, found = arrays(family, **{name: value}, **beside)
        assert len(found) <= len(few) + 16, name


@pytest.mark.parametrize("name", ["last", "best", "1"])
def test_thousands_of_layers_that_a_checkpoint_has_not_are_refused_before_they_are_traced(name, tmp_path):
    small = tiny(tmp_path / "data")
    run = write_run(tmp_path / "run", small, {1: (random_state(small, 0), {})})
    reader = CheckpointReader(run / "checkpoints")
    check_depth(reader, name, small.model)
    deep = tiny(tmp_path / "data", model__encoder_layers=5000, decode__checkpoint=name)
    with within(5), pytest.raises(UserError, match=r"encoder_layers=5000, config.model.decoder_layers=1 make 5,001"):
        check_depth(reader, name, deep.model)
    with within(5), pytest.raises(UserError, match="made elsewhere|of another model"):
        load(run, experiment=deep)
    check_depth(CheckpointReader(tmp_path / "nothing"), name, deep.model) if name != "1" else None
