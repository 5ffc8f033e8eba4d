"""What inspection says of a run, held to what XLA compiles for it."""

import functools
import math

import jax
import numpy as np
import pytest

from s2sjax import models
from s2sjax.data.plan import Shape
from s2sjax.errors import UserError
from s2sjax.experiment import base_config, resolve
from s2sjax.inspection.compiled import compile_step
from s2sjax.inspection.cost import device_bytes, estimate_cost, list_parameters
from s2sjax.inspection.subject import describe, described_devices
from tests.config_files import config_names, config_of
from tests.tiny import task_of

VOCAB = 1000
FLOAT = 4  # bytes


def experiment(family="causal_lm", **overrides):
    """A small model on text without sources if its family can read that, on batches of 16 rows of 32 tokens."""
    config = base_config(model=family, task=task_of(family))
    language_model = models.family(family).TRAITS.language_model
    values = {"batching__kind": "pack", "batching__pack_length": 32, "batching__tokens": 512, "train__loss_chunk": 64}
    if language_model:
        values |= {"data__source": "", "evaluate__decode": False}
    if family == "hmm":
        values |= {"train__label_smoothing": 0.0}
    if family == "causal_lm":
        values |= {f"model__{name}": size for name, size in (("width", 64), ("hidden", 128), ("layers", 2))}
        values |= {"model__heads": 4, "model__dropout": 0.0}
    for key, value in (values | overrides).items():
        section, name = key.split("__")
        config[section][name] = value
    return resolve(config)


def subject(devices=8, vocab=VOCAB, **overrides):
    return describe(experiment(**overrides), jax.devices()[:devices], vocab, None)


@functools.cache
def compiled(**overrides):
    described = subject(**overrides)
    return described, compile_step(described)


def sent_along(program, kind, *axes):
    """Bytes a device of one kind of collective along these axes, whole."""
    return sum(row.payload for row in program.collectives if row.kind == kind and row.axes == axes)


def parameter_bytes(described, *, split=False):
    """All parameters, or those that are split over anything."""
    return sum(math.prod(p.shape) * FLOAT for p in list_parameters(described) if any(p.split) or not split)


TABLE = VOCAB * 64 * FLOAT


# ---- Described ----


def test_nothing_is_allocated():
    before = sum(x.nbytes for x in jax.live_arrays())
    described = subject(vocab=100_000)
    list_parameters(described)
    estimate_cost(described, "cpu")
    assert sum(x.nbytes for x in jax.live_arrays()) - before < 1000, "random keys, and nothing of the model's size"


@pytest.mark.parametrize("family", models.families())
def test_fsdp_over_eight_devices_stores_an_eighth_and_little_more(family):
    assert_eighth(subject(family=family, vocab=8000, mesh__fsdp=8))


@pytest.mark.fast_grid(3)
@pytest.mark.parametrize("name", config_names())
def test_so_does_every_config_whatever_the_vocabulary(name):
    config = config_of(name)
    config.mesh.fsdp = 8
    config.batching.row_multiple = 8  # a row for each device, of whatever length
    config.batching.tokens = max(config.batching.tokens, 8 * 512)
    assert_eighth(describe(resolve(config), jax.devices(), 33_277, None))


def assert_eighth(described):
    state = described.state.params, described.state.opt_state
    whole = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert device_bytes(state) <= 1.05 * whole / 8


def test_parameters_are_listed_with_what_each_dimension_is_split_over():
    listed = {p.path: p for p in list_parameters(subject(mesh__fsdp=2, mesh__tensor=2))}
    up = listed["decoder/layers_0/mlp/up/kernel"]
    assert (up.shape, up.type, up.split, up.bytes) == ((64, 128), "float32", ("fsdp", "tensor"), 64 * 128)
    assert listed["decoder/norm/scale"].split == ("fsdp",)


def test_the_state_is_what_stays_on_a_device():
    memory = estimate_cost(subject(devices=1, train__ema_decay=0.9), "cpu").memory
    assert memory.parameters == memory.average == parameter_bytes(subject(devices=1))
    assert memory.optimizer == pytest.approx(2 * memory.parameters, abs=16), "two moments, and counters"
    assert memory.batch == 16 * 32 * 5 * FLOAT
    assert memory.peak == memory.stored + memory.batch + memory.step


def test_operations_are_six_a_parameter_and_token_and_those_of_attention():
    cost, tokens, L, D = estimate_cost(subject(devices=1), "cpu"), 16 * 32, 2, 64
    products = 6 * tokens * (L * (4 * D * D + 2 * D * 128) + VOCAB * D)
    attention = 6 * L * 2 * 16 * 32 * 32 * D
    assert cost.flops.total == products + attention
    assert estimate_cost(subject(mesh__tensor=4), "cpu").flops.device == cost.flops.total / 8


def test_without_data_a_batch_has_the_longest_rows_that_the_config_allows():
    assert subject().shape == Shape(16, 0, 32)
    options = {"family": "transformer", "batching__kind": "bucket", "batching__tokens": 768}
    assert subject(**options, batching__max_source_length=24, batching__max_target_length=30).shape == Shape(24, 24, 32)
    assert subject(**options).shape == Shape(8, 96, 96), "of 256 tokens, 8 rows would not fit"


