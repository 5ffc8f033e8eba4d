"""Config files: Python of the user's own, which is run, with a function `get_config` that returns a ConfigDict."""

import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import traceback

from ml_collections import ConfigDict

from s2sjax.commands.reference import config_keys
from s2sjax.config import nearest
from s2sjax.errors import UserError, shown
from s2sjax.upgrade import moved_from

_MODULE = "config_config"
"""What the module is called while its file is run."""


def read_config_file(given: str) -> ConfigDict:
    """Run a config file. Args: given: FILE.py, or FILE.py:ARGUMENT, which `get_config` is called with.

    Raises: UserError if there is none, or something goes wrong in it: a sentence that names the line.
    """
    path, colon, argument = given.partition(":")
    if not os.path.isfile(path):
        named = shown(path, most=200)
        raise UserError(f"there is no config file {named}; give --config=FILE.py, for instance one in configs/")
    loader = importlib.machinery.SourceFileLoader(_MODULE, path)
    spec = importlib.util.spec_from_loader(_MODULE, loader)
    assert spec is not None
    module = sys.modules[_MODULE] = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"config file {path} has no function get_config, which returns the config")
        if colon and not inspect.signature(module.get_config).parameters:
            raise UserError(f"config file {path} has no variants: leave out what follows it, {shown(':' + argument)}")
        config = module.get_config(*([argument] if colon else []))
    except UserError:
        raise
    except Exception as error:  # the file is the user's own code, and so is what is wrong with it
        raise UserError(f"config file {path}{_line(error, path)}: {_reason(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config of config file {path} returns {shown(config)}, but a ConfigDict was expected: what "
            "s2sjax.base_config returns"
        )
    config.lock()
    return config


def _line(error: Exception, path: str) -> str:
    """Where in the file an error was raised, or what raised it was called."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f", line {lines[-1]}" if lines else ""


def _reason(error: Exception) -> str:
    text = str(error)
    if found := re.search(r'Key "(\w+)" does not exist', text):  # of a ConfigDict that is locked
        names = {key.name.rpartition(".")[2] for key in config_keys()}
        if found[1] in names:
            homes = sorted({f"config.{key.name}" for key in config_keys() if key.name.endswith(f".{found[1]}")})
            where = f"{' and '.join(homes)} may be, in a config of another family or task"
            return f"{found[1]} is not a config key there: {where}"
        return f"{found[1]} is not a config key: {nearest(found[1], names, moved_from()).partition(' (known: ')[0]}"
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {(text.splitlines() or [''])[0][:300]}"
