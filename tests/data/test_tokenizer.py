import dataclasses
import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2sjax.data import pieces
from s2sjax.data import tokenizer as tokenizers
from s2sjax.data.pieces import SentencePieceTokenizer
from s2sjax.data.tokenizer import train_tokenizers
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.data.units import LARGEST, ByteTokenizer, CharTokenizer, WordTokenizer
from s2sjax.data.unknown import unknown_in
from s2sjax.errors import UserError
from s2sjax.files import jsontext
from s2sjax.vocabulary import EOS, PAD, UNK, Vocabulary, own_vocabulary
from tests.renumbered import like_llama, like_t5, renumbered, shuffled

MULTI30K = Path(__file__).parents[2] / "../shared/data/multi30k"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
WORDS = ["the", "cat", "house", "Hund", "läuft", "über", "3", "2021", "May", "Straße", "and", "green", "grün"]


def sentences(count=300):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 6)) for _ in range(count)]


def pairs(count=300):
    texts = sentences(2 * count)
    return list(zip(texts[:count], texts[count:], strict=True))


def train(**config):
    return train_tokenizers(TokenizerConfig(**{"vocab_size": 60, **config}), pairs())


ALL = pytest.mark.parametrize("kind", ["unigram", "bpe", "char", "byte"])


@ALL
def test_every_kind_has_the_same_special_ids_and_decodes_what_it_encodes(kind):
    tokenizer = train(kind=kind).source
    texts = ["the cat", " the  green  house ", "", "Straße über 3 May"]
    rows = tokenizer.encode(texts)
    assert [row.dtype for row in rows] == [np.int32] * 4
    assert [tokenizer.decode(row) for row in rows] == texts
    assert all(4 <= token < tokenizer.vocab_size for row in rows for token in row)
    assert tokenizer.pieces([0, 1, 2, 3]) == ["<pad>", "<unk>", "<s>", "</s>"]
    assert tokenizer.encode([]) == []


@ALL
def test_decoding_drops_specials_and_stops_at_end_of_sentence(kind):
    tokenizer = train(kind=kind).source
    cat, house = (row.tolist() for row in tokenizer.encode(["cat", "house"]))
    assert tokenizer.decode([2, *cat, PAD, UNK, EOS, *house, EOS]) == "cat"
    assert tokenizer.decode(np.array([*cat, EOS], np.int64)) == "cat"
    assert tokenizer.decode([]) == tokenizer.decode([EOS]) == ""


@ALL
def test_names_of_specials_in_text_are_text(kind):
    tokenizer = train(kind=kind).source
    assert not {0, 2, 3} & set(tokenizer.encode(["</s> <s> <pad> <unk>"])[0].tolist())


@ALL
def test_user_symbols_are_one_token_wherever_they_stand(kind):
    tokenizer = train(kind=kind, vocab_size=80, user_symbols=("<2de>", "<2d", "=>")).source
    for text in ("<2de> 3 May 2021", "the<2de>cat =>=>", "a<2d e>", "<2d", "<2de"):
        (ids,) = tokenizer.encode([text])
        pieces = tokenizer.pieces(ids)
        for symbol in ("<2de>", "=>"):
            assert pieces.count(symbol) == text.count(symbol)
        assert pieces.count("<2d") == text.count("<2d") - text.count("<2de>")
    # a symbol is not found across two texts of one list
    assert all("<2de>" not in tokenizer.pieces(ids) for ids in tokenizer.encode(["<2", "de>"]))
    assert tokenizer.decode(tokenizer.encode(["<2de> 3 May"])[0]) == "<2de> 3 May"


@ALL
def test_a_tokenizer_is_the_same_after_saving_and_loading(kind, tmp_path):
    for joint in (True, False):
        pair = train(kind=kind, joint=joint, user_symbols=("<2de>",))
        tokenizers.save(pair, tmp_path / str(joint))
        loaded = tokenizers.load(tmp_path / str(joint))
        assert loaded.joint == joint
        for ours, theirs in ((pair.source, loaded.source), (pair.target, loaded.target)):
            assert ours.to_bytes() == theirs.to_bytes()
            assert ours.vocab_size == theirs.vocab_size
            assert [r.tolist() for r in ours.encode(sentences(9))] == [r.tolist() for r in theirs.encode(sentences(9))]


@ALL
def test_training_twice_gives_the_same_tokenizer(kind):
    assert train(kind=kind).source.to_bytes() == train(kind=kind).source.to_bytes()


