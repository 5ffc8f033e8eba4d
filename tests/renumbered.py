"""SentencePiece models whose pieces have other numbers, so that special tokens stand elsewhere or are not there."""

from collections.abc import Sequence

from sentencepiece.sentencepiece_model_pb2 import ModelProto

from s2sjax.data.pieces import SentencePieceTokenizer


def renumbered(tokenizer: SentencePieceTokenizer, order: Sequence[int]) -> SentencePieceTokenizer:
    """A model that cuts texts alike: its piece i is the model's piece `order[i]`; what is not in `order` is gone."""
    proto = ModelProto.FromString(tokenizer.to_bytes())
    pieces = list(proto.pieces)
    del proto.pieces[:]
    proto.pieces.extend(pieces[i] for i in order)
    for i, name in enumerate(("pad", "unk", "bos", "eos")):
        setattr(proto.trainer_spec, f"{name}_id", list(order).index(i) if i in order else -1)
    return SentencePieceTokenizer(proto.SerializeToString())


def like_t5(tokenizer: SentencePieceTokenizer) -> SentencePieceTokenizer:
    """Pad 0, eos 1, unk 2, and no bos."""
    return renumbered(tokenizer, [0, 3, 1, *range(4, tokenizer.vocab_size)])


def like_llama(tokenizer: SentencePieceTokenizer) -> SentencePieceTokenizer:
    """Unk 0, bos 1, eos 2, and no pad."""
    return renumbered(tokenizer, [1, 2, 3, *range(4, tokenizer.vocab_size)])


def shuffled(tokenizer: SentencePieceTokenizer) -> tuple[SentencePieceTokenizer, list[int]]:
    """All pieces in another order, the special ones among the last, and that order; an ordinary piece is number 0."""
    size = tokenizer.vocab_size
    order = [*range(size - 1, 4, -1), 2, 0, 4, 3, 1]
    return renumbered(tokenizer, order), order
