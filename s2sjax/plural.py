"""Numbers of things in messages: "1 batch", "1,200 batches"."""

_IRREGULAR = {
    "batch": "batches",
    "hypothesis": "hypotheses",
    "entry": "entries",
    "process": "processes",
    "vocabulary": "vocabularies",
}


def counted(number: int, thing: str) -> str:
    """A number of things. Args: thing: one of them; its last word is put into the plural unless there is one."""
    *before, last = thing.split(" ")
    if number != 1:
        last = _IRREGULAR.get(last, f"{last}s")
    return " ".join([f"{number:,}", *before, last])
