"""Collectives in XLA's text: what they move, how often, and along which axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from s2sjax.inspection.collectives import read_collectives, summary

MESH = {"data": 2, "fsdp": 1, "tensor": 4}
ALONG_TENSOR = "replica_groups={{0,1,2,3},{4,5,6,7}}"


def program(*lines: str) -> str:
    """An optimised program whose entry has these lines."""
    return "\n".join(["HloModule x", "", "ENTRY %main (p: f32[8]) -> f32[8] {", *(f"  {line}" for line in lines), "}"])


def one(line: str, mesh=MESH):
    (found,) = read_collectives(program(line), mesh)
    return found


@pytest.mark.parametrize(
    "groups",
    [
        ALONG_TENSOR,
        "replica_groups=[2,4]<=[8]",
        "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}",
        "replica_groups=mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] {'axis_1','axis_2'}",
        "replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}",
    ],
)
def test_all_notations_of_groups_are_read(groups):
    found = one(
        f"%r = f32[3,5]{{1,0}} all-reduce(%p), channel_id=1, {groups}, use_global_device_ids=true, to_apply=%add"
    )
    assert (found.kind, found.axes, found.size, found.payload) == ("all-reduce", ("tensor",), 4, 60)


@pytest.mark.parametrize(
    "groups, axes",
    [
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",)),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("replica_groups={{0,1,2,3,4,5,6,7}}", ("data", "tensor")),
        ("replica_groups={}", ("data", "tensor")),
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("?",)),
    ],
)
def test_axes_are_those_along_which_the_devices_of_a_group_differ(groups, axes):
    assert one(f"%r = f32[4]{{0}} all-reduce(%p), {groups}, to_apply=%add").axes == axes


@pytest.mark.parametrize(
    "line, payload, sent",
    [
        ("%r = bf16[16,2]{1,0} all-reduce(%p), GROUPS, to_apply=%add", 64, 96),
        ("%r = (f32[16]{0}, f32[4]{0}) all-reduce(%p, %q), GROUPS, to_apply=%add", 80, 120),
        ("%r = f32[16]{0} all-gather(%p), GROUPS, dimensions={0}", 64, 48),
        ("%r = (f32[4]{0}, f32[16]{0}) all-gather-start(%p), GROUPS, dimensions={0}", 64, 48),
        ("%r = f32[4]{0} reduce-scatter(%p), GROUPS, dimensions={0}, to_apply=%add", 64, 48),
        ("%r = (f32[4]{0}, f32[4]{0}, f32[4]{0}, f32[4]{0}) all-to-all(%a, %b, %c, %d), GROUPS", 64, 48),
        ("%r = f32[16]{0} collective-permute(%p), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}", 64, 64),
    ],
)
def test_what_is_worked_on_is_counted_whole_and_what_is_sent_as_rings_send_it(line, payload, sent):
    found = one(line.replace("GROUPS", ALONG_TENSOR))
    assert (found.payload, found.sent) == (payload, sent)


def test_a_permutation_goes_along_the_axis_in_which_its_ends_differ():
    assert one("%r = f32[1]{0} collective-permute(%p), source_target_pairs={{0,4},{4,0}}").axes == ("data",)


def test_groups_of_one_device_move_nothing_and_what_is_done_was_started():
    lines = (
        "%a = f32[4]{0} all-reduce(%p), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add",
        f"%b = f32[4]{{0}} all-reduce-start(%p), {ALONG_TENSOR}, to_apply=%add",
        "%c = f32[4]{0} all-reduce-done(%b)",
    )
    assert [c.payload for c in read_collectives(program(*lines), MESH)] == [16]


NESTED = """HloModule x

%inner (p: f32[4]) -> f32[4] {
  ROOT %r = f32[4]{0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add
}

%outer (p: f32[4]) -> f32[4] {
  %g = f32[8]{0} all-gather(%p), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
  ROOT %w = f32[4]{0} while(%p), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  ROOT %w = f32[4]{0} while(%p), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"5"}}
}"""


def test_what_stands_in_loops_is_counted_as_often_as_they_run():
    rows = summary(read_collectives(NESTED, MESH))
    assert [(r.kind, r.axes, r.runs, r.payload, r.sent) for r in rows] == [
        ("all-reduce", ("tensor",), 15, 240, 360),
        ("all-gather", ("data",), 5, 160, 80),
    ]


def test_a_loop_of_unknown_length_is_counted_once_and_said_to_be_unknown():
    found = read_collectives(NESTED.replace('{"known_trip_count":{"n":"3"}}', "{}"), MESH)
    assert {c.kind: (c.runs, c.bounded) for c in found} == {"all-reduce": (5, False), "all-gather": (5, True)}


def test_a_compiled_loop_is_read():
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def rows_times_columns(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel @ kernel.T), None), x, kernels)[0]

    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    columns = NamedSharding(mesh, PartitionSpec(None, None, "tensor"))
    kernels = jax.ShapeDtypeStruct((7, 32, 64), jnp.float32, sharding=columns)
    text = jax.jit(rows_times_columns).lower(x, kernels).compile().as_text()
    (row,) = summary(read_collectives(text, dict(mesh.shape)))
    assert row == ("all-reduce", ("tensor",), 7, 7 * 8 * 32 * 4, 7 * 8 * 32 * 4 * 6 // 4)
