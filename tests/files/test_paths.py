"""Paths of a user's: `~`, emptiness and absence mean the same for everything that is read from the environment."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax._src.lru_cache import LRUCache

from s2sjax.data.cache import cache_directory
from s2sjax.data.config import DataConfig
from s2sjax.data.splits import open_split
from s2sjax.data.tokenizer import given_tokenizers
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError
from s2sjax.files import paths
from s2sjax.processes import jax_settings


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """A user id without an entry, as in a container, and no HOME."""

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("S2SJAX_CACHE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    paths._temporary_cache.cache_clear()
    yield tmp_path / f"s2sjax-{os.getuid()}"
    paths._temporary_cache.cache_clear()


def compile_cache(monkeypatch) -> Path:
    """Where JAX is told to keep compiled programs; this process keeps its own setting."""
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.setitem(jax.config._value_holders, "jax_compilation_cache_dir", type("", (), {"value": None})())
    jax_settings.configure_jax()
    return Path(told["jax_compilation_cache_dir"])


@pytest.mark.parametrize("home", ["ada", ""])
@pytest.mark.parametrize("cache", ["~/kept", "", None])
def test_data_and_compiled_programs_are_kept_under_one_directory(monkeypatch, tmp_path, home, cache):
    monkeypatch.setenv("HOME", str(tmp_path / home) if home else "")
    monkeypatch.setattr(pwd, "getpwuid", lambda number: type("", (), {"pw_dir": str(tmp_path / "from-the-system")})())
    monkeypatch.delenv("S2SJAX_CACHE", raising=False)
    if cache is not None:
        monkeypatch.setenv("S2SJAX_CACHE", cache)
    expected = tmp_path / (home or "from-the-system") / ("kept" if cache else ".cache/s2sjax")
    assert cache_directory(DataConfig()) == expected
    assert compile_cache(monkeypatch) == expected / "xla"


@pytest.mark.parametrize("where", ["a-file", "a-file/below"])
def test_compiled_programs_that_cannot_be_kept_are_told_in_a_sentence(monkeypatch, tmp_path, where, caplog):
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("S2SJAX_CACHE", str(tmp_path / where))
    with pytest.raises(KeyError, match="jax_compilation_cache_dir"):  # JAX is not told of it
        compile_cache(monkeypatch)
    (told,) = caplog.messages
    assert told.startswith("compiled programs are not kept in ") and ": Not a directory; S2SJAX_CACHE names" in told


@pytest.mark.parametrize("written", ["nothing", "half", "program", "all"])
def test_a_process_that_was_killed_while_it_kept_a_program_spoils_no_other(monkeypatch, tmp_path, written):
    """JAX writes a program, and then when it was used; without that it would keep nothing any more, and say so."""
    cache = LRUCache(str(tmp_path / "xla"), max_size=2**20)
    cache.put("before", b"whole")
    cache.put("last", b"whole")
    if written != "all":
        (tmp_path / "xla" / "last-atime").unlink()
    if written in ("nothing", "half"):
        (tmp_path / "xla" / "last-cache").write_bytes(b"wh" if written == "half" else b"")
    monkeypatch.setenv("S2SJAX_CACHE", str(tmp_path))
    compile_cache(monkeypatch)
    cache.put("next", b"whole")
    kept = {name: cache.get(name) for name in ("before", "last", "next")}
    assert kept == {"before": b"whole", "last": b"whole" if written == "all" else None, "next": b"whole"}


def test_without_a_home_the_cache_is_a_private_directory_among_temporary_files(homeless, monkeypatch):
    assert cache_directory(DataConfig()) == homeless
    assert compile_cache(monkeypatch) == homeless / "xla"
    assert homeless.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("S2SJAX_CACHE", "/given")
    assert cache_directory(DataConfig()) == Path("/given")


@pytest.mark.parametrize("home", ["read-only", "read-only/nonexistent", "a-file"])
def test_a_home_that_cannot_be_written_to_is_none(homeless, monkeypatch, tmp_path, home, caplog):
    (tmp_path / "read-only").mkdir()
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home))
    monkeypatch.setenv("MPLCONFIGDIR", "so that it is taken back")
    monkeypatch.delenv("MPLCONFIGDIR")
    writable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "read-only" not in str(path) and writable(path, mode))
    assert cache_directory(DataConfig()) == homeless
    assert "no home directory can be written to: prepared data and compiled programs are kept in" in caplog.text
    paths.configure_matplotlib()
    assert os.environ["MPLCONFIGDIR"] == str(homeless / "matplotlib")
    # What was prepared there before can still be read.
    if home != "a-file":
        (tmp_path / home / ".cache" / "s2sjax").mkdir(parents=True)
        assert cache_directory(DataConfig()) == tmp_path / home / ".cache" / "s2sjax"
        # What is going to be written has to go elsewhere.
        monkeypatch.delenv("MPLCONFIGDIR")
        paths.configure_matplotlib()
        assert os.environ["MPLCONFIGDIR"] == str(homeless / "matplotlib")
        assert compile_cache(monkeypatch) == homeless / "xla"


def test_matplotlib_uses_a_home_that_can_be_written_to(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", "so that it is taken back")
    monkeypatch.delenv("MPLCONFIGDIR")
    paths.configure_matplotlib()
    assert "MPLCONFIGDIR" not in os.environ


def test_settings_of_matplotlib_in_the_directory_that_a_user_stands_in_are_not_obeyed(tmp_path):
    """It may be a stranger's run, and LaTeX would run on the stranger's text."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\ntext.latex.preamble: \\input{/etc/passwd}\nx: \x1b[2J")
    code = """
from s2sjax.files.paths import configure_matplotlib
configure_matplotlib()
import matplotlib
differing = {k: v for k, v in matplotlib.rcParamsDefault.items() if matplotlib.rcParams._get(k) != v}
print(sorted(set(differing) - {"backend"}))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n" and "matplotlibrc in this directory is not obeyed" in done.stderr, done.stderr


@pytest.mark.parametrize("make", [os.mkfifo, lambda name: os.symlink("/dev/zero", name)])
def test_what_matplotlib_would_never_finish_to_read_is_told(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    make("matplotlibrc")
    with pytest.raises(UserError, match="matplotlibrc in this directory is no file"):
        paths.configure_matplotlib()


def test_compiled_programs_are_kept_where_files_have_unknown_owners(homeless, monkeypatch):
    compile_cache(monkeypatch)
    kept = LRUCache(str(homeless / "xla"), max_size=100)
    for key in ("one", "two", "three"):
        kept.put(key, b"x" * 40)
    assert [kept.get(key) for key in ("one", "two", "three")] == [None, b"x" * 40, b"x" * 40]


def test_a_temporary_cache_that_others_could_have_made_is_refused(homeless, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    homeless.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="others can write to .*set S2SJAX_CACHE"):
        paths.cache_root()
    homeless.unlink()
    homeless.mkdir()
    homeless.chmod(0o777)
    with pytest.raises(UserError, match="others can write to .*set S2SJAX_CACHE"):
        paths.cache_root()


@pytest.mark.parametrize(
    "read",
    [
        lambda: cache_directory(DataConfig(cache_dir="~/cache")),
        lambda: open_split(DataConfig(dir="~/x", source="{split}.en", target="{split}.de"), "train"),
        lambda: open_split(DataConfig(format="tfds", name="x", dir="~/tfds"), "train"),
        lambda: given_tokenizers(TokenizerConfig(source_model="~/bpe.model")),
    ],
)
def test_a_tilde_without_a_home_is_told_wherever_it_stands(homeless, read):
    with pytest.raises(UserError, match="~.* but there is no home directory"):
        read()


def test_a_tilde_before_nobody_is_told():
    with pytest.raises(UserError, match="there is no such user"):
        paths.expand("~no-such-user-here/data")
