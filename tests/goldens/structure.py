"""How the package is built, in figures, before and after a redesign:

    python -m tests.goldens.structure

Modules in the package's root; lines of the longest files; files of code that name a batch's columns as identifiers;
the longest signatures.
"""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "s2sjax"
COLUMNS = {"inputs", "targets", "source", "target"}
"""Words of pairs of token rows: each as a name, an attribute, an argument or a keyword, or the string that indexes a
batch or a record."""


def trees(package: Path) -> Iterator[tuple[str, str, ast.AST]]:
    """Each file's name, text and syntax tree."""
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield str(path.relative_to(package)), text, ast.parse(text)


def columns_named(tree: ast.AST) -> dict[str, int]:
    """How often code names each of `COLUMNS`. Docstrings and comments do not count."""
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        names = {
            ast.Name: lambda n: n.id,
            ast.Attribute: lambda n: n.attr,
            ast.arg: lambda n: n.arg,
            ast.keyword: lambda n: n.arg,
            ast.Constant: lambda n: n.value if isinstance(n.value, str) else None,
        }
        name = names[type(node)](node) if type(node) in names else None
        if name in COLUMNS:
            found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def signatures(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The number of parameters of each function, without self and cls, and its name; a method's with its class."""

    def walk(node: ast.AST, inside: str) -> Iterator[tuple[int, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                given = child.args
                names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                count = len([name for name in names if name not in ("self", "cls")])
                yield count + bool(given.vararg) + bool(given.kwarg), f"{inside}{child.name}"
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            yield from walk(child, f"{inside}{child.name}." if named else inside)  # type: ignore[attr-defined]

    yield from walk(tree, "")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.goldens.structure", description=__doc__.partition("\n")[0])
    parser.add_argument("--package", type=Path, default=PACKAGE, help="of another checkout")
    parser.add_argument("--longest", type=int, default=12, metavar="N", help="so many files and signatures")
    arguments = parser.parse_args()
    files = list(trees(arguments.package))
    root = [name for name, *_ in files if "/" not in name]
    lines = sum(text.count("\n") for _, text, _ in files)
    print(f"{len(files)} modules, {len(root)} of them in the package's root; {lines} lines")
    print("\nlongest files")
    for lines, name in sorted(((text.count("\n"), name) for name, text, _ in files), reverse=True)[: arguments.longest]:
        print(f"  {lines:4} {name}")
    naming = {name: found for name, _, tree in files if (found := columns_named(tree))}
    print(f"\n{len(naming)} files name {', '.join(sorted(COLUMNS))}")
    for name, found in naming.items():
        print(f"  {sum(found.values()):4} {name}: {', '.join(f'{word} {count}' for word, count in found.items())}")
    longest = sorted(((count, f"{name}:{function}") for name, _, tree in files for count, function in signatures(tree)),
                     reverse=True)  # fmt: skip
    print("\nlongest signatures (parameters)")
    for count, function in longest[: arguments.longest]:
        print(f"  {count:4} {function}{' (constructor)' if function.endswith('.__init__') else ''}")


if __name__ == "__main__":
    main()
