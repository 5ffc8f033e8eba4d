"""BLEU's tokenizers: which text they are for, and what happens where one is not there."""

import importlib.util
import socket

import pytest
import sentencepiece
from sacrebleu import utils
from sacrebleu.tokenizers import tokenizer_spm

from s2sjax.errors import UserError
from s2sjax.metrics.bleu import check_bleu_tokenizer, corpus_scores, make_bleu
from s2sjax.metrics.names import BLEU_TOKENIZERS

EVERYWHERE = ("13a", "intl", "zh", "char", "none")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a metric went out to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("tokenize", EVERYWHERE)
def test_a_tokenizer_that_needs_nothing_works_and_stands_in_the_signature(tokenize):
    score, signature = corpus_scores(make_bleu(tokenize), ["我们在这里见面吧。"] * 2, [["我们在这里见面吧。"]] * 2)
    assert f"tok:{tokenize}|" in signature
    assert score == pytest.approx(100 if tokenize in ("zh", "char") else 0), "a sentence of one word has no 4-grams"


@pytest.mark.parametrize("tokenize, packages", [("ja-mecab", "MeCab and ipadic"), ("ko-mecab", "mecab_ko and ")])
def test_a_tokenizer_whose_package_is_not_installed_says_how_to_get_it(tokenize, packages, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{packages}.*pip install 'sacrebleu\[{tokenize[:2]}\]', or choose 'char'"):
        check_bleu_tokenizer(tokenize)


@pytest.mark.skipif(not importlib.util.find_spec("ipadic"), reason="the packages of ja-mecab are not installed")
def test_mecab_cuts_japanese_where_it_is_installed():
    score, signature = corpus_scores(make_bleu("ja-mecab"), ["私は学生です。"], [["私は学生です。"]])
    assert score == pytest.approx(100) and "tok:ja-mecab" in signature


def test_the_model_of_flores200_is_never_fetched(tmp_path, monkeypatch, no_network):
    for module in (utils, tokenizer_spm):
        monkeypatch.setattr(module, "SACREBLEU_DIR", str(tmp_path))
    with pytest.raises(UserError, match=f"not in {tmp_path}/models/flores200sacrebleuspm. To get it: curl .*https://"):
        make_bleu("flores200")
    assert not list(tmp_path.iterdir())

    path = tmp_path / "models" / "flores200sacrebleuspm"
    path.parent.mkdir()
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match="'flores200' of BLEU cannot be used"):
        make_bleu("flores200")
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["我们在这里见面吧。", "你们在哪里？"]), model_writer=file, vocab_size=21,
            model_type="char", minloglevel=2,
        )  # fmt: skip
    score, signature = corpus_scores(make_bleu("flores200"), ["我们在这里见面吧。"], [["我们在这里见面吧。"]])
    assert score == pytest.approx(100) and "tok:flores200|" in signature


def test_an_unknown_tokenizer_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="tokenize is '13': did you mean '13a'"):
        check_bleu_tokenizer("13")
    assert set(EVERYWHERE) < set(BLEU_TOKENIZERS)
