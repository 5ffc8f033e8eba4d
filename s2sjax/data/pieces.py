"""SentencePiece: its models as tokenizers, and texts as its training takes them."""

import functools
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from s2sjax.data.units import in_text, text_ids
from s2sjax.errors import UserError
from s2sjax.plural import counted
from s2sjax.vocabulary import Vocabulary

_log = logging.getLogger(__name__)


class SentencePieceTokenizer:
    """A SentencePiece model (Kudo and Richardson 2018, arXiv:1808.06226) from its serialized form.

    Its special tokens may have any ids, and it need not have padding nor begin-of-sentence: T5's has pad 0, eos 1 and
    unk 2, Llama's unk 0, bos 1 and eos 2.

    Raises:
      UserError: the bytes are no model, or larger than any; a piece is no UTF-8; or it has no end-of-sentence.
    """

    kind = "sentencepiece"
    symbols = ()  # they are pieces

    def __init__(self, model: bytes, origin: str = "the SentencePiece model") -> None:
        import sentencepiece

        check_size(model, origin)
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise UserError(f"{origin} is not a SentencePiece model: {error}") from None
        try:
            self._processor.IdToPiece(list(range(self.vocab_size)))  # a few milliseconds for 32,000
        except UnicodeDecodeError as error:
            raise UserError(
                f"{origin} has a piece that is not valid UTF-8, {error.object[:50]!r}; restore it, or take another"
            ) from None
        p = self._processor
        pad, unk, bos, eos = (None if i < 0 else i for i in (p.pad_id(), p.unk_id(), p.bos_id(), p.eos_id()))
        if eos is None:
            raise UserError(
                f"{origin} has no end-of-sentence, by which a model would end a text; train it with spm_train "
                "--eos_id=1, or another id"
            )
        # Without begin-of-sentence a decoder begins with padding, as T5's; without that too, with end-of-sentence.
        start = next(i for i in (bos, pad, eos) if i is not None)
        self.vocabulary = Vocabulary(p.GetPieceSize(), None if pad == eos else pad, unk, start, (eos,))

    @property
    def vocab_size(self) -> int:
        return self._processor.GetPieceSize()

    @functools.cached_property
    def longest(self) -> int:
        return longest_text(self._model)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        return [np.asarray(ids, np.int32) for ids in self._processor.Encode(texts)]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._processor.Decode(text_ids(ids, self.vocabulary))

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        return [self._processor.IdToPiece(int(i)) for i in ids]

    def encode_spans(self, text: str) -> np.ndarray:
        return self._spans(self._processor.Encode(text, out_type="serialized_proto"))

    def decode_spans(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        spans = np.zeros((len(ids), 2), int)
        text = text_ids(ids, self.vocabulary)
        spans[in_text(ids, self.vocabulary)] = self._spans(self._processor.Decode(text, out_type="serialized_proto"))
        return spans

    def _spans(self, serialized: bytes) -> np.ndarray:
        from sentencepiece.sentencepiece_pb2 import SentencePieceText  # type: ignore[attr-defined]

        split = SentencePieceText.FromString(serialized)
        # Offsets are of bytes: characters that begin before each.
        before = np.cumsum([0, *(byte & 0xC0 != 0x80 for byte in split.text.encode())])
        spans = np.zeros((len(split.pieces), 2), int)
        for span, piece in zip(spans, split.pieces, strict=True):
            begin, end = before[piece.begin], before[piece.end]
            if piece.piece == "▁":
                end += 1
            elif self._processor.IsByte(piece.id):  # all bytes but the last of a character have empty offsets
                end = begin + 1
            span[:] = begin, end
        return spans

    def to_bytes(self) -> bytes:
        return self._model


_LARGEST = 1 << 25
_MOST_PIECES = 1_500_000
"""A model of a million pieces has 20 to 30 MB."""
_MOST_BESIDE = 1 << 22
"""Bytes beside the pieces: rules of normalisation (240 kB), and how it was trained, with the user's symbols."""


def check_size(model: bytes, origin: str) -> None:
    """Raise a UserError if a model is larger than any honest one, before SentencePiece allocates for it.

    An entry of two bytes takes 50 in memory, so that the fields of the message are counted (of protocol buffers: the
    number of the field and its type, then a length).
    """
    if len(model) > _LARGEST:
        raise UserError(f"{origin} has {counted(len(model), 'byte')}, expected at most {_LARGEST:,}")
    if len(model) <= 1 << 20:  # which becomes 50 MB at most, and is what nearly all are
        return
    pieces = beside = 0
    for field, begin, _, end in _fields(model, 0, len(model)):
        if field == _PIECE:
            pieces += 1
        else:
            beside += end - begin
        if pieces > _MOST_PIECES or beside > _MOST_BESIDE:  # at once: to count all of them takes a quarter of a minute
            raise UserError(
                f"{origin} has {counted(pieces, 'piece')} and {counted(beside, 'byte')} beside them, or more, expected "
                f"at most {_MOST_PIECES:,} and {_MOST_BESIDE:,}"
            )


_PIECE, _NORMALIZERS, _CHARSMAP, _SIZE_OF_TRIE = 0x0A, (0x1A, 0x2A), 0x12, 4
"""Fields of a model: a piece, and what is done to a text before and after; in these, what replaces characters."""


def longest_text(model: bytes) -> int:
    """The most bytes that stand in a model as one piece, or that one character of a text is replaced by.

    A charsmap is the size of a trie, the trie, and what is put in place of what it finds, with a zero byte after each.
    """
    longest = 0
    for field, _, begin, end in _fields(model, 0, len(model)):
        if field == _PIECE:
            longest = max(longest, end - begin)
        elif field in _NORMALIZERS:
            for inner, _, first, last in _fields(model, begin, end):
                if inner == _CHARSMAP:
                    trie = int.from_bytes(model[first : first + _SIZE_OF_TRIE], "little")
                    replaced = model[first + _SIZE_OF_TRIE + trie : last]
                    zeros = (i for i, byte in enumerate(replaced) if not byte)
                    ends = itertools.pairwise((-1, *zeros, len(replaced)))
                    longest = max(longest, *(after - before - 1 for before, after in ends))
    return longest


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Of each field of a message: its tag, where it begins, where its content does, and where that ends.

    A group's fields are given as if they were the message's.
    """
    while at < end:
        begin, (tag, at) = at, _varint(data, at)
        match tag & 7:
            case 0:
                after = _varint(data, at)[1]
            case 2:
                length, at = _varint(data, at)
                after = at + length
            case 1 | 3 | 4 | 5 as kind:
                after = at + {1: 8, 5: 4}.get(kind, 0)
            case _:  # there is none
                after = end
        yield tag, begin, at, after
        at = after


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, least first, and where it ends."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            break
    return value, at


LONGEST = 1 << 16
"""Bytes of a text that SentencePiece learns from; it leaves out longer ones."""
_MARK = "\u2585"
"""A character that SentencePiece keeps for itself: it leaves out texts that hold it."""


def sentences(texts: Iterable[str]) -> Iterator[str]:
    """The texts, those that SentencePiece would leave out in parts that it takes; how many, the log says."""
    long = marked = 0
    for text in texts:
        marked += _MARK in text
        for part in text.split(_MARK):
            if len(part) * 4 <= LONGEST or len(data := part.encode()) <= LONGEST:
                yield part
                continue
            long += 1
            while len(data) > LONGEST:
                end = max(data.rfind(white, LONGEST // 2, LONGEST) for white in (b" ", b"\n", b"\t"))
                if end < 0:
                    end = LONGEST
                    while data[end] & 0xC0 == 0x80:  # within a character
                        end -= 1
                yield data[:end].decode()
                data = data[end:].removeprefix(b" ")  # a text begins as if a space stood before it
            yield data.decode()
    if long:
        _log.warning("over %s, and cut for training the tokenizer: %s", counted(LONGEST, "byte"), counted(long, "text"))
    if marked:
        _log.warning(
            "%r, which SentencePiece cannot learn, is in %s: it will be unknown", _MARK, counted(marked, "text")
        )
