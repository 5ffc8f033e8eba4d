"""What is made before the first step, and what is found out before a run directory is."""

import pytest

from s2sjax.errors import UserError
from s2sjax.training.setup import set_up
from tests.tiny import tiny


@pytest.mark.parametrize("chooses", ["bleu", "loss"])
def test_a_tokenizer_of_bleu_that_is_not_here_leaves_no_run(monkeypatch, tmp_path, chooses):
    """It is told before the data is read: there is none."""
    monkeypatch.setenv("SACREBLEU", str(tmp_path))
    experiment = tiny(
        tmp_path / "none", evaluate__bleu_tokenize="flores200", checkpoint__metric=chooses, evaluate__decode=True
    )
    with pytest.raises(UserError, match="flores200.*is not in"):
        set_up(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_vocabularies_of_equal_sizes_are_not_one_table(tmp_path):
    """Whose ids are other words in each. A run that goes on is not asked: it was begun so."""
    for split in ("train", "validation"):
        (tmp_path / f"{split}.src").write_text("ab\nba\n")
        (tmp_path / f"{split}.tgt").write_text("cd\ndc\n")
    separate = {"tokenizer__joint": False, "model__tied": "all"}
    with pytest.raises(UserError, match=r"tied is 'all', but .* vocabularies of their own: set config.model.tied=dec"):
        set_up(tiny(tmp_path, **separate), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for split in ("train", "validation"):
        (tmp_path / f"{split}.tgt").write_text("ba\nab\n")
    set_up(tiny(tmp_path, **separate), tmp_path / "same")  # equal vocabularies are one
