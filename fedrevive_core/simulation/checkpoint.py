"""Save a run in the middle and resume it exactly: killed at any moment, it ends with the same bits on a CPU.

A checkpoint holds a nested state dict (dictionaries, lists, JSON values, tensors), whatever is in it. On disk:
`DIR/ARRIVALS-HASH/` with `tensors.safetensors` and `manifest.json`. The manifest names the hash of the tensors and the
directory's name holds the hash of the manifest, so any damage is found. A checkpoint is written beside and renamed
once. The two newest are kept, and in `DIR/checkpoints/` those that are to stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from pydantic import ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import Tensor

from fedrevive_core.config import NonNegativeInt, Section
from fedrevive_core.errors import ConfigError, Interrupted, stop_signals
from fedrevive_core.files import LOCK, lock, publish, remove_unfinished, work_directory
from fedrevive_core.records import OTHER_CODE, changes, check_file, read_json
from fedrevive_core.simulation.resumable import Resumable

FORMAT = 3  # raised when a change makes older checkpoints unreadable
KEPT = 2
STAYING = "checkpoints"  # below a run's directory, and later below its record
MANIFEST_LIMIT = 2**28  # bytes; some 40 for every arrival and 20 for every class at every evaluation
TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"
TENSOR = "$tensor"  # in the manifest, the key under which a tensor's name stands in its place


class Damaged(Exception):
    """A checkpoint whose files are not what was written."""


class Identity(Section):
    """Of which run a checkpoint is; what a run adds is compared by the run."""

    model_config = ConfigDict(extra="allow")

    config: dict[str, Any]
    data: str
    custom: dict[str, str]
    branches: list[dict[str, Any]]


class Manifest(Section):
    """What the manifest of a checkpoint holds; further entries may be added."""

    model_config = ConfigDict(extra="allow")

    format: int
    version: NonNegativeInt
    identity: Identity
    made_by: dict[str, Any] = Field({})  # of which older ones say nothing
    tensors: str
    state: dict[str, Any]


@contextmanager
def kept(
    run: Resumable, directory: Path | None, every: int | str, keep_every: int, allow_other_code: bool = False
) -> Iterator[Callable[[bool], None]]:
    """Lock `directory`, resume from its newest checkpoint, and give a function to call after every arrival.

    Call it with whether there is a new version. It writes a checkpoint when one is due (every N versions or, as
    '300s', seconds), keeps every `keep_every`-th version for good (0: none), and on SIGINT or SIGTERM writes one and
    raises Interrupted. It does nothing if `directory` is None. The end of a run is kept too: if its record cannot be
    saved, nothing is trained again.
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
        stays = is_new and keep_every > 0 and run.version % keep_every == 0
        due = is_new and (run.version % versions == 0 if versions else time.monotonic() - written >= seconds)
        if stays or due or received:
            path = write(run, directory, stays=stays)
            written = time.monotonic()
            if received:
                raise Interrupted(received[0], str(path))

    with lock(directory), stop_signals() as received:
        restore(run, directory, allow_other_code)
        yield keep
        newest = list_checkpoints(directory)[:1]
        if not newest or int(newest[0].name.partition("-")[0]) != run.num_processed:
            try:
                write(run, directory)
            except ConfigError as error:  # the record may be smaller
                warnings.warn(str(error), stacklevel=2)


def _interval(every: int | str) -> tuple[int, float]:
    """(versions, seconds) between checkpoints, one of them 0."""
    text = str(every)
    if text.isdecimal() and int(text) > 0:
        return int(text), 0.0
    if text.endswith("s") and text[:-1].isdecimal() and int(text[:-1]) > 0:
        return 0, float(text[:-1])
    raise ConfigError(f"checkpoint_every = {every} must be versions, such as 100, or seconds, such as 300s")


