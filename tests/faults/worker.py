"""A process that runs one `s2sjax` command after the other, so that JAX is imported once: where only restoring matters.

Reads lines of JSON, each the arguments of a command; after each writes `exited CODE` to stderr.
"""

import json
import os
import sys


def main() -> None:
    from s2sjax.cli import run_command

    for line in sys.stdin:
        try:
            run_command(json.loads(line))
        except SystemExit as done:
            sys.stderr.write(f"exited {done.code}\n")
            sys.stderr.flush()
    os._exit(0)  # what libraries do at exit is of no interest


if __name__ == "__main__":
    main()
