"""What a run directory records of its data."""

import pytest

from s2sjax.errors import UserError
from s2sjax.files import rundir
from s2sjax.runs import workdir


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
