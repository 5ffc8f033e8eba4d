"""Schema-Guided Dialogue (Rastogi et al. 2020, arXiv:1909.05855) as lines of JSON that configs in this folder read.

    python configs/sgd/records.py DIR OUT

DIR holds what github.com/google-research-datasets/dstc8-schema-guided-dialogue does (CC BY-SA 4.0): for each split, a
folder `train/` with files `dialogues_001.json`. Or one file a split with a dialogue a line: `train.jsonl`, also
compressed (`.gz`, `.xz`). OUT gets, for each of the splits train and dev:

    dialogue.SPLIT.jsonl  {"history": "USER: Hello.\\nSYSTEM: ...", "reply": "..."}: each SYSTEM turn, and up to five
                          turns before it, one a line
    slots.SPLIT.jsonl     {"words": "In San Jose .", "tags": "O B-city I-city O"}: each USER turn, cut into words and
                          punctuation; tags name the slots whose values it says word by word

Dialogues come in a random order, always the same one, so that a slice such as train[:10%] has all services. It needs
Python alone.
"""

import gzip
import json
import lzma
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPLITS = ("train", "dev")
TURNS = 5
"""Turns of a history, at most."""
_WORD = re.compile(r"\w+|[^\w\s]")
_OPENERS = {".jsonl": open, ".jsonl.gz": gzip.open, ".jsonl.xz": lzma.open}


def read_dialogues(directory: Path, split: str) -> list[dict[str, Any]]:
    """All dialogues of a split, in an order that is random but fixed."""
    found: list[dict[str, Any]] = []
    for path in sorted((directory / split).glob("dialogues_*.json")):
        found += json.loads(path.read_text(encoding="utf-8"))
    for suffix, opener in _OPENERS.items():
        path = directory / f"{split}{suffix}"
        if not found and path.is_file():
            with opener(path, "rt", encoding="utf-8") as lines:
                found = [json.loads(line) for line in lines]
    if not found:
        raise SystemExit(f"{directory} has neither {split}/dialogues_*.json nor {split}.jsonl, .jsonl.gz or .jsonl.xz")
    random.Random(0).shuffle(found)
    return found


def replies(dialogue: dict[str, Any]) -> Iterator[dict[str, str]]:
    """What is read and written for each turn of the system."""
    said: list[str] = []
    for turn in dialogue["turns"]:
        if turn["speaker"] == "SYSTEM" and said:
            yield {"history": "\n".join(said[-TURNS:]), "reply": turn["utterance"]}
        said.append(f"{turn['speaker']}: {turn['utterance']}")


def slots(dialogue: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The words of each turn of the user and their tags."""
    for turn in dialogue["turns"]:
        if turn["speaker"] == "USER" and (words := list(_WORD.finditer(turn["utterance"]))):
            spans = [span for frame in turn["frames"] for span in frame["slots"]]
            yield {"words": " ".join(word[0] for word in words), "tags": " ".join(tags_of(words, spans))}


def tags_of(words: list[re.Match[str]], spans: list[dict[str, Any]]) -> list[str]:
    """B-SLOT for the first word of a span, I-SLOT for those after it, O for all others. Of spans that share a word the
    one that is listed first counts.

    Args:
        spans: each with a "slot", and its characters from "start" up to "exclusive_end".
    """
    tags = ["O"] * len(words)
    for span in spans:
        inside = [
            n for n, word in enumerate(words) if word.start() < span["exclusive_end"] and span["start"] < word.end()
        ]
        if inside and all(tags[n] == "O" for n in inside):
            for n in inside:
                tags[n] = f"{'B' if n == inside[0] else 'I'}-{span['slot']}"
    return tags


def main(directory: str, out: str) -> None:
    Path(out).mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        dialogues = read_dialogues(Path(directory), split)
        for kind, records_of in (("dialogue", replies), ("slots", slots)):
            path, count = Path(out) / f"{kind}.{split}.jsonl", 0
            with path.open("w", encoding="utf-8") as file:
                for dialogue in dialogues:
                    for record in records_of(dialogue):
                        file.write(json.dumps(record, ensure_ascii=False) + "\n")
                        count += 1
            print(f"{path}: {count:,} records of {len(dialogues):,} dialogues")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python configs/sgd/records.py DIR OUT")
    main(*sys.argv[1:])