def write(run: Resumable, directory: Path, *, stays: bool = False) -> Path:
    """Write a checkpoint of `run` (between two arrivals) below `directory` and return its path.

    All but the two newest checkpoints are removed, except those that stay. Raises ConfigError if it cannot be written
    (disk full, read-only); older checkpoints are not touched then.
    """
    tensors: dict[str, Tensor] = {}
    values = _without_tensors(run.state_dict(), "", tensors)
    home = directory / STAYING if stays else directory
    try:
        with work_directory(directory) as work:
            arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
            save_file(arrays, work / TENSORS)
            manifest = {
                "format": FORMAT,
                "version": run.version,
                "identity": run.identity(),
                "made_by": run.made_by(),
                "tensors": _sha256(work / TENSORS),
                "state": values,
            }
            (work / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
            for file in (work / TENSORS, work / MANIFEST):
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
            home.mkdir(exist_ok=True)
            path = home / f"{run.num_processed:09d}-{_sha256(work / MANIFEST)}"
            if not path.exists():
                publish(work, path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"no checkpoint could be written to {directory} ({error}): make room or choose another directory, then "
            "resume; older checkpoints are intact"
        ) from None
    for old in list_checkpoints(directory)[KEPT:]:
        if old.parent == directory:
            shutil.rmtree(old, ignore_errors=True)
    return path


def restore(run: Resumable, directory: Path, allow_other_code: bool = False) -> bool:
    """Bring a fresh `run` to its newest good checkpoint below `directory`; False if there is none at all.

    A damaged checkpoint is passed over with a warning. Raises ConfigError if all are damaged, or if the one found
    belongs to another run, has another format or (unless allowed) was made by other code, naming what differs.
    """
    paths = list_checkpoints(directory)
    for path in paths:
        try:
            manifest, tensors = _read(path)
        except (Damaged, OSError, ValueError, SafetensorError) as error:
            warnings.warn(f"checkpoint {path} is damaged ({error}): trying an older one", stacklevel=2)
            continue
        _check_format(manifest, path)
        try:
            if differing := run.differences(manifest["identity"]):
                raise ConfigError(f"{path} belongs to another run, which differs in {', '.join(differing)}")
            if not allow_other_code and (changed := changes(manifest.get("made_by", {}), run.made_by())):
                raise ConfigError(f"{path} was made by other code: {', '.join(changed)}; {OTHER_CODE}")
            # Copies, so that nothing points into the file, which a later checkpoint replaces.
            run.load_state_dict(_with_tensors(manifest["state"], {n: t.clone() for n, t in tensors.items()}))
        except ConfigError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ConfigError(f"{path} does not match this run: {error!r}") from None
        run.num_resumed += 1
        return True
    if paths:
        raise ConfigError(f"every checkpoint in {directory} is damaged: remove the directory and start again")
    return False


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints below `directory`, of a run or of its record, newest first; or that which it is itself."""
    if (directory / MANIFEST).exists():
        return [directory]
    homes = (directory, directory / STAYING)
    paths = [path for home in homes for path in home.glob(f"{'[0-9]' * 9}-{'[0-9a-f]' * 64}")]
    return sorted(paths, key=lambda path: path.name, reverse=True)


def remove(directory: Path) -> None:
    """Remove the checkpoints in `directory`, and `directory` unless there is something in it that was not put by us."""
    for path in list_checkpoints(directory):
        shutil.rmtree(path, ignore_errors=True)
    remove_unfinished(directory)
    with suppress(OSError):
        (directory / LOCK).unlink(missing_ok=True)
        directory.rmdir()  # only if it is empty


def at_version(directory: Path, version: int | None) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint below `directory`, or the newest at `version`, and the identity of its run.

    Raises ConfigError if there is none, naming those there are.
    """
    manifests = {}
    for path in list_checkpoints(directory):
        try:
            manifests[path] = _manifest(path)
        except (Damaged, OSError, ValueError) as error:
            warnings.warn(f"checkpoint {path} is damaged ({error}): left out", stacklevel=2)
    if not manifests:
        raise ConfigError(f"{directory} holds no checkpoints: --keep-every keeps some, and OUT.partial has the newest")
    for path, manifest in manifests.items():
        _check_format(manifest, path)
        if version is None or manifest["version"] == version:
            return path, manifest["identity"]
    versions = ", ".join(str(manifest["version"]) for manifest in manifests.values())
    raise ConfigError(f"{directory} holds no checkpoint at version {version}: there are {versions}")


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with {TENSOR: name} for every tensor in it; the tensors are put into `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, Mapping):
        return {key: _without_tensors(inner, f"{name}/{key}", tensors) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_tensors(inner, f"{name}/{number}", tensors) for number, inner in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_without_tensors`."""
    if isinstance(value, dict):
        if value.keys() == {TENSOR}:
            return tensors[value[TENSOR]]
        return {key: _with_tensors(inner, tensors) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_tensors(inner, tensors) for inner in value]
    return value


def _manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path / MANIFEST, MANIFEST_LIMIT)
    if _sha256(path / MANIFEST) != path.name.partition("-")[2]:
        raise Damaged(f"{MANIFEST} has changed")
    if manifest.get("format") == FORMAT:  # of another one, only the number is used
        try:
            Manifest.from_dict(manifest)
        except ConfigError as error:
            raise Damaged(str(error)) from None
    return manifest


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    manifest = _manifest(path)
    # A tensor takes as many bytes in memory as in the file, whatever the file says.
    check_file(path / TENSORS, psutil.virtual_memory().available)
    if _sha256(path / TENSORS) != manifest.get("tensors"):
        raise Damaged(f"{TENSORS} has changed")
    return manifest, load_file(path / TENSORS)


def _check_format(manifest: Mapping[str, Any], path: Path) -> None:
    if manifest.get("format") != FORMAT:
        raise ConfigError(
            f"{path} has checkpoint format {manifest.get('format')}, and this version reads {FORMAT}: start the run "
            "again, or resume it with the version that began it"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
