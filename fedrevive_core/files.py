"""Writing files whole or not at all, and keeping other processes out of a directory. Works on every platform."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from fedrevive_core.errors import ConfigError

# Names of unfinished work begin with this, and nothing else does: what a killed process left can be told from the
# user's files.
UNFINISHED = ".fedrevive-unfinished-"


def check_free(directory: Path | str) -> Path:
    """`directory` as a path, if it is absent or empty and can be made. Raises ConfigError otherwise."""
    directory = Path(directory)
    ground = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists())
    if not ground.is_dir() or not os.access(ground, os.W_OK):
        raise ConfigError(f"out = '{directory}': '{ground}' is not a directory that can be written to; choose another")
    if directory.exists() and any(directory.iterdir()):
        kind = "already holds a run" if (directory / "run.json").exists() else "is not empty"
        raise ConfigError(f"out = '{directory}' {kind}: choose another directory, or remove this one first")
    return directory


def refuse_links(directory: Path, names: Iterable[str] = ()) -> None:
    """Raise ConfigError if what lies below `directory` could lead a reader or a writer out of it.

    Files and directories alone are allowed; a link, a pipe or a device is not. Hidden entries are never opened, so they
    are not looked at. `directory` itself may be a link. `names` are read from a file in it and must be plain names.
    """
    for name in names:
        if name in ("", ".", "..") or set(name) & set("/\\:\0"):
            raise ConfigError(
                f"'{directory}' names something in it '{name}': a name without '/', '\\' or ':' is allowed"
            )
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    refuse_links(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    kind = "a link" if entry.is_symlink() else "neither a file nor a directory"
                    raise ConfigError(f"'{entry.path}' is {kind}, and is not opened: remove it, or copy its content")
    except OSError as error:
        raise ConfigError(
            f"'{directory}' cannot be read ({error.strerror}): give the directory of a run or a sweep"
        ) from None


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A new directory to write into; it becomes `path`, absent or empty, if the block ends well, else it is removed."""
    with work_directory(path.parent) as work:
        yield work
        publish(work, path)


@contextmanager
def work_directory(parent: Path) -> Iterator[Path]:
    """A new directory in `parent`, which is made if it is absent; removed at the end unless it was published."""
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def publish(work: Path, path: Path) -> None:
    """Rename the directory `work` to `path`, which is absent or an empty directory. Raises OSError if it is not."""
    work.chmod(0o755)  # mkdtemp makes it private
    if path.exists():
        path.rmdir()  # a rename replaces an empty directory on POSIX alone
    os.replace(work, path)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write a file to; the file becomes `path` if the block ends well, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with work_directory(path.parent) as work:
        yield work / path.name
        os.replace(work / path.name, path)


def remove_unfinished(directory: Path) -> None:
    """Remove what killed processes left unfinished in `directory`; nothing else."""
    for left in directory.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keep other processes out of `directory`; a killed one leaves no lock. Raises ConfigError if it is taken."""
    held = filelock.FileLock(directory / "lock")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except filelock.Timeout:
        raise ConfigError(f"{directory} is in use by another process: wait for it, or choose another") from None
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written ({error.strerror}): choose another directory") from None
    try:
        yield
    finally:
        held.release()
