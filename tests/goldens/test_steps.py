"""The training step of every family, as StableHLO, is what it was."""

import pytest

from tests.goldens.stablehlo import normalised, operations, summary
from tests.goldens.steps import FAST, STEPS
from tests.goldens.stored import HONEST, read, versions

HELD = read("steps")


def test_every_family_and_variant_is_held():
    assert STEPS.keys() == HELD["steps"].keys(), f"renew what is held. {HONEST}"


@pytest.mark.skipif(
    versions() != HELD["versions"], reason=f"steps were held with {HELD['versions']}; other versions write other ones"
)
@pytest.mark.fast_grid(2)
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in STEPS]
)
def test_the_step_is_the_one_that_is_held(name):
    held, found = HELD["steps"][name], summary(STEPS[name].text())
    pairs = {k: (held["operations"].get(k, 0), found["operations"].get(k, 0)) for k in sorted(
        held["operations"].keys() | found["operations"].keys()
    )}  # fmt: skip
    changed = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    assert found["sha256"] == held["sha256"], (
        f"the step of {name} is another program; operations that were and are: "
        f"{changed or 'the same, in another order or of other arrays'}. {HONEST}"
    )


MODULE = """\
#loc1 = loc("x")
module @jit_{name} attributes {{mhlo.num_partitions = 1 : i32}} {{
  func.func public @main(%arg0: tensor<2xf32> loc("x")) -> (tensor<2xf32> {{jax.result_info = "{name}"}}) {{
    %0 = call @{name}_part(%arg0) : (tensor<2xf32>) -> tensor<2xf32> loc("{name}:f(x)"(#loc1))
    return %0 : tensor<2xf32> loc(#loc)
  }} loc(#loc)
  func.func private @{name}_part(%arg0: tensor<2xf32> loc("{name}.py":1:2)) -> tensor<2xf32> {{
    %0 = stablehlo.{operation} %arg0, %arg0 : tensor<2xf32> loc(#loc1)
    return %0 : tensor<2xf32> loc(#loc)
  }} loc(#loc)
}} loc(#loc)
"""


def test_names_and_places_do_not_count_and_operations_do():
    one = normalised(MODULE.format(name="step", operation="add"))
    assert one == normalised(MODULE.format(name="another", operation="add"))
    assert one != normalised(MODULE.format(name="step", operation="multiply"))
    assert "loc" not in one and "step" not in one and "x" not in one.replace("2xf32", "")
    assert operations(one) == {"call": 1, "func.func": 2, "return": 2, "stablehlo.add": 1}