def test_a_batch_that_does_not_divide_is_the_users_error():
    with pytest.raises(UserError, match=r"not divisible by 8 .*config.batching.row_multiple"):
        subject(batching__row_multiple=4, batching__tokens=32 * 12)


def test_without_data_and_vocabulary_the_way_out_is_named():
    with pytest.raises(UserError, match=r"--vocab=\d+"):
        subject(vocab=None, data__dir="/nowhere", data__target="{split}.txt")


# ---- Compiled: communication, formula by formula of BUILD.md ----


def test_rows_over_devices_cost_the_gradient_once_and_a_tied_table_twice():
    described, program = compiled()
    expected = parameter_bytes(described) + TABLE
    assert sent_along(program, "all-reduce", "data") == pytest.approx(expected, abs=100)
    assert {row.kind for row in program.collectives} == {"all-reduce"}
    assert program.bounded


def test_what_xla_counts_as_arguments_is_what_is_stored():
    described, program = compiled()
    memory = estimate_cost(described, "cpu").memory
    assert program.arguments == pytest.approx(memory.stored + memory.batch, rel=0.001)
    assert program.aliased == pytest.approx(memory.stored, rel=0.001), "the state is updated in place"
    assert memory.peak == pytest.approx(program.peak, rel=0.15)


@pytest.mark.slow
def test_fsdp_gathers_each_parameter_once_and_sums_its_gradient_once():
    described, program = compiled(mesh__fsdp=8)
    assert sent_along(program, "all-gather", "fsdp") == pytest.approx(parameter_bytes(described, split=True), abs=100)
    assert sent_along(program, "all-reduce", "fsdp") == pytest.approx(parameter_bytes(described) + TABLE, rel=0.001)
    assert not sent_along(program, "all-to-all", "fsdp")


@pytest.mark.slow
def test_rematerialised_layers_are_gathered_one_by_one_in_each_pass():
    options = {"mesh__fsdp": 8, "model__layers": 8, "model__scan": True, "model__remat": "full"}
    described, program = compiled(**options)
    split = parameter_bytes(described, split=True)
    stacked = split - TABLE
    assert sent_along(program, "all-gather", "fsdp") == pytest.approx(TABLE + 2 * stacked, rel=0.01)
    assert sent_along(program, "all-reduce", "fsdp") == pytest.approx(parameter_bytes(described) + TABLE, rel=0.01)
    _, kept = compiled(**(options | {"model__remat": "none"}))
    assert sent_along(kept, "all-gather", "fsdp") == pytest.approx(split, rel=0.01)
    whole = 2 * stacked * 6 / 8  # parameters and gradients, all but what a device stores and one layer's
    assert program.temporaries < kept.temporaries - whole


@pytest.mark.slow
def test_tensor_parallelism_costs_six_sums_of_activations_a_layer_and_two_at_the_ends():
    described, program = compiled(mesh__data=2, mesh__tensor=4)
    tokens, layers = 16 // 2 * 32, 2
    activations, of_each_token = tokens * 64 * FLOAT, 4 * FLOAT
    expected = (6 * layers + 2) * activations + tokens * of_each_token
    assert sent_along(program, "all-reduce", "tensor") == pytest.approx(expected, abs=300)
    here = device_bytes(described.state.params) + TABLE // 4
    assert sent_along(program, "all-reduce", "data") == pytest.approx(here, rel=0.02)


