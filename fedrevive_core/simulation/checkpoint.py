"""Save a run in the middle and go on exactly: killed at any moment and resumed, it ends with the same bits on a CPU.

What a checkpoint holds is in moment.py. On disk: `DIR/ARRIVALS-HASH/` with `tensors.safetensors` and `manifest.json`.
The manifest names the hash of the tensors and the directory's name holds the hash of the manifest, so any damage is
found. A checkpoint is written beside and renamed once. The two newest are kept, and in `DIR/checkpoints/` those that
are to stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
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
from fedrevive_core.errors import ConfigError, Interrupted
from fedrevive_core.files import lock
from fedrevive_core.records import check_file, read_json
from fedrevive_core.simulation.branch import WAITING, Moment, most_bytes, put, take

if TYPE_CHECKING:
    from fedrevive_core.simulation.simulation import Simulation

FORMAT = 2  # raised when a change makes older checkpoints unreadable
KEPT = 2
STAYING = "checkpoints"  # below a run's directory, and later below its record
MANIFEST_LIMIT = 2**28  # bytes; some 40 for every arrival and 20 for every class at every evaluation
TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"


class Damaged(Exception):
    """A checkpoint whose files are not what was written."""


@contextmanager
def kept(
    simulation: Simulation, directory: Path | None, every: int | str, keep_every: int
) -> Iterator[Callable[[bool], None]]:
    """Lock `directory`, go on from its newest checkpoint, and give a function to be called after every arrival.

    Told whether there is a new version, it writes a checkpoint if one is due: every so many versions or, as '300s',
    seconds; at multiples of `keep_every` versions, which stay (0: none); and on a signal, then raising Interrupted.
    Without a `directory` nothing of all this happens.
    """
    versions, seconds = _interval(every)
    if keep_every < 0:
        raise ConfigError(f"keep_every = {keep_every} must be a number of versions, or 0 to keep the two newest alone")
    if directory is None:
        yield lambda is_new: None
        return
    written = time.monotonic()

    def keep(is_new: bool) -> None:
        nonlocal written
        version = simulation.server.version
        stays = is_new and keep_every > 0 and version % keep_every == 0
        due = is_new and (version % versions == 0 if versions else time.monotonic() - written >= seconds)
        if stays or due or received:
            path = write(simulation, directory, stays=stays)
            written = time.monotonic()
            if received:
                raise Interrupted(received[0], str(path))

    with lock(directory), _signals() as received:
        restore(simulation, directory)
        yield keep


def _interval(every: int | str) -> tuple[int, float]:
    """(versions, seconds) between checkpoints, one of them 0."""
    text = str(every)
    if text.isdecimal() and int(text) > 0:
        return int(text), 0.0
    if text.endswith("s") and text[:-1].isdecimal() and int(text[:-1]) > 0:
        return 0, float(text[:-1])
    raise ConfigError(f"checkpoint_every = {every} must be versions, such as 100, or seconds, such as 300s")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals to stop that came in, instead of what they would do. Only the main thread can catch them."""
    received: list[int] = []
    caught = (SIGINT, SIGTERM) if current_thread() is main_thread() else ()
    before = {number: signal(number, lambda number, _: received.append(number)) for number in caught}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal(number, handler)


def write(simulation: Simulation, directory: Path, *, stays: bool = False) -> Path:
    """Write a checkpoint of `simulation` (between two arrivals) below `directory` and return its path.

    Of those that do not stay, all but the two newest checkpoints are removed.
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
        home = directory / STAYING if stays else directory
        home.mkdir(exist_ok=True)
        path = home / f"{simulation.num_processed:09d}-{_sha256(work / MANIFEST)}"
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
    for old in found(directory)[KEPT:]:
        if old.parent == directory:
            shutil.rmtree(old, ignore_errors=True)
    return path


def restore(simulation: Simulation, directory: Path) -> bool:
    """Bring a fresh `simulation` to its newest good checkpoint below `directory`; False if there is none at all.

    A damaged checkpoint is passed over with a warning. Raises ConfigError if all are damaged, or if the one found
    belongs to another configuration, other data or another format, naming what differs.
    """
    paths = found(directory)
    for path in paths:
        try:
            manifest, tensors = _read(path, most_bytes(simulation))
        except (Damaged, OSError, ValueError, SafetensorError) as error:
            warnings.warn(f"checkpoint {path} is damaged ({error}): trying an older one", stacklevel=2)
            continue
        _check_same(simulation, manifest, path)
        device = simulation.device
        # Copies, so that nothing points into the file, which a later checkpoint replaces.
        on_host = WAITING if simulation.config.offload else ()
        copies = {n: t.to("cpu" if n.startswith(on_host) else device, copy=True) for n, t in tensors.items()}
        try:
            put(simulation, Moment(manifest, copies))
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ConfigError(f"{path} does not hold what a checkpoint of this run holds ({error!r})") from None
        simulation.num_resumed += 1
        return True
    if paths:
        raise ConfigError(f"every checkpoint in {directory} is damaged: remove the directory and start again")
    return False


def found(directory: Path) -> list[Path]:
    """Checkpoints below `directory`, of a run or of its record, newest first; or that which it is itself."""
    if (directory / MANIFEST).exists():
        return [directory]
    places = (directory, directory / STAYING)
    paths = [path for place in places for path in place.glob("*-*") if path.name[0].isdigit()]
    return sorted(paths, key=lambda path: path.name, reverse=True)


def at_version(directory: Path, version: int | None) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint below `directory`, or the newest at `version`, and its manifest.

    Raises ConfigError if there is none, naming those there are.
    """
    manifests = {}
    for path in found(directory):
        try:
            manifests[path] = _manifest(path)
        except (Damaged, OSError, ValueError) as error:
            warnings.warn(f"checkpoint {path} is damaged ({error}): left out", stacklevel=2)
    if not manifests:
        raise ConfigError(f"{directory} holds no checkpoints: --keep-every keeps some, and OUT.partial has the newest")
    for path, manifest in manifests.items():
        if version is None or manifest["version"] == version:
            return path, manifest
    versions = ", ".join(str(manifest["version"]) for manifest in manifests.values())
    raise ConfigError(f"{directory} holds no checkpoint at version {version}: there are {versions}")


def _manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path / MANIFEST, MANIFEST_LIMIT)
    if _sha256(path / MANIFEST) != path.name.partition("-")[2]:
        raise Damaged(f"{MANIFEST} has changed")
    return manifest


def _read(path: Path, limit: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    manifest = _manifest(path)
    check_file(path / TENSORS, limit)
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