@given(texts=st.lists(TEXT), symbols=st.lists(st.sampled_from(["<2de>", "ä", "ab", "<2"]), unique=True))
def test_bytes_bring_back_any_text(texts, symbols):
    tokenizer = ByteTokenizer(symbols)
    texts = [text.join(["<2de>", "ab"]) for text in texts] + texts
    rows = tokenizer.encode(texts)
    assert [tokenizer.decode(row) for row in rows] == texts
    assert ["".join(tokenizer.pieces(row)) for row in tokenizer.encode(["<2de>ab"])] == ["<2de>ab"]


@settings(deadline=None)
@given(texts=st.lists(TEXT), symbols=st.lists(st.sampled_from(["<2de>", "ä", "ab", "<2"]), unique=True))
def test_characters_bring_back_any_text_of_the_training_alphabet(texts, symbols):
    texts = [text.join(["<2de>", "ab"]) for text in texts] + texts
    config = TokenizerConfig(kind="char", vocab_size=10**6, user_symbols=tuple(symbols))
    tokenizer = train_tokenizers(config, [(text, text) for text in [*texts, "<>abde2"]]).source
    assert [tokenizer.decode(row) for row in tokenizer.encode(texts)] == texts


def test_half_a_character_decodes_to_the_replacement_character():
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(["aä"])[0][:-1]) == "a\ufffd"
    assert tokenizer.pieces(tokenizer.encode(["aä"])[0]) == ["a", "<0xC3>", "<0xA4>"]


def test_characters_are_ordered_by_frequency_then_code_point_and_the_rest_is_unk():
    config = TokenizerConfig(kind="char", vocab_size=9, user_symbols=("<2de>", "z"))
    tokenizer = train_tokenizers(config, [("ccbzzz", "aabdd")]).source  # a, b, c, d twice each; one place too few
    assert tokenizer.pieces(range(tokenizer.vocab_size))[4:] == ["<2de>", "z", "a", "b", "c"]
    assert tokenizer.encode(["dazé\U0010ffff"])[0].tolist() == [UNK, 6, 5, UNK, UNK]


def test_separate_vocabularies_are_trained_on_their_own_sides():
    config = TokenizerConfig(kind="char", joint=False)
    pair = train_tokenizers(config, [("ab", "xy")])
    assert pair.source.decode(pair.source.encode(["abxy"])[0]) == "ab"
    assert pair.target.decode(pair.target.encode(["abxy"])[0]) == "xy"


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_corpus_too_small_for_the_vocabulary_gives_a_smaller_one_and_a_warning(kind, caplog):
    tokenizer = train_tokenizers(TokenizerConfig(kind=kind, vocab_size=8000), [("a cat", "eine Katze")]).source
    assert 4 < tokenizer.vocab_size < 100
    assert f"only {tokenizer.vocab_size} of 8,000 pieces" in caplog.text
    assert tokenizer.decode(tokenizer.encode(["eine cat"])[0]) == "eine cat"


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_vocabulary_too_small_for_the_characters_and_empty_text_are_user_errors(kind):
    with pytest.raises(UserError, match="config.tokenizer.vocab_size=8 .* Increase vocab_size"):
        train(kind=kind, vocab_size=8)
    with pytest.raises(UserError, match="cannot train"):
        train_tokenizers(TokenizerConfig(kind=kind), [("", "")])


def test_byte_fallback_spells_what_training_did_not_see_and_digits_split():
    tokenizer = train(byte_fallback=True, split_digits=True, vocab_size=360).source
    assert tokenizer.decode(tokenizer.encode(["the 日本 cat\t"])[0]) == "the 日本 cat\t"
    assert "".join(tokenizer.pieces(tokenizer.encode(["2021"])[0])[-4:]) == "2021"


def test_training_takes_evenly_spaced_examples_within_its_limit():
    config = TokenizerConfig(max_train_sentences=6, joint=False)
    assert list(tokenizers.sample_indices(12, config)) == [0, 2, 4, 6, 8, 10]
    assert list(tokenizers.sample_indices(12, dataclasses.replace(config, joint=True))) == [0, 4, 8]
    assert list(tokenizers.sample_indices(5, config)) == [0, 1, 2, 3, 4]


