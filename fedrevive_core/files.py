"""Writing whole or not at all, and only where nothing of the user's is in the way. Works on every platform.

Whatever is written is first made in a work directory: `.fedrevive-unfinished-NAME/new`, with a `lock` beside `new` that
its process holds. At the end it is renamed into place, and the work directory is removed. One that a killed process
left is known by its name, its content and its free lock; it is removed when something is next written beside it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock

from fedrevive_core.errors import ConfigError

UNFINISHED = ".fedrevive-unfinished-"  # names of work directories begin with this, and nothing else does
LOCK, NEW = "lock", "new"  # all that a work directory holds
GRACE = 2.0  # seconds after which a work directory without lock is of a killed process


def check_free(directory: Path | str) -> Path:
    """`directory` as a path, if it is absent or empty and can be written. Raises ConfigError otherwise."""
    directory = Path(directory)
    with writing(directory):
        real = Path(os.path.realpath(directory))
        held: list[Path] = []
        with suppress(FileNotFoundError):  # also if another process removes it now
            held = list(real.iterdir())
        if not all(map(_is_unfinished, held)):
            kind = "already holds a run" if (real / "run.json").exists() else "is not empty"
            raise ConfigError(f"out = '{directory}' {kind}: choose another directory, or remove this one first")
    check_writable(directory)
    return directory


def check_writable(directory: Path) -> None:
    """Raise ConfigError, before any work, if nothing can be written to `directory`. It is made, and removed again."""
    with writing(directory), work_directory(directory):
        pass


def check_file(path: Path, *beside: Path) -> None:
    """Raise ConfigError, before any work, if no file can be written as `path`. Nothing changes.

    Files `beside` are written with it: they may exist only if `path` does, for then both are of an earlier command.
    """
    with writing(path):
        for other in beside:
            if other == path or (other.exists() and not path.exists()):
                raise ConfigError(f"out = '{path}' would replace '{other}', which is something else: choose another")
        with work_directory(_replaceable(path).parent):
            pass


def _replaceable(path: Path) -> Path:
    """The file that `path` leads to, or will be. Raises OSError if it is a directory, a device or read-only."""
    path = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode  # of the link itself, if it leads to itself
        if not (stat.S_ISREG(mode) and mode & stat.S_IWUSR):
            raise OSError(0, "it is read-only" if stat.S_ISREG(mode) else "it is not a file")
    return path


def refuse_links(directory: Path) -> None:
    """Raise ConfigError if what lies below `directory` could lead a reader or a writer out of it.

    Files and directories alone are allowed; a link, a pipe or a device is not. Hidden entries are never opened, so they
    are not looked at. `directory` itself may be a link.
    """
    waiting = [str(directory)]
    try:
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif not entry.is_file(follow_symlinks=False):
                        kind = "a link" if entry.is_symlink() else "neither a file nor a directory"
                        raise ConfigError(f"'{entry.path}' is {kind}, and is not opened: remove it")
    except OSError as error:
        raise ConfigError(f"'{directory}' cannot be read ({error.strerror})") from None


@contextmanager
def writing(out: Path | str) -> Iterator[None]:
    """Turn an OSError of the block into a sentence about `out`, which the user named."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"'{out}' cannot be written ({error.strerror or error}): choose another place, or make room"
        ) from None


@contextmanager
def atomic_directory(path: Path, last: str = "") -> Iterator[Path]:
    """A new directory to write into; if the block ends well its files go to `path` (see `publish`), else nowhere.

    Raises ConfigError, before the block, if there is a link in `path`.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        refuse_links(path)
    with work_directory(path if path.is_dir() else path.parent) as work:
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(0, "it is not a directory")
        yield work
        publish(work, path, last)


def publish(work: Path, path: Path, last: str = "") -> None:
    """Move what the directory `work` holds to the directory `path`.

    An absent `path` appears whole. One that exists (it may be a mount point) gets the files one by one, the one called
    `last` at the end; a file of the same name is replaced, others stay as they are.
    """
    if not path.is_dir():
        os.replace(work, path)
        return
    files = [Path(root, name) for root, _, names in os.walk(work) for name in names]
    for file in sorted(files, key=lambda file: (file.name == last, file)):
        goal = path / file.relative_to(work)
        goal.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, goal)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write a file to; if the block ends well the file becomes `path`, else it is removed.

    A link stays, and what it points to is replaced. Raises OSError, before the block, if `path` is a directory, a
    device or read-only.
    """
    path = _replaceable(path)
    with work_directory(path.parent) as work:
        yield work / path.name
        os.replace(work / path.name, path)


