"""Scripts that put no spaces between words, for metrics that count words."""

import functools

# First and last code point; what is not in Unicode's blocks of these scripts, such as punctuation, is not listed.
_RANGES = {
    "Han": (
        (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF),
    ),
    "Kana": ((0x3041, 0x3096), (0x309D, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "Thai": ((0x0E01, 0x0E3A), (0x0E40, 0x0E4E)),
    "Lao": ((0x0E81, 0x0ECE), (0x0EDC, 0x0EDF)),
    "Tibetan": ((0x0F40, 0x0FBC),),
    "Myanmar": ((0x1000, 0x103F), (0x1050, 0x109D), (0xA9E0, 0xA9FE), (0xAA60, 0xAA7F)),
    "Khmer": ((0x1780, 0x17D3),),
}  # fmt: skip


@functools.lru_cache(maxsize=1 << 16)
def spaceless_script(character: str) -> str | None:
    """The script of a character if it is one that puts no spaces between words."""
    point = ord(character)
    if point < 0x0E01:
        return None
    return next((name for name, spans in _RANGES.items() if any(a <= point <= b for a, b in spans)), None)