def test_a_given_model_is_taken_or_what_is_wrong_with_it_is_said(tmp_path):
    ours = train(user_symbols=("<2de>",)).source
    (tmp_path / "ours.model").write_bytes(ours.to_bytes())
    config = TokenizerConfig(source_model=str(tmp_path / "ours.model"), user_symbols=("<2de>",))
    given_pair = tokenizers.given_tokenizers(config)
    assert given_pair.joint
    assert given_pair.source.to_bytes() == ours.to_bytes()
    both = dataclasses.replace(config, joint=False, target_model=config.source_model)
    assert not tokenizers.given_tokenizers(both).joint
    assert tokenizers.given_tokenizers(TokenizerConfig()) is None
    with pytest.raises(UserError, match="does not know the user symbols <2fr>; train it with --user_defined_symbols"):
        tokenizers.given_tokenizers(dataclasses.replace(config, user_symbols=("<2fr>",)))

    without_end = renumbered(ours, [0, 1, 2, 3, *range(4, ours.vocab_size)]).to_bytes().replace(b"</s>", b"</t>")
    for content, message in (
        (without_end, "has no end-of-sentence.*train it with spm_train --eos_id=1"),
        (b"garbage", "is not a SentencePiece model"),
        (b"", "is not a SentencePiece model"),
    ):
        (tmp_path / "default.model").write_bytes(content)
        with pytest.raises(UserError, match=message):
            tokenizers.given_tokenizers(TokenizerConfig(source_model=str(tmp_path / "default.model")))
    with pytest.raises(UserError, match="cannot read config.tokenizer.source_model='nowhere'"):
        tokenizers.given_tokenizers(TokenizerConfig(source_model="nowhere"))


