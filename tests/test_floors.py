"""The house's floors, kept by reading every import: what stands below never knows what stands above."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "s2sjax"
FILES = sorted(PACKAGE.rglob("*.py"))

GROUND = {"errors", "vocabulary", "ports", "api", "config", "upgrade", "files", "one_or_several", "plural"}
LEAVES = {"checkpoints", "learning", "sharding", "processes", "metrics", "reporting"}
"""They stand beside the floors: they know the ground and each other, and only `inference` and above know them."""
FLOORS = (
    GROUND,
    {"ops", "data"},
    {"nn", "decode"},
    {"models"},
    LEAVES,
    {"inference"},
    {"task"},
    {"tasks"},
    {"config_dict"},
    {"experiment"},
    {"recipes"},
    {"runs"},
    {"training"},
    {"inspection"},
    {"commands"},
    {"python_api"},
    {"cli"},
    {"__main__", "__init__"},
)
"""Each imports only what stands before it; neighbours on a floor do not know each other, but for the ground and the
leaves. A folder is one piece."""

UNKNOWN = {"nn": {"data"}, "decode": {"data", "ops"}, "models": {"data", "decode"}}
"""Lower pieces that a piece does not know all the same: search knows a step function, a model knows arrays."""

FOREIGN = {
    "errors": {"jax", "flax", "numpy", "ml_collections"},
    "vocabulary": {"jax", "flax", "numpy", "ml_collections"},
    "ports": {"jax", "flax", "numpy", "ml_collections"},
    "config": {"jax", "flax", "ml_collections"},
    "upgrade": {"jax", "flax", "numpy"},
    "files": {"jax", "flax", "numpy", "ml_collections"},
    "data": {"jax", "flax", "optax", "orbax", "ml_collections"},
    "ops": {"flax", "ml_collections"},
    "nn": {"ml_collections"},
    "decode": {"flax", "ml_collections"},
    "models": {"ml_collections", "grain", "optax", "orbax"},
    "inference": {"ml_collections", "grain"},
}
"""Libraries that a piece must do without."""


MOST_PARAMETERS = 6
"""Of a function that is no constructor: what belongs together is a dataclass."""
MANY_PARAMETERS = {
    "ops.attention.step_attention": "the operands of the formula",
    "ops.recurrent.recur": "the operands of the formula",
    "ops.recurrent.scan_products": "those of `lax.scan`, and the products'",
    "ops.recurrent.scan_plainly": "the same",
    "ops.recurrent._scan_products": "`custom_vjp` tells by places what is differentiated",
    "ops.recurrent._scan_forward": "the same",
}


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in it, for types only too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "s2sjax" else {module}
    return found


def parameters(path: Path) -> dict[str, int]:
    """How many parameters each function of a file has that is no constructor; self and cls are none."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "__init__":
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            stars = sum(each is not None for each in (node.args.vararg, node.args.kwarg))
            count = len(named) + stars - (bool(named) and named[0].arg in ("self", "cls"))
            found[node.name] = max(found.get(node.name, 0), count)
    return found


def piece(path: Path) -> str:
    """The piece of the house that a file belongs to: its folder, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def below(name: str) -> set[str]:
    """What a piece may import from the package, itself included."""
    if name in GROUND:
        return GROUND
    if name in LEAVES:
        return GROUND | LEAVES
    height = next(i for i, floor in enumerate(FLOORS) if name in floor)
    allowed = {name}.union(*FLOORS[:height]) - UNKNOWN.get(name, set())
    return allowed | ({"__init__"} if name == "__main__" else set())


def test_every_piece_of_the_package_has_its_floor():
    assert {piece(path) for path in FILES} == set().union(*FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("s2sjax.")}
    assert ours <= below(piece(path)), f"{path.name} looks up at {sorted(ours - below(piece(path)))}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_piece_does_without_the_libraries_it_must_not_know(path):
    libraries = {name.split(".")[0] for name in imports(path)}
    assert not libraries & FOREIGN.get(piece(path), set())
    assert "pickle" not in libraries, "a run directory is data: nothing in it may be able to run"


def test_every_file_can_be_read_in_one_sitting():
    too_long = {path.name: n for path in FILES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not too_long


def test_functions_have_few_parameters():
    many = set()
    for path in FILES:
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        many |= {f"{module}.{name}" for name, count in parameters(path).items() if count > MOST_PARAMETERS}
    assert many == set(MANY_PARAMETERS), "bundle what belongs together in a frozen dataclass"


def test_nothing_is_called_utils():
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "common", "misc")]


def test_the_reader_of_imports_sees_all_of_them(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("import a.b\nfrom s2sjax import data\ndef f():\n    from c.d import e\n    import jax, pickle\n")
    assert imports(file) == {"a.b", "s2sjax.data", "c.d", "jax", "pickle"}


def test_the_reader_of_parameters_counts_all_but_self(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "def f(a, b, /, c, *d, e, **g): ...\n"
        "class A:\n"
        "    def __init__(self, a, b, c, d, e, f, g): ...\n"
        "    def h(self, a):\n        async def i(): ...\n"
        "    @classmethod\n    def j(cls, a, *, b=1): ...\n"
    )
    assert parameters(file) == {"f": 6, "h": 1, "i": 0, "j": 2}
