"""Configs for one's own data: each makes a dozen lines itself, or reads what is named after a colon."""

import importlib.util
import json
from pathlib import Path

import pytest

from s2sjax import experiment
from s2sjax.data.prepare import prepare
from s2sjax.data.splits import open_split

CONFIGS = Path(__file__).parents[2] / "configs" / "own"


def config_of(name: str, argument: str = ""):
    spec = importlib.util.spec_from_file_location(f"own_{name}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return experiment.resolve(module.get_config(argument))


@pytest.mark.parametrize("name", ["text", "tsv", "jsonl"])
def test_a_config_for_own_data_makes_its_dozen_lines(name, tmp_path, monkeypatch):
    monkeypatch.setenv("S2SJAX_CACHE", str(tmp_path))
    found = config_of(name)
    for split in ("train", "validation", "test"):
        assert len(open_split(found.data, split)) == 12
    prepared = prepare(found.data, found.tokenizer)
    (remark,) = prepared.splits["validation"].remarks  # its dozen lines are learned by heart
    assert not prepared.splits["train"].remarks and "12 of 12 validation records are trained on too" in remark


def test_a_file_after_the_colon_is_parted(tmp_path, monkeypatch):
    monkeypatch.setenv("S2SJAX_CACHE", str(tmp_path / "cache"))
    rows = [(f"lemma{i}", "V;PST", f"form{i}") for i in range(100)]
    contents = {
        "tsv": "lemma\tfeatures\tform\n" + "".join("\t".join(row) + "\n" for row in rows),
        "jsonl": "".join(json.dumps({"about": a, "question": b, "answers": [c]}) + "\n" for a, b, c in rows),
    }
    for name, content in contents.items():
        (tmp_path / f"mine.{name}").write_text(content)
        data = config_of(name, str(tmp_path / f"mine.{name}")).data
        assert [len(open_split(data, split)) for split in ("train", "validation", "test")] == [90, 5, 5]
    assert not (tmp_path / "cache").exists()
    for split in ("train", "validation"):
        for side in ("en", "de"):
            (tmp_path / f"{split}.{side}").write_text("x\n")
    assert len(open_split(config_of("text", str(tmp_path)).data, "validation")) == 1
