"""Compares two commits, on one machine:

    python -m tests.goldens --write DIR        at the old commit: write down all that is computed, as text
    python -m tests.goldens --compare DIR      at the new one: compute it again, and say what differs

What is written: StableHLO of all steps (`steps.py`) and of all programs that commands compile (searches, scoring);
hashes of the states after five steps of `train`; what `decode`, `score`, `align`, `evaluate`, `inspect` and others
print; help; batches and resolved configs. Three to five minutes on two cores. `diff -r` of two such directories shows
everything; --write it at both commits for that. Exits with 1 if anything differs.

    python -m tests.goldens --renew            write anew what the tests hold

That is honest only where the commit before was compared by --compare, and each difference is one that was wanted. The
log says why.
"""

import argparse
import difflib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.goldens", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--write", type=Path, metavar="DIR", help="write all into this new directory")
    asked.add_argument("--compare", type=Path, metavar="DIR", help="compare with what was written there")
    asked.add_argument("--renew", action="store_true", help="write anew what the tests hold")
    arguments = parser.parse_args()
    if arguments.renew:
        from tests.goldens.stored import renew

        renew()
        return 0
    if arguments.write:
        arguments.write.mkdir(parents=True)
        write(arguments.write)
        return 0
    with tempfile.TemporaryDirectory(prefix="goldens-") as new:
        write(Path(new))
        found = differences(arguments.compare, Path(new))
    print("\n".join(found) if found else f"the same: all that is in {arguments.compare}")
    return 1 if found else 0


def write(out: Path) -> None:
    """Everything there is."""
    from tests.goldens.commands import Work, run_all
    from tests.goldens.integers import batch_lines, resolved_configs
    from tests.goldens.steps import STEPS

    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s  {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="goldens-work-") as place:
        work = Work(Path(place), out)
        run_all(work, say)
        for name, lines in batch_lines(Path(place) / "cache").items():
            work.write(f"batches/{name}.txt", "".join(f"{line}\n" for line in lines))
    for name, values in resolved_configs().items():
        work.write(f"configs/{name}.json", json.dumps(values, indent=1, sort_keys=True) + "\n")
    for name, step in STEPS.items():
        work.write(f"steps/{name}.mlir", step.text())
    say("all")


def differences(old: Path, new: Path) -> list[str]:
    """What two directories differ in, a line or more for each file."""

    def files(top: Path) -> set[str]:
        return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}

    before, after = files(old), files(new)
    if not before:
        raise SystemExit(f"there is nothing in {old}; write it first, at the other commit")
    found = [f"gone: {name}" for name in sorted(before - after)] + [f"new: {name}" for name in sorted(after - before)]
    for name in sorted(before & after):
        texts = [(top / name).read_text(encoding="utf-8") for top in (old, new)]
        if texts[0] != texts[1]:
            found.append(f"different: {name}")
            lines = list(difflib.unified_diff(*(text.splitlines() for text in texts), "old", "new", lineterm="", n=0))
            found += [f"    {line[:200]}" for line in lines[2:10]]
    return found


if __name__ == "__main__":
    sys.exit(main())