@pytest.mark.slow
def test_a_sequence_axis_gathers_keys_and_values_of_each_layer_and_scatters_their_gradients():
    _, program = compiled(mesh__data=2, mesh__sequence=4)
    keys_and_values = 2 * 2 * (16 // 2 * 32 * 64 * FLOAT)  # of two layers
    assert sent_along(program, "all-gather", "sequence") == pytest.approx(keys_and_values, rel=0.02)
    assert sent_along(program, "reduce-scatter", "sequence") == keys_and_values
    assert not sent_along(program, "all-to-all", "sequence")


@pytest.mark.slow
def test_an_expert_axis_gathers_tokens_and_scatters_what_experts_make_of_them():
    _, program = compiled(mesh__data=2, mesh__expert=4, model__experts=4)
    both_passes = 2 * 2 * (16 // 2 * 32 * 64 * FLOAT)  # of two layers
    assert sent_along(program, "all-gather", "expert") == pytest.approx(both_passes, rel=0.04), "and of the routing"
    assert sent_along(program, "reduce-scatter", "expert") == pytest.approx(both_passes, rel=0.02)


@pytest.mark.slow
def test_accumulation_gathers_once_and_sums_gradients_in_every_part():
    described, program = compiled(mesh__fsdp=8, train__accumulate=2)
    assert sent_along(program, "all-gather", "fsdp") == pytest.approx(parameter_bytes(described, split=True), rel=0.01)
    whole = parameter_bytes(described) + TABLE
    assert sent_along(program, "all-reduce", "fsdp") == pytest.approx(2 * whole, rel=0.01)


# ---- Compiled: memory ----

LARGER = {"model__width": 128, "model__hidden": 512, "model__layers": 4, "batching__pack_length": 128}
LARGER |= {"batching__tokens": 2048, "train__loss_chunk": 256, "model__scan": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        LARGER,
        LARGER | {"model__scan": False},
        LARGER | {"model__remat": "full"},
        LARGER | {"model__scan": False, "model__remat": "full"},
        LARGER | {"model__scan": False, "train__precision": "bfloat16"},
        LARGER | {"mesh__tensor": 4},
        {"family": "transformer", "devices": 1, "batching__tokens": 1024},
        {"family": "transformer", "devices": 1, "model__encoder_window": 16, "model__encoder_global_tokens": 1}
        | {"batching__kind": "bucket", "batching__tokens": 2048, "batching__row_multiple": 4},
        {"family": "transformer", "devices": 1, "model__copy": True, "model__coverage_weight": 1.0},
        {"family": "rnn_seq2seq", "devices": 1},
        {"family": "rnn_seq2seq", "devices": 1, "model__copy": True},
        {"family": "lstm_lm", "devices": 1},
        {"family": "griffin", "devices": 1},
        {"family": "encoder", "devices": 1},
        {"family": "rnn_encoder", "devices": 1},
    ],
    ids=lambda overrides: "-".join(map(str, overrides.values())),
)
def test_the_estimate_of_memory_is_within_15_percent_of_xlas(overrides):
    described, program = compiled(**({"devices": 1} | overrides if "mesh__tensor" not in overrides else overrides))
    assert estimate_cost(described, "cpu").memory.peak == pytest.approx(program.peak, rel=0.15)


@pytest.mark.slow
@pytest.mark.grid(3)
@pytest.mark.parametrize("name", config_names())
def test_so_is_that_of_every_config(name):
    """By EM within 20: one table more than the estimate has, 101.8 MB in place of 86.6; which one is not known."""
    within = 0.2 if name.endswith(":em") else 0.15
    vocabularies = {
        "wikitext2": 33_278, "cmudict": 60, "sigmorphon2020": 60, "sigmorphon2022": 839, "sigmorphon2023": 156,
        "tinyshakespeare": 69, "chess": 422,
    }  # fmt: skip
    described = describe(resolve(config_of(name)), jax.devices()[:1], vocabularies.get(name.split("/")[0], 8000), None)
    assert estimate_cost(described, "cpu").memory.peak == pytest.approx(compile_step(described).peak, rel=within)


def long_source(tokens, **overrides):
    """A step on one long source, of an encoder and a decoder of one block each."""
    values = {"model__encoder_layers": 1, "model__decoder_layers": 1, "model__width": 64, "batching__buckets": 1}
    values |= {"batching__kind": "bucket", "batching__row_multiple": 1, "batching__length_multiple": 32}
    values |= {"batching__max_source_length": tokens, "batching__tokens": tokens, "batching__max_target_length": 32}
    return {"family": "transformer", "devices": 1} | values | overrides


WINDOW = {"model__encoder_window": 64, "model__encoder_global_tokens": 1}


def test_with_a_window_a_steps_memory_and_operations_are_linear_in_the_length_of_sources():
    def growth(**overrides):
        short, long = (estimate_cost(subject(**long_source(n, **overrides)), "cpu") for n in (2048, 4096))
        return long.memory.step / short.memory.step, long.flops.total / short.flops.total

    memory, flops = growth(**WINDOW)
    assert memory < 2.2 and flops < 2.2
    assert min(growth()) > 2.8, "of full attention"


@pytest.mark.slow
def test_so_are_xlas_temporaries():
    def temporaries(tokens, **overrides):
        return compiled(**long_source(tokens, **overrides))[1].temporaries

    assert temporaries(4096, **WINDOW) < 2.2 * temporaries(2048, **WINDOW)
    assert temporaries(2048, **WINDOW) < 0.4 * temporaries(2048)


@pytest.mark.slow
def test_rematerialisation_and_chunks_of_the_loss_lower_the_peak():
    options = LARGER | {"devices": 1, "vocab": 8000}
    kept = compiled(**options)[1].peak
    again = compiled(**options, model__remat="full")[1].peak
    whole = compiled(**options | {"train__loss_chunk": 2048}, model__remat="full")[1].peak
    assert again < 0.7 * kept and again < 0.9 * whole


def test_described_devices_are_those_that_are_there_as_long_as_they_suffice():
    assert described_devices(None) == jax.devices()
    assert described_devices(3) == jax.devices()[:3]
    with pytest.raises(UserError, match="at least 1"):
        described_devices(0)


def test_a_device_has_the_bytes_of_its_shard():
    described = subject(mesh__fsdp=8)
    table = described.state.params["target_embedding"]["table"]
    assert device_bytes(table) == np.prod(table.sharding.shard_shape(table.shape)) * FLOAT == TABLE // 8
