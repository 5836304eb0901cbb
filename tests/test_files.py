"""Writing whole or not at all: where it may be written, what is left of a killed process, and what is nobody's."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import pytest

from fedrevive_core import files
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import UNFINISHED, atomic_directory, atomic_file, check_file, check_free, lock, refuse_links


def write_record(path: Path) -> None:
    with atomic_directory(check_free(path), last="run.json") as work:
        for name in ("run.json", "table", "more/table"):
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_text("ours")


@pytest.mark.parametrize("place", ["new", "new/below", "empty", "link", "dangling", "."])
def test_a_record_can_be_written_to(tmp_path, monkeypatch, place):
    """An empty directory may be a mount point: it is never renamed to, and its header comes last."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("absent")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here" if place == "." else tmp_path)
    replace, order = os.replace, []

    def busy(source, goal):
        if Path(goal).is_dir():
            raise OSError(errno.EBUSY, "Device or resource busy")
        order.append(Path(goal).name)
        replace(source, goal)

    monkeypatch.setattr(files.os, "replace", busy)
    write_record(Path(place))
    assert {path.name for path in Path(place).iterdir()} == {"run.json", "table", "more"}
    assert order[-1] in ("run.json", "new", "below", "absent")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    with pytest.raises(ConfigError, match="already holds a run"):
        check_free(Path(place))


@pytest.mark.parametrize("place", ["file", "file/below", "loop", "a" * 256, f"new/{'a' * 256}/b", "full"])
def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"cannot be written|is not empty"):
        check_free(Path(place))
    if place != "file":
        with pytest.raises(ConfigError, match="cannot be written"):
            check_file(Path(place))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_is_none_or_read_only_or_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "read-only").touch(0o400)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out.png").write_text("mine")
    for path in (tmp_path / "read-only", tmp_path / "pipe"):
        with pytest.raises(ConfigError, match=r"cannot be written .it is (read-only|not a file)"):
            check_file(path)
    with pytest.raises(ConfigError, match=r"would replace '.*out.png', which is something else"):
        check_file(tmp_path / "out.json", tmp_path / "out.png")
    (tmp_path / "link").symlink_to("target")
    with atomic_file(tmp_path / "link") as path:
        path.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_what_a_killed_process_left_is_removed_and_a_living_one_keeps_its_own(tmp_path):
    def left(name: str) -> Path:
        work = tmp_path / f"{UNFINISHED}{name}"
        (work / "new").mkdir(parents=True)
        (work / "lock").touch()
        return work

    dead, living, foreign, other = (left(name) for name in ("00000000", "11111111", "22222222", "notes"))
    (foreign / "mine").touch()
    with filelock.FileLock(living / "lock"), lock(tmp_path):
        assert not dead.exists()
        assert all((path / "new").exists() for path in (living, foreign, other))
        with pytest.raises(ConfigError, match="is in use by another process"), lock(tmp_path):
            pass
    assert sorted(tmp_path.iterdir()) == [living, foreign, other]
    left("00000000")
    write_record(tmp_path / "new")
    assert not dead.exists()


@pytest.mark.parametrize("kind", ["link", "directory", "dangling", "pipe"])
def test_nothing_below_a_record_leads_out_of_it(tmp_path, kind):
    record = tmp_path / "record"
    (record / "runs" / "one").mkdir(parents=True)
    (record / ".git").symlink_to("/etc")  # hidden, so it is never opened
    (tmp_path / "given").symlink_to("record")  # by the user, who may
    refuse_links(tmp_path / "given")
    path = record / "runs" / "one" / "run.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link": "/etc/hostname", "directory": "/etc", "dangling": "nowhere"}[kind])
    with pytest.raises(ConfigError, match=r"run\.json' is (a link|neither a file nor a directory), and is not opened"):
        refuse_links(tmp_path / "given")
    with pytest.raises(ConfigError, match="is not opened"), atomic_directory(record):
        pytest.fail("the work must not begin")


def test_many_at_once_look_at_and_write_to_one_absent_directory(tmp_path):
    """One removes the directory that it made to look while another is about to use it, as shards of a sweep do."""

    def use(number: int) -> None:
        for turn in range(6):
            check_free(tmp_path / "looked" / "at")
            with atomic_directory(tmp_path / "written" / f"{number}-{turn}") as work:
                (work / "file").write_text("ours")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(6)))
    assert len(list(tmp_path.glob("written/*/file"))) == 36
    assert not list(tmp_path.rglob(f"{UNFINISHED}*"))


def test_a_process_that_was_killed_before_it_had_the_lock_keeps_nobody_out(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "GRACE", 0.1)
    with lock(tmp_path):
        (held,) = tmp_path.iterdir()
    held.mkdir()
    with lock(tmp_path), pytest.raises(ConfigError, match="in use by another process"), lock(tmp_path):
        pass
