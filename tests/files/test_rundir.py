import contextlib
import itertools
import os
import socket
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from s2sjax.errors import UserError
from s2sjax.files import rundir


@pytest.fixture
def place(tmp_path):
    """A run directory, and beside it a victim's file and folder."""
    (tmp_path / "run" / "plots").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("precious")
    return tmp_path


def do_everything(workdir: Path, name: str) -> list[str]:
    """What each way to open a file says; none may pass."""
    told = []
    for use in (
        lambda: rundir.read(workdir, name),
        lambda: rundir.write(workdir, name, b"evil"),
        lambda: os.close(rundir.open_for_appending(workdir, name)),
        lambda: rundir.exists(workdir, name),
    ):
        with pytest.raises(rundir.ForeignError) as caught:
            use()
        told.append(str(caught.value))
    return told


@pytest.mark.parametrize("kind", ["link", "dangling", "relative", "fifo", "socket", "folder", "loop"])
def test_only_regular_files_are_opened(place, kind, monkeypatch):
    path = place / "run" / "file"
    match kind:
        case "link":
            path.symlink_to(place / "outside" / "file")
        case "dangling":
            path.symlink_to(place / "outside" / "new")
        case "relative":
            path.symlink_to("../outside/file")
        case "loop":
            path.symlink_to("file")
        case "fifo":
            os.mkfifo(path)
        case "socket":
            monkeypatch.chdir(path.parent)  # a socket's path has at most 107 bytes
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind("file")
        case "folder":
            path.mkdir()
    for told in do_everything(place / "run", "file"):
        assert str(path) in told
        assert ("is a link" in told) == (kind in ("link", "dangling", "relative", "loop"))
    assert os.listdir(place / "outside") == ["file"]
    assert (place / "outside" / "file").read_text() == "precious"


@pytest.mark.parametrize("depth", [1, 3])
def test_no_folder_on_the_way_may_be_a_link(place, depth):
    *upper, last = ["a", "b", "c"][:depth]
    (place / "run").joinpath(*upper).mkdir(parents=True, exist_ok=True)
    (place / "run").joinpath(*upper, last).symlink_to(place / "outside")
    name = "/".join([*upper, last, "file"])
    do_everything(place / "run", name)
    with pytest.raises(rundir.ForeignError), rundir.open_folder(place / "run", os.path.dirname(name), make=True):
        pass
    with pytest.raises(rundir.ForeignError):
        rundir.names(place / "run", os.path.dirname(name))
    with pytest.raises(rundir.ForeignError):
        rundir.remove(place / "run", name)
    assert (place / "outside" / "file").read_text() == "precious"


def test_the_run_directory_itself_may_be_a_link(place):
    (place / "named").symlink_to("run")
    rundir.write(place / "named", "results/test.json", b"1")
    assert rundir.read(place / "run", "results/test.json") == b"1"


def test_a_second_name_of_a_file_is_left_as_it_is(place):
    victim = place / "outside" / "file"
    os.link(victim, place / "run" / "appended")
    os.link(victim, place / "run" / "written")
    handle = rundir.open_for_appending(place / "run", "appended")
    os.write(handle, b", more")
    os.close(handle)
    rundir.write(place / "run", "written", b"new")
    assert victim.read_text() == "precious"
    assert (place / "run" / "appended").read_text() == "precious, more"
    assert (place / "run" / "written").read_text() == "new"
    assert sorted(os.listdir(place / "run")) == ["appended", "plots", "written"]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 5])
def test_a_copy_of_a_file_with_a_second_name_is_whole(place, size):
    content = os.urandom(size)
    (place / "outside" / "file").write_bytes(content)
    os.link(place / "outside" / "file", place / "run" / "appended")
    os.close(rundir.open_for_appending(place / "run", "appended"))
    assert (place / "run" / "appended").read_bytes() == content
    assert (place / "run" / "appended").stat().st_nlink == 1


def test_a_copy_of_a_file_with_a_second_name_is_made_piece_by_piece_and_has_a_limit(place):
    """The files are of holes: they take no room on the disk. A copy does."""
    os.truncate(place / "outside" / "file", 30 << 20)
    os.link(place / "outside" / "file", place / "run" / "appended")
    tracemalloc.start()
    try:
        os.close(rundir.open_for_appending(place / "run", "appended"))
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert (place / "run" / "appended").stat().st_size == 30 << 20
    os.truncate(place / "outside" / "file", 10**12)
    os.link(place / "outside" / "file", place / "run" / "large")
    with pytest.raises(UserError, match=r"second name.* 1,000,000,000,000 bytes, expected at most 1,073,741,824"):
        rundir.open_for_appending(place / "run", "large")
    assert sorted(os.listdir(place / "run")) == ["appended", "large", "plots"]


def test_removing_removes_links_and_not_what_they_lead_to(place):
    folder = place / "run" / "plots"
    (folder / "link").symlink_to(place / "outside")
    rundir.remove(place / "run", "plots")
    assert not folder.exists()
    assert (place / "outside" / "file").exists()


def test_a_folder_that_turns_into_a_link_leads_nowhere(place):
    """Somebody swaps a folder for a link all the time; whatever is written goes into the run directory or nowhere."""
    run, stop = place / "run", threading.Event()
    (run / "link").symlink_to(place / "outside")

    def swap() -> None:
        for turn in itertools.count():
            for one, other in (("plots", f"kept-{turn}"), ("link", "plots"), ("plots", "link")):
                with contextlib.suppress(OSError):  # a writer has made a new folder in between
                    os.rename(run / one, run / other)
            if stop.is_set():
                return

    thread = threading.Thread(target=swap)
    thread.start()
    written = refused = 0
    deadline = time.monotonic() + 20
    try:
        while (written < 200 or refused < 200) and time.monotonic() < deadline:
            try:
                rundir.write(run, "plots/file", b"evil")
                os.close(rundir.open_for_appending(run, "plots/other"))
                written += 1
            except FileNotFoundError:
                continue
            except UserError:
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert refused
    assert written
    assert os.listdir(place / "outside") == ["file"]
    assert (place / "outside" / "file").read_text() == "precious"


def test_a_file_that_is_too_large_is_not_read(place):
    with open(place / "run" / "big", "wb") as file:
        file.truncate(10**12)  # of holes: it takes no room on the disk
    with pytest.raises(UserError, match="1,000,000,000,000 bytes"):
        rundir.read(place / "run", "big")


def test_a_path_of_an_open_folder_leads_to_it_whatever_has_its_name(place):
    with rundir.open_folder(place / "run", "plots") as handle:
        (place / "run" / "plots").rename(place / "run" / "other")
        (place / "run" / "plots").symlink_to(place / "outside")
        through = rundir.path_of(handle, place / "run" / "plots")
        (through / "file").write_text("mine")
    assert (place / "run" / "other" / "file").read_text() == "mine"
    assert (place / "outside" / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/x", ".hidden", "a\nb", "a\0b", "x" * 101])
def test_a_name_that_becomes_a_file_name_stays_in_its_folder(name):
    with pytest.raises(UserError, match="config.data.pairs"):
        rundir.check_file_name(name, "config.data.pairs")
    assert rundir.check_file_name("zh_Hant-pt-BR[:90%]", "it") == "zh_Hant-pt-BR[:90%]"