@pytest.mark.parametrize(
    ("change", "pad", "unk", "start", "end"),
    [
        (like_t5, 0, 2, 0, 1),
        (like_llama, None, 0, 1, 2),
        (lambda own: renumbered(own, [4, 3, *range(5, own.vocab_size), 1]), None, -1, 1, 1),
        (lambda own: shuffled(own)[0], -4, -1, -5, -2),
    ],
)
def test_special_tokens_are_where_a_given_model_has_them(change, pad, unk, start, end):
    own = train(kind="unigram", byte_fallback=False).source
    given, V = change(own), change(own).vocab_size
    here = [i if i is None or i >= 0 else V + i for i in (pad, unk, start, end)]
    assert given.vocabulary == Vocabulary(V, *here[:3], (here[3],))
    assert own.vocabulary == own_vocabulary(own.vocab_size)
    text = "the cat Straße 語 house"
    (ids,) = given.encode([text])
    assert given.vocabulary.unk in ids
    whole = [*ids, given.vocabulary.end, *given.encode(["cat"])[0]]
    assert given.decode(whole) == own.decode(own.encode([text])[0])
    np.testing.assert_array_equal(given.decode_spans(whole)[: len(ids)], own.decode_spans(own.encode([text])[0]))
    assert (given.decode_spans(whole)[len(ids) :] == 0).all()
    assert unknown_in(given, [text]) == unknown_in(own, [text])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "words"}, "config.tokenizer.kind is 'words': did you mean 'word'.*unigram"),
        ({"vocab_size": 4}, "vocab_size is 4"),
        ({"user_symbols": ("<2 de>",)}, "user_symbols holds '<2 de>'"),
        ({"user_symbols": ("</s>",)}, "user_symbols holds '</s>'"),
        ({"user_symbols": ("a", "a")}, "a symbol twice"),
        ({"kind": "char", "byte_fallback": True}, "config.tokenizer.byte_fallback is for unigram and bpe"),
        ({"target_model": "x"}, "config.tokenizer.target_model needs"),
        ({"source_model": "x", "joint": False}, "give config.tokenizer.target_model"),
        ({"character_coverage": 0.0}, "character_coverage is 0.0"),
        ({"max_train_sentences": 0}, "max_train_sentences is 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        TokenizerConfig(**fields)


def test_loading_follows_no_path_from_the_json_and_reports_what_it_cannot_read(tmp_path):
    with pytest.raises(UserError, match="holds no readable tokenizer"):
        tokenizers.load(tmp_path)
    tokenizers.save(train(kind="char"), tmp_path / "here")
    record = tmp_path / "here" / "tokenizer.json"
    for broken, told in {
        "{": "not valid JSON", "[]": "a list, expected an object", '{"format": 1}': "of which kind",
        '{"format": 2}': "has format 2", '{"format": 1, "kinds": {"source": "../elsewhere"}}': "of kind '../elsewhere'",
    }.items():  # fmt: skip
        record.write_text(broken)
        with pytest.raises(UserError, match=told):
            tokenizers.load(tmp_path / "here")
    record.write_text(json.dumps({"format": 1, "kinds": {"source": "char"}, "source": "/etc/passwd"}))
    assert isinstance(tokenizers.load(tmp_path / "here").source, CharTokenizer)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_model_with_a_piece_that_is_no_text_is_refused_when_it_is_read(kind, tmp_path):
    tokenizers.save(train(kind=kind), tmp_path / "here")
    model = tmp_path / "here" / "source.model"
    piece = "▁May".encode()
    assert piece in model.read_bytes()
    model.write_bytes(model.read_bytes().replace(piece, piece[:-1] + b"\xff"))
    with pytest.raises(UserError, match=r"source.model has a piece that is not valid UTF-8, b'.*\\xff'; restore"):
        tokenizers.load(tmp_path / "here")


@pytest.mark.parametrize("kind", ["char", "byte", "word"])
def test_symbols_with_line_ends_would_join_two_texts_and_are_refused(kind, tmp_path):
    trained = train(kind=kind, user_symbols=("<a>", "<b>"))
    tokenizers.save(trained, tmp_path / "here")
    assert tokenizers.load(tmp_path / "here").source.to_bytes() == trained.source.to_bytes()
    model = tmp_path / "here" / "source.model"
    model.write_text(json.dumps(json.loads(model.read_text()) | {"symbols": ["<a>", "a\nb"]}))
    with pytest.raises(UserError, match=r"source.model: the symbol 'a\\nb' has a line end"):
        tokenizers.load(tmp_path / "here")


@pytest.mark.skipif(not MULTI30K.is_dir(), reason="needs ../shared/data/multi30k")
def test_every_german_caption_of_multi30k_survives_bpe():
    files = (MULTI30K / f"val.{language}.gz" for language in ("en", "de"))
    english, german = (gzip.decompress(file.read_bytes()).decode().split("\n")[:-1] for file in files)
    pair = train_tokenizers(TokenizerConfig(vocab_size=2000), list(zip(english, german, strict=True)))
    assert pair.source is pair.target
    assert pair.target.vocab_size == 2000
    rows = pair.target.encode(german)
    assert len(rows) == 1014
    assert [pair.target.decode(row) for row in rows] == german


def test_words_are_what_stands_between_white_space():
    config = TokenizerConfig(kind="word", vocab_size=7, user_symbols=("<2de>",))
    words = train_tokenizers(config, [("b a a", "a b c")]).target
    assert words.pieces(range(words.vocab_size)) == ["<pad>", "<unk>", "<s>", "</s>", "<2de>", "a", "b"]  # none for c
    (ids,) = words.encode(["<2de>  a\tc <unk> b"])
    assert ids.tolist() == [4, 5, UNK, UNK, 6]
    assert words.decode([*ids, EOS, 5]) == "<2de> a <unk> <unk> b"
    again = WordTokenizer(**json.loads(words.to_bytes()))
    assert again.encode(["a b"])[0].tolist() == [5, 6]


def test_source_and_target_may_be_of_different_kinds(tmp_path):
    config = TokenizerConfig(kind="char", target_kind="word", joint=False)
    pair = train_tokenizers(config, [("dog", "D AO1 G"), ("god", "G AA1 D")])
    tokenizers.save(pair, tmp_path / "t")
    pair = tokenizers.load(tmp_path / "t")
    assert pair.source.pieces(pair.source.encode(["god"])[0]) == ["g", "o", "d"]
    assert pair.target.pieces(pair.target.encode(["G AO1"])[0]) == ["G", "AO1"]
    with pytest.raises(UserError, match="needs config.tokenizer.joint=False"):
        TokenizerConfig(kind="char", target_kind="word")
    with pytest.raises(UserError, match="config.tokenizer.target_kind is"):
        TokenizerConfig(kind="char", target_kind="words", joint=False)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_lines_that_sentencepiece_would_leave_out_are_learned_from_and_said(kind, caplog):
    common = [("the cat", "das Haus")] * 20
    long = " ".join(["zebra"] * 12_000), "a"  # 72 kB
    marked = "quagga \u2585 quagga quagga", "b"
    tokenizer = train_tokenizers(TokenizerConfig(kind=kind, vocab_size=80), [*common, long, marked]).source
    for word in ("zebra", "quagga"):
        assert UNK not in tokenizer.encode([word])[0]
    assert "over 65,536 bytes, and cut for training the tokenizer: 1 text" in caplog.text
    assert "'\u2585', which SentencePiece cannot learn, is in 1 text:" in caplog.text


@given(st.text(st.sampled_from("aß日𝔘 \n"), min_size=0, max_size=400), st.integers(8, 60))
def test_a_text_is_cut_at_characters_and_at_white_space_if_there_is_some(text, longest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "LONGEST", longest)
        parts = list(pieces.sentences([text]))
    assert all(len(part.encode()) <= longest for part in parts)
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")
    assert parts == [text] or len(text.encode()) > longest


def test_what_a_pattern_matches_is_one_token_without_being_listed():
    lines = [("lieben#V;PST", "liebte"), ("Vogel#N;PL", "Vögel"), ("SGen#V;PST;SG", "x")]
    for kind in ("char", "byte", "unigram", "bpe"):
        config = TokenizerConfig(kind=kind, vocab_size=300, symbol_pattern="[#;][^#;]+")
        tokenizer = train_tokenizers(config, lines).source
        (ids,) = tokenizer.encode(["Vogel#V;SG"])
        assert tokenizer.pieces(ids)[-2:] == ["#V", ";SG"], kind
        assert tokenizer.decode(ids) == "Vogel#V;SG"
        listed = dataclasses.replace(config, symbol_pattern="", user_symbols=("#V", ";PST", "#N", ";PL", ";SG"))
        assert train_tokenizers(listed, lines).source.to_bytes() == tokenizer.to_bytes()
    apart = train_tokenizers(TokenizerConfig(kind="char", joint=False, symbol_pattern="[#;][^#;]+"), lines)
    assert ";PST" not in apart.target.pieces(range(apart.target.vocab_size))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"kind": "char", "symbol_pattern": "("}, "is no regular expression"),
        ({"kind": "char", "symbol_pattern": "(?<=a*)b"}, "is no regular expression"),
        ({"kind": "word", "symbol_pattern": "a"}, "one token anyway"),
        ({"source_model": "x", "symbol_pattern": "a"}, "vocabularies that are learned"),
        ({"kind": "char", "symbol_pattern": "a b"}, "matches 'a b'; expected text without spaces"),
        ({"kind": "char", "vocab_size": 6, "symbol_pattern": "[abcd]"}, "leave no room"),
        ({"kind": "char", "vocab_size": 6, "user_symbols": ("x", "y", "z")}, "leave no room"),
        ({"kind": "char", "character_coverage": 0.9}, "character_coverage is for unigram and bpe"),
    ],
)
def test_settings_that_cannot_be_or_would_be_without_effect_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        train_tokenizers(TokenizerConfig(**config), [("a b c d", "a b")])


