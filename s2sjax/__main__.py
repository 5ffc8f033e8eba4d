"""`s2sjax` and `python -m s2sjax`."""

import logging

from s2sjax.processes.hugepages import restart_with_huge_pages


def main() -> None:
    restart_with_huge_pages()
    logging.addLevelName(logging.WARNING, "warning")
    logging.basicConfig()
    from s2sjax.cli import run_command
    from s2sjax.processes.root_logger import Formatter

    for handler in logging.root.handlers:
        handler.setFormatter(Formatter("%(levelname)s: %(message)s"))

    run_command()


if __name__ == "__main__":
    main()
