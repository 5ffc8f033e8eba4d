"""What a run directory records of its data, and what a resume may say of the models that a run began with."""

import pytest

from s2sjax import experiment as experiments
from s2sjax.errors import UserError
from s2sjax.files import rundir
from s2sjax.runs import workdir
from tests.tiny import tiny


def test_no_flipped_bit_of_the_data_record_passes_for_the_training_data(tmp_path):
    """Each is refused, or is another fingerprint than that of the data, or is of the validation data, which may change
    while a run goes on."""
    rundir.write_json(tmp_path, "data.json", {"train": "f7a25878d21ca9cb867d22f6", "validation": "1458e84d78bfb91bc"})
    path = tmp_path / "data.json"
    whole = path.read_bytes()
    known = workdir._recorded_data(tmp_path)
    free = range(whole.index(b"validation"), len(whole))
    passed = set()
    for bit in range(0, 8 * len(whole), 3):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            if workdir._recorded_data(tmp_path) == known:
                passed.add(bit // 8)
        except UserError:
            continue
    assert passed and passed <= set(free)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"train": 7}', b"", b"\xff", b'{"train": null}'])
def test_a_data_record_without_a_fingerprint_is_told(tmp_path, content):
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(UserError, match="data.json"):
        workdir._recorded_data(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"no model", "folder"])
def test_a_model_that_is_said_to_have_moved_has_to_be_there(tmp_path, content):
    """What the run remembers may be gone: it has a copy. What somebody says now is a mistake if it is gone."""
    given = tiny(tmp_path, tokenizer__kind="unigram", tokenizer__source_model="gone.model")
    experiments.save(given, tmp_path / "config.json")
    assert workdir.check_workdir(given, tmp_path)
    assert workdir.check_workdir(experiments.override(given, {"tokenizer.source_model": ""}), tmp_path)
    moved = tmp_path / "moved.model"
    moved.mkdir() if content == "folder" else moved.write_bytes(content) if content is not None else None
    with pytest.raises(UserError, match="config.tokenizer.source_model='.*moved.model'"):
        workdir.check_workdir(experiments.override(given, {"tokenizer.source_model": str(moved)}), tmp_path)