# ---- Vocabularies of strangers ----


def field(number: int, content: bytes) -> bytes:
    """Of a protocol buffer: a field of bytes."""
    length, size = len(content), b""
    while length > 127:
        length, size = length >> 7, size + bytes([length & 127 | 128])
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


@pytest.mark.parametrize(
    "model, said",
    [
        (field(1, b"") * 1_600_000, "1,500,001 pieces"),
        (field(2, field(1, b"") * 2_500_000), "5,000,005 bytes beside"),
        (field(1, b"") * 600_000 + b"\x08\x01" * 3_000_000, "bytes beside"),
        (bytes(40_000_000), "40,000,000 bytes, expected at most"),
    ],
)
def test_a_sentencepiece_model_that_is_larger_than_any_is_not_read(model, said):
    with pytest.raises(UserError, match=f"the SentencePiece model has .*{said}"):
        SentencePieceTokenizer(model)


def test_a_sentencepiece_model_of_a_million_pieces_is_within_its_bounds():
    pieces.check_size(field(2, bytes(300_000)) + field(1, field(1, bytes(20)) + b"\x15" + bytes(4)) * 1_000_000, "it")


def test_a_vocabulary_of_a_million_words_is_within_its_bounds():
    words = [f"{chr(0x915 + i % 30) * 8}{i}" for i in range(1_000_000)]  # of 24 bytes, as Hindi has, and a number
    jsontext.check(json.dumps({"symbols": ["<2de>"], "words": words}, ensure_ascii=False).encode(), "it", LARGEST)


@pytest.mark.parametrize("kind", ["char", "byte", "word"])
@pytest.mark.parametrize("name", ["source.model", "tokenizer.json"])
def test_vocabularies_of_empty_lists_are_not_parsed(tmp_path, monkeypatch, kind, name):
    monkeypatch.setattr(tokenizers, "LARGEST", jsontext.Bound(1 << 24, 100_000))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"format": 1, "kinds": {"source": kind}}))
    (tmp_path / name).write_text('{"symbols": [], "words": [' + "[]," * 120_000 + "0]}")
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="values|expected at most"):
            tokenizers.load(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_vocabulary_that_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizers, "LARGEST", jsontext.Bound(1 << 20, 10))
    pair = train_tokenizers(TokenizerConfig(kind="word"), [("a b c d e", "f g h i j k")])
    with pytest.raises(UserError, match="more than 10 values"):
        tokenizers.save(pair, tmp_path / "tokenizer")
