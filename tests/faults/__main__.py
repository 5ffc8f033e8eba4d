"""Tries every fault on a tiny run, in real processes, and writes what happened as a table:

    python -m tests.faults                              all of them, minutes
    python -m tests.faults --only SIGTERM --only NaN    those with one of these in their name; --list lists them
    python -m tests.faults --table table.md             Markdown into a file too
    python -m tests.faults --kills 50                   so many random kills of one run instead
    python -m tests.faults --kills 20 --processes 2     of one of two processes

Exits with 1 if a fault was not survived as promised. What cannot be tried on a machine is listed with the reason.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults import kills
from tests.faults.lab import Lab
from tests.faults.table import FAULTS, Tried, attempt, markdown


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", help="only faults with this in their name; may be given again")
    parser.add_argument("--list", action="store_true", help="their names, and nothing else")
    parser.add_argument("--table", type=Path, help="write the table to this file too")
    parser.add_argument("--jobs", type=int, default=1, help="faults tried at once; more than 1 spoils the times")
    parser.add_argument("--kills", type=int, help="kill one run so many times at random instead")
    parser.add_argument("--processes", type=int, default=1, help="of that run")
    parser.add_argument("--family", default="transformer", help="of its model")
    parser.add_argument("--seed", type=int, default=0, help="of the random kills")
    parser.add_argument("--keep", type=Path, help="work in this new directory, and leave it there")
    arguments = parser.parse_args()
    others = ("only", "list", "table", "jobs") if arguments.kills else ("processes", "family", "seed")
    if idle := [name for name in others if getattr(arguments, name) != parser.get_default(name)]:
        parser.error(f"--{idle[0]} goes {'not ' if arguments.kills else 'only '}with --kills")
    chosen = [name for name in FAULTS if not arguments.only or any(part in name for part in arguments.only)]
    if arguments.list:
        print("\n".join(chosen))
        return 0
    place = arguments.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        if arguments.kills:
            print(
                kills.kill(
                    place, arguments.kills, processes=arguments.processes, family=arguments.family, seed=arguments.seed
                )
            )
            return 0
        with contextlib.closing(Lab(place)) as lab:
            tried = try_all(lab, chosen, arguments.jobs)
    finally:
        if not arguments.keep:
            shutil.rmtree(place, ignore_errors=True)
    table = markdown(tried)
    print(table)
    if arguments.table:
        arguments.table.write_text(table)
    return 1 if any(each.failure for each in tried) else 0


def try_all(lab: Lab, names: list[str], jobs: int) -> list[Tried]:
    lab.undisturbed()  # compiles what the others find compiled

    def attempt_and_tell(name: str) -> Tried:
        tried = attempt(lab, name)
        print(f"{tried.verdict:8} {name} ({tried.took:.0f} s)", file=sys.stderr, flush=True)
        if tried.failure:
            print(tried.failure, file=sys.stderr, flush=True)
        return tried

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(attempt_and_tell, names))


if __name__ == "__main__":
    sys.exit(main())
