"""What is computed does not depend on where: steps with dropout on one device and on many, in whichever parts."""

import functools

import numpy as np
import pytest

from s2sjax.inspection.collectives import read_collectives
from tests.computation import compute, start
from tests.tiny import compiling_once, tiny, write_text


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = tmp_path_factory.mktemp("same")
    with compiling_once(place / "xla"):
        yield write_text(place)


COPYING = {"model__copy": True, "model__coverage_weight": 0.5}
FAMILIES = {
    "lstm": ("rnn_seq2seq", {"model__dropout": 0.2}),
    "gnmt": ("gnmt", {"model__dropout": 0.2}),
    "transformer": ("transformer", {"model__dropout": 0.2, "model__mlp": "gelu"}),
    "copying": ("transformer", {"model__dropout": 0.2, "model__mlp": "gelu", **COPYING}),
    "copying, lstm": ("rnn_seq2seq", {"model__dropout": 0.2, **COPYING}),
    "causal_lm": ("causal_lm", {"model__dropout": 0.2, "model__mlp": "gelu", "model__positions": "relative"}),
    "experts": (
        "causal_lm",
        {
            "model__dropout": 0.1, "model__hidden_dropout": 0.2, "model__mlp": "swiglu", "model__experts": 4,
            "model__prefix": True, "model__kv_heads": 1, "model__positions": "rotary", "model__window": 6,
        },
    ),
    "encoder": ("encoder", {"model__dropout": 0.2, "model__mlp": "gelu", "model__positions": "learned"}),
    "rnn_encoder": ("rnn_encoder", {"model__dropout": 0.2, "model__layers": 2}),
}  # fmt: skip

SCAN = {"model__dropout": 0.2, "model__scan": True, "model__remat": "full"}
REMATERIALISED = {
    "causal_lm, scan": ("causal_lm", SCAN | {"model__layers": 3}),
    "causal_lm": ("causal_lm", {"model__dropout": 0.2, "model__remat": "dots"}),
    "transformer, scan": ("transformer", SCAN | {"model__remat": "dots"}),
    "copying, scan": ("transformer", SCAN | COPYING),
    "griffin": ("griffin", {"model__dropout": 0.2, "model__remat": "full", "model__repeats": 2}),
    "gnmt": ("gnmt", {"model__dropout": 0.2, "model__remat": "full", "model__encoder_layers": 4}),
    "experts, scan": ("causal_lm", SCAN | {"model__experts": 4}),
    "encoder, scan": ("encoder", SCAN | {"model__layers": 3}),
}
"""They gather each layer's parameters when it runs, if these are split over `fsdp`."""

PLACES = {
    "8x1": {"mesh__data": 8},
    "4x2": {"mesh__data": 4, "mesh__fsdp": 2},
    "2x2x2": {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2},
    "sequence": {"mesh__data": 2, "mesh__sequence": 2, "mesh__tensor": 2},
    "accumulate": {"mesh__data": 1, "train__accumulate": 4},
    "expert": {"mesh__data": 2, "mesh__expert": 2, "mesh__sequence": 2},
}


STORED_IN_PARTS = {
    "8": {"mesh__fsdp": 8},
    "2x2x2": {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2},
    "sequence": {"mesh__fsdp": 4, "mesh__sequence": 2},
    "accumulate": {"mesh__fsdp": 4, "train__accumulate": 2},
    "expert": {"mesh__fsdp": 2, "mesh__expert": 4},
}


def devices(place) -> int:
    return int(np.prod([size for name, size in place.items() if name.startswith("mesh__")]))


@functools.cache
def on_one_device(data, family, options, steps):
    expected = compute(tiny(data, family, batching__row_multiple=8, train__steps=steps, **dict(options)), 1)
    assert len(set(expected.losses)) == steps, "no two steps are alike"
    return expected


def assert_same(data, case, place, steps):
    family, options = case
    got = compute(tiny(data, family, batching__row_multiple=8, train__steps=steps, **options, **place), devices(place))
    expected = on_one_device(data, family, tuple(options.items()), steps)
    assert got.batches == expected.batches
    np.testing.assert_allclose(got.losses, expected.losses, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.grid(3)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FAMILIES)
def test_thirty_steps_are_the_same_everywhere(name, place, data):
    if place == "expert" and name != "experts":
        pytest.skip("without experts the axis is as data")
    assert_same(data, FAMILIES[name], PLACES[place], steps=30)


@pytest.mark.slow
@pytest.mark.grid(3)
@pytest.mark.parametrize("place", STORED_IN_PARTS)
@pytest.mark.parametrize("name", REMATERIALISED)
def test_layers_that_gather_their_parameters_compute_the_same(name, place, data):
    if place == "expert" and "experts" not in name:
        pytest.skip("without experts the axis is as data")
    assert_same(data, REMATERIALISED[name], STORED_IN_PARTS[place], steps=30)


def test_devices_and_parts_together_are_one_device(data):
    place = {"mesh__fsdp": 2, "mesh__sequence": 2, "mesh__data": 1, "train__accumulate": 2}
    assert_same(data, FAMILIES["encoder"], place, steps=3)


@pytest.mark.slow
def test_attention_moves_keys_and_values_only_and_slices_exchange_nothing_but_gradients(data):
    """What XLA made of a step on 2 slices of 4 devices, each with 2 parts of a row and 2 of every layer."""
    place = {"mesh__slices": 2, "mesh__data": 2, "mesh__sequence": 2, "mesh__tensor": 2}
    options = {"model__width": 32, "model__heads": 4, "model__dropout": 0.1}
    options |= {"batching__row_multiple": 8, "train__steps": 1}
    mesh, plan, step, state, batches = start(tiny(data, "transformer", **options, **place), 8)
    assert [device.id for device in mesh.devices[0].flat] == [0, 1, 2, 3]
    program = step.lower(state, next(batches)).compile().as_text()
    collectives = read_collectives(program, mesh.shape)
    shape = plan.shapes[0]
    most = 4 * shape.rows // 2 * max(shape.source, shape.target) * options["model__width"] // 2  # bytes, by 2 x 2
    moved = [c for c in collectives if "sequence" in c.axes and c.kind != "all-reduce"]
    assert moved and max(c.payload for c in moved) == most, "keys, values, and nothing that is larger"
    assert sum(c.payload == most and c.kind == "all-gather" for c in moved) == 6, "two for each of three attentions"
    assert {c.kind for c in collectives if "data" in c.axes} == {"all-reduce"}
    assert not [c for c in collectives if "?" in c.axes], "every group of devices is one of the mesh"