@contextmanager
def work_directory(parent: Path, name: str = "", seconds: float = 0) -> Iterator[Path]:
    """A new directory that is removed at the end with all that is still in it, and so is a `parent` that stays empty.

    `parent` is made if it is absent. With a `name`, only one process at a time can have the directory of that name;
    raises ConfigError if another has it for more than `seconds`.
    """
    parent = Path(os.path.realpath(parent))
    made = [path for path in (parent, *parent.parents) if not path.exists()]
    held = None
    try:
        for attempt in itertools.count(1):
            try:
                parent.mkdir(parents=True, exist_ok=True)
                remove_unfinished(parent)
                if name:
                    work = parent / f"{UNFINISHED}{hashlib.sha256(name.encode()).hexdigest()[:8]}"
                    _wait_for(work, seconds)
                else:
                    work = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
                break
            except (FileExistsError, FileNotFoundError):
                with suppress(FileNotFoundError):
                    if not stat.S_ISDIR(parent.lstat().st_mode):
                        raise NotADirectoryError(0, f"'{parent.name}' is no directory") from None
                if attempt == 100:  # until then another process may just have removed the empty `parent`
                    raise
        held = filelock.FileLock(work / LOCK)
        with suppress(OSError, NotImplementedError):  # without locks, what a killed process leaves stays
            held.acquire(timeout=0)
        (work / NEW).mkdir()
        yield work / NEW
    finally:
        if held is not None:
            shutil.rmtree(work, ignore_errors=True)  # while it is locked: nobody can take it in between
            held.release()
            if os.name == "nt":
                shutil.rmtree(work, ignore_errors=True)  # an open file is not removed there
        for path in made:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _wait_for(work: Path, seconds: float) -> None:
    """Make `work`, the work directory that another process may have."""
    latest = time.monotonic() + seconds
    while True:
        try:
            return work.mkdir()
        except FileExistsError:
            # Without NEW its process takes the lock at this moment, or was killed before it had it.
            if time.monotonic() >= latest + (0 if (work / NEW).exists() else 2 * GRACE):
                raise ConfigError(f"{work.parent} is in use by another process: wait, or choose another") from None
            time.sleep(0.1)
            remove_unfinished(work.parent, GRACE)


@contextmanager
def lock(directory: Path, seconds: float = 0) -> Iterator[None]:
    """Keep other processes out of `directory`; a killed one leaves no lock.

    Raises ConfigError if it is taken and not free within `seconds`.
    """
    with ExitStack() as stack:
        with writing(directory):
            stack.enter_context(work_directory(directory, "lock", seconds))
        yield


def remove_unfinished(directory: Path, age: float = 60) -> None:
    """Remove the work directories that killed processes left in `directory`; nothing else.

    One whose process was killed before it had the lock is removed when it is `age` seconds old.
    """
    for path in filter(_is_unfinished, directory.glob(f"{UNFINISHED}*")):
        with suppress(OSError, NotImplementedError, filelock.Timeout):
            # Without NEW it is of a process that was killed before it had the lock, or is about to take it.
            if (path / NEW).exists() or path.stat().st_mtime < time.time() - age:
                with filelock.FileLock(path / LOCK, timeout=0):
                    shutil.rmtree(path, ignore_errors=True)


def _is_unfinished(path: Path) -> bool:
    """Is `path` a work directory, of a living or a dead process?"""
    ours = path.name.startswith(UNFINISHED) and re.fullmatch(r"[a-z0-9_]{8}", path.name[len(UNFINISHED) :])
    if not ours:
        return False
    try:
        if not stat.S_ISDIR(path.lstat().st_mode) or (path / LOCK).is_symlink():
            return False
        return {held.name for held in path.iterdir()} <= {LOCK, NEW}
    except FileNotFoundError:  # its process has just ended
        return True
