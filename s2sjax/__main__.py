"""`s2sjax` and `python -m s2sjax`."""

import logging

from s2sjax.hugepages import restart_with_huge_pages


def main() -> None:
    restart_with_huge_pages()
    logging.addLevelName(logging.WARNING, "warning")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    from s2sjax.cli import run_command

    run_command()


if __name__ == "__main__":
    main()
