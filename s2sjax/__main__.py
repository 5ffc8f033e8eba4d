"""`s2sjax` and `python -m s2sjax`."""

from s2sjax.environment import restart_with_huge_pages


def main() -> None:
    restart_with_huge_pages()
    from s2sjax.cli import run_command

    run_command()


if __name__ == "__main__":
    main()
