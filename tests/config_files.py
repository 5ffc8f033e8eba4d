"""The config files that come with the package, each with all of its variants: what several tests walk."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = [path for path in sorted(CONFIGS.rglob("*.py")) if "def get_config" in path.read_text(encoding="utf-8")]


@functools.cache
def _module(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.replace("/", "_"), CONFIGS / f"{file}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def config_names() -> list[str]:
    """Of each file its path without suffix, and for each of its VARIANTS the same with a colon and the variant."""
    names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in FILES]
    return [f"{name}:{v}" if v else name for name in names for v in ("", *getattr(_module(name), "VARIANTS", ()))]


def config_of(name: str) -> ConfigDict:
    """What `get_config` of a file of `config_names` returns."""
    file, colon, variant = name.partition(":")
    return _module(file).get_config(*([variant] if colon else []))
