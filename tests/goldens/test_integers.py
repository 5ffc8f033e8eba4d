"""Batches, with the tokens in them, and resolved configs are what they were."""

import pytest

from tests.goldens.integers import batch_lines, resolved_configs
from tests.goldens.stored import HONEST, read

HELD = read("integers")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return batch_lines(tmp_path_factory.mktemp("batches"))


@pytest.mark.parametrize("name", HELD["batches"])
def test_batches_are_those_that_are_held(name, found):
    assert found.keys() == HELD["batches"].keys()
    differing = [i for i, (a, b) in enumerate(zip(found[name], HELD["batches"][name], strict=True)) if a != b]
    assert not differing, (
        f"{name}: batches {differing[:5]} of {len(found[name])} are others, so runs that exist would not go on as they "
        f"began. {HONEST}"
    )


def test_configs_resolve_to_what_is_held(tmp_path, monkeypatch):
    monkeypatch.setenv("S2SJAX_CACHE", str(tmp_path))  # anybody's
    found = resolved_configs()
    assert found.keys() == HELD["configs"].keys(), f"renew what is held. {HONEST}"
    for name, held in HELD["configs"].items():
        differing = {k: (held.get(k), found[name].get(k)) for k in held.keys() | found[name].keys()
                     if held.get(k, k) != found[name].get(k, k)}  # fmt: skip
        assert not differing, f"{name}: values that were and are: {differing}. {HONEST}"
