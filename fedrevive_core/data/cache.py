"""Files that a loader makes once and then reads offline: written whole or not at all, never pickled."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_file


def data_directory() -> Path:
    """The directory in which data sets are looked for and saved: $FEDREVIVE_DATA, or the user's cache folder.

    Raises ConfigError if $FEDREVIVE_DATA is not the absolute path of a directory, there or yet to be made.
    """
    given = os.environ.get("FEDREVIVE_DATA")
    cache = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if not given:
            return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "fedrevive"
        directory = Path(given).expanduser()
        # Notebooks run in another directory, where a relative path would lead elsewhere.
        good = directory.is_absolute() and (directory.is_dir() or not directory.exists())
    except (OSError, RuntimeError, ValueError):  # a name that is too long; a home that is not known
        good = False
    if not good:
        raise ConfigError(
            f"FEDREVIVE_DATA = '{given or ''}': must be the absolute path of a directory for data sets, "
            "which is made if it does not exist"
        )
    return directory


def reason(error: Exception) -> str:
    """The first line of what `error` says, or its type if it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def cache_file(path: Path) -> Iterator[Path]:
    """A path to write a file to, which becomes `path` if all goes well. Raises ConfigError if it cannot be written."""
    try:
        with atomic_file(path) as work:
            yield work
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error}): free some space, or set FEDREVIVE_DATA to another directory"
        ) from None


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write `arrays` as a compressed npz at `path`, whole or not at all. Raises ConfigError if it cannot be written."""
    with cache_file(path) as work, work.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Arrays `names` of an npz that `write_arrays` wrote; the checksums in it are verified.

    Raises ConfigError naming the file if it is damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile, zlib.error) as error:
        raise ConfigError(f"{path} is damaged ({error}): delete it, and the next run will make it again") from None
