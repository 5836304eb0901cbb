"""Writing files whole or not at all, and keeping other processes out of a directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedrevive_core.errors import ConfigError

if TYPE_CHECKING:
    pass


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


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keep other processes out of `directory`; a killed one leaves no lock. Raises ConfigError if it is taken."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = (directory / "lock").open("w")
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written ({error.strerror}): choose another directory") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{directory} is in use by another process: wait for it, or choose another") from None
        yield
