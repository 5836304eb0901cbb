"""Save a run in the middle and go on exactly: killed at any moment and resumed, it ends with the same bits on a CPU.

What a checkpoint holds is in moment.py. On disk: `DIR/ARRIVALS-HASH/` with `tensors.safetensors` and `manifest.json`.
The manifest names the hash of the tensors and the directory's name holds the hash of the manifest, so any damage is
found. A checkpoint is written beside and renamed once; the two newest are kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM, signal
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import Tensor

from fedrevive_core.config import RunConfig
from fedrevive_core.moment import Moment, put, take
from fedrevive_core.validation import ConfigError

if TYPE_CHECKING:
    from fedrevive_core.simulate import Simulation

FORMAT = 2  # raised when a change makes older checkpoints unreadable
KEPT = 2
TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"


class Damaged(Exception):
    """A checkpoint whose files are not what was written."""


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


@contextmanager
def signals(checkpoints: Path | None) -> Iterator[list[int]]:
    """The signals to stop that came in, instead of what they would do; none are caught without `checkpoints`."""
    received: list[int] = []
    caught = (SIGINT, SIGTERM) if checkpoints and current_thread() is main_thread() else ()
    before = {number: signal(number, lambda number, _: received.append(number)) for number in caught}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal(number, handler)


def write(simulation: Simulation, directory: Path) -> Path:
    """Write a checkpoint of `simulation` (between two arrivals) below `directory` and return its path.

    Raises ConfigError if it cannot be written (disk full, read-only); older checkpoints stay as they are.
    """
    work, moment = None, take(simulation)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".writing-", dir=directory))
        arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in moment.tensors.items()}
        save_file(arrays, work / TENSORS)
        manifest = json.dumps(
            {
                "format": FORMAT,
                "config": simulation.config.to_dict(),
                "data": simulation.data.fingerprint,
                "own": simulation.own,
                "tensors": _sha256(work / TENSORS),
                **moment.values,
            }
        )
        (work / MANIFEST).write_text(manifest)
        for file in (work / TENSORS, work / MANIFEST):
            with file.open("rb") as written:
                os.fsync(written.fileno())
        path = directory / f"{simulation.num_processed:09d}-{_sha256(work / MANIFEST)}"
        if not path.exists():
            os.replace(work, path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"no checkpoint could be written to {directory} ({error}): make room or choose another directory, then "
            "resume; older checkpoints are intact"
        ) from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    for old in _found(directory)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def restore(simulation: Simulation, directory: Path) -> bool:
    """Bring a fresh `simulation` to its newest good checkpoint below `directory`; False if there is none at all.

    A damaged checkpoint is passed over with a warning. Raises ConfigError if all are damaged, or if the one found
    belongs to another configuration, other data or another format, naming what differs.
    """
    found = _found(directory)
    for path in found:
        try:
            manifest, tensors = _read(path)
        except (Damaged, OSError, ValueError, SafetensorError) as error:
            warnings.warn(f"checkpoint {path} is damaged ({error}): trying an older one", stacklevel=2)
            continue
        _check_same(simulation, manifest, path)
        device = simulation.device
        # Copies, so that nothing points into the file, which a later checkpoint replaces.
        put(simulation, Moment(manifest, {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}))
        simulation.num_resumed += 1
        return True
    if found:
        raise ConfigError(f"every checkpoint in {directory} is damaged: remove the directory and start again")
    return False


def _found(directory: Path) -> list[Path]:
    """Checkpoints below `directory`, newest first."""
    return sorted((path for path in directory.glob("*-*") if path.name[0].isdigit()), reverse=True)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if _sha256(path / MANIFEST) != path.name.partition("-")[2]:
        raise Damaged(f"{MANIFEST} has changed")
    manifest = json.loads((path / MANIFEST).read_text())
    if _sha256(path / TENSORS) != manifest["tensors"]:
        raise Damaged(f"{TENSORS} has changed")
    return manifest, load_file(path / TENSORS)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_same(simulation: Simulation, manifest: dict[str, Any], path: Path) -> None:
    if manifest["format"] != FORMAT:
        raise ConfigError(
            f"{path} has checkpoint format {manifest['format']}, this version reads {FORMAT}: start again"
        )
    differing = simulation.config.differences(RunConfig.from_dict(manifest["config"]))
    if manifest["data"] != simulation.data.fingerprint:
        differing.append("the data itself")
    there, here = manifest["own"], simulation.own
    differing += [f"{name} of your own" for name in ("model", "beta") if there.get(name) != here.get(name)]
    if manifest["branches"] != simulation.branches:
        differing.append("the moment it was branched from")
    if differing:
        raise ConfigError(f"{path} belongs to another run, which differs in {', '.join(differing)}")
