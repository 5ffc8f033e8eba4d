"""A run on a mixture: trained, resumed, validated, evaluated and decoded with."""

import json
import re

import numpy as np
import pytest

from s2sjax.errors import UserError
from s2sjax.runs.loading import load
from s2sjax.training.loop import train
from tests.tiny import read_state, records, s2s, tiny, write_text

SETS = {"one": {"weight": 1.0}, "other": {"prompt": "a {source}", "weight": 3.0}}
"""The second set is of another directory: see `mixed`."""
NAMES = ("exact_match", "token_error_rate", "perplexity")


def mixed(place, **overrides):
    """Bucketed, of sets whose examples are as long as each other, so that all compile one shape."""
    write_text(place / "one", train=30, held_out=6)
    write_text(place / "other", train=12, held_out=4, seed=1)
    sets = {"one": SETS["one"], "other": {"dir": str(place / "other"), **SETS["other"]}}
    values = {"data__mixture": sets, "evaluate__metrics": NAMES, "evaluate__decode": True, "decode__beam_size": 1}
    values |= {"checkpoint__metric": "other/loss"}
    return tiny(place / "one", **values | overrides)


@pytest.mark.slow
def test_a_run_on_a_mixture_resumes_exactly_and_tells_of_each_set(tmp_path, capsys):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert train(mixed(tmp_path, train__steps=9), whole) == 0
    said = capsys.readouterr().err
    assert "other: 12 examples, 75.0% of what is drawn, 2.62 passes an epoch" in said
    for steps in (4, 9):
        assert train(mixed(tmp_path, train__steps=steps), parted) == 0
    one, two = read_state(whole), read_state(parted)
    assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
    with pytest.raises(UserError, match="config.data.mixture.other.weight was 3.0 and is 2.0"):
        mixture = {"one": SETS["one"], "other": {"dir": str(tmp_path / "other"), **SETS["other"], "weight": 2.0}}
        train(mixed(tmp_path, train__steps=9, data__mixture=mixture), whole)

    # Validation, and evaluation of all sets together, say of each what evaluation of it alone does.
    run = load(whole)
    results = run.evaluate("validation")
    (validated,) = records(whole, "validation")
    assert list(results["sets"]) == ["one", "other"]
    assert "best checkpoint: step 9, validation other/loss " in said and run.step == 9
    assert run.metrics["other/loss"] == validated["other/loss"] == validated["parts"]["other"]["loss"]
    assert validated["other/loss"] != validated["loss"]
    for name, count in (("one", 6), ("other", 4)):
        alone = run.with_config(**{"data.sets": (name,)})
        expected = alone.evaluate("validation")
        assert results["sets"][name]["examples"] == count
        for metric in ("loss", *NAMES):
            assert results["sets"][name][metric] == pytest.approx(expected[metric], rel=1e-5), metric
            assert validated["parts"][name][metric] == pytest.approx(expected[metric], rel=1e-5), metric
    assert results["loss"] == pytest.approx(validated["loss"], rel=1e-5)
    decoded = [json.loads(line) for line in (whole / "results" / "validation.hyp.jsonl").read_text().splitlines()]
    assert [row["set"] for row in decoded] == ["one"] * 6 + ["other"] * 4
    assert decoded[6]["source"].startswith("a ")

    # What a user sees and does.
    capsys.readouterr()
    assert s2s("evaluate", f"--workdir={whole}", "--split=test") == 0
    assert re.search(r"set +examples +loss .*\n +one +6 .*\n +other +4 .*\n +all +10 ", capsys.readouterr().out)
    with pytest.raises(UserError, match="several sets, with prompts of their own"):
        run.decode(["ab"])
    (found,) = run.with_config(**{"data.sets": ("other",)}).decode(["ab"])
    (same,) = run.predictor(["a ab"]).result
    assert found[0].text == same[0].text
    assert (whole / "results" / "validation.other.json").exists()


@pytest.mark.parametrize(("metric", "known"), [
    ("othr/exact_match", "did you mean 'other/exact_match'? (known: exact_match, one/exact_match, other/exact_match)"),
    ("en-de/loss", "known: loss, one/loss, other/loss"),
])  # fmt: skip
def test_a_metric_of_a_set_that_there_is_not_chooses_no_checkpoints(tmp_path, metric, known):
    with pytest.raises(UserError, match=f"config.checkpoint.metric is '{metric}', which validation .*") as told:
        train(mixed(tmp_path, checkpoint__metric=metric), tmp_path / "run")
    assert known in str(told.value) and not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="which validation does not report: .*.known: loss.$"):
        train(tiny(tmp_path / "one", checkpoint__metric="one/loss"), tmp_path / "run")
    with pytest.raises(UserError, match="config.checkpoint.metric is 'one/los': did you mean 'loss'"):
        mixed(tmp_path, checkpoint__metric="one/los")
    with pytest.raises(UserError, match="config.checkpoint.metric is 'one/bleu', which is known only after decoding"):
        mixed(tmp_path, checkpoint__metric="one/bleu", evaluate__decode=False)
