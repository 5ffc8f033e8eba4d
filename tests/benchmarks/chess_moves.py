"""How many of the moves that a language model of chess writes are legal (`configs/chess/openings.py`).

    .venv/bin/python -m pip install chess      # no dependency of the project

At every position of the held-out openings the most probable move. An output is at least and at most two tokens here, a
move and end-of-sentence:

    python tests/benchmarks/chess_moves.py prefixes dev.tsv > prefixes.txt
    s2sjax decode --workdir=runs/chess --input=prefixes.txt --output=moves.txt --config.decode.beam_size=1 \
        --config.decode.min_length_offset=2 --config.decode.max_new_tokens=2
    python tests/benchmarks/chess_moves.py legal prefixes.txt moves.txt

Games drawn from the start, as long as the model makes them (60 tokens are 39 moves, their numbers and the end):

    echo | s2sjax decode --workdir=runs/chess --input=- --output=games.txt --config.decode.method=sample \
        --config.decode.samples=500 --config.decode.max_new_tokens=60
    yes "" | head -n 500 > starts.txt
    python tests/benchmarks/chess_moves.py legal starts.txt games.txt
"""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

try:
    import chess
except ImportError:
    sys.exit("this needs the package chess: python -m pip install chess")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    prefixes = commands.add_parser("prefixes", help="print what stands before each move of the openings in a table")
    prefixes.add_argument("table", type=Path, help="TSV with a column pgn")
    legal = commands.add_parser("legal", help="count the legal moves of continuations")
    legal.add_argument("prefixes", type=Path, help="what each continuation begins after, a line each; empty: the start")
    legal.add_argument("continuations", type=Path, help="what `s2sjax decode` wrote, a line for each of them")
    args = parser.parse_args()
    if args.command == "prefixes":
        with args.table.open(encoding="utf-8", newline="") as file:
            texts = [row["pgn"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
        print("\n".join(dict.fromkeys(prefix for text in texts for prefix in before_moves(text))))
    else:
        pairs = (path.read_text(encoding="utf-8").splitlines() for path in (args.prefixes, args.continuations))
        report(Counter(verdict for pair in zip(*pairs, strict=True) for verdict in verdicts(*pair)))


def before_moves(text: str) -> Iterator[str]:
    """What stands before each move, its number included.

    >>> list(before_moves("1. e4 e5 2. f4"))
    ['1.', '1. e4', '1. e4 e5 2.']
    """
    words = text.split()
    return (" ".join(words[:n]) for n, word in enumerate(words) if not word.endswith("."))


def verdicts(prefix: str, continuation: str) -> Iterator[str]:
    """Of each move after the prefix "legal", to the first that is not: "illegal", or "misnumbered" where a number is
    missing or wrong. "none" if the continuation is empty."""
    board, words = chess.Board(), [*prefix.split(), *continuation.split()]
    begun, numbered = len(prefix.split()), False
    if begun == len(words):
        yield "none"
    for n, word in enumerate(words):
        if board.turn == chess.WHITE and not numbered:
            numbered = word == f"{board.fullmove_number}."
            if not numbered:
                yield "misnumbered"
                return
            continue
        try:
            board.push_san(word)
        except ValueError:
            yield "illegal"
            return
        numbered = False
        if n >= begun:
            yield "legal"


def report(counts: Counter[str]) -> None:
    moves = sum(counts.values()) - counts["none"]
    others = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("illegal", "misnumbered"))
    print(f"{counts['legal']:,} of {moves:,} moves are legal, {100 * counts['legal'] / max(moves, 1):.2f} %; {others}; "
          f"{counts['none']:,} empty continuations")  # fmt: skip


if __name__ == "__main__":
    main()
