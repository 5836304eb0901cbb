"""Save a run in the middle and go on exactly: killed at any moment and resumed, it ends with the same bits on a CPU.

A checkpoint holds what cannot be computed again: the global model and the versions still in use, models that are
trained and have not arrived, the buffer, teachers, class proportions, pool, generator and its optimiser, guards, and
the tables so far. The timeline, the data and every random stream follow from the configuration.

On disk: `DIR/ARRIVALS-HASH/` with `tensors.safetensors` and `manifest.json`. The manifest names the hash of the tensors
and the directory's name holds the hash of the manifest, so any damage is found. A checkpoint is written beside and
renamed once; the two newest are kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import Tensor

from fedrevive_core.config import RunConfig
from fedrevive_core.revival import Reviver
from fedrevive_core.server import Receipt
from fedrevive_core.teachers import Teacher
from fedrevive_core.validation import ConfigError

if TYPE_CHECKING:
    from fedrevive_core.simulate import Simulation

FORMAT = 1  # raised when a change makes older checkpoints unreadable
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


def write(simulation: Simulation, directory: Path) -> Path:
    """Write a checkpoint of `simulation` (between two arrivals) below `directory` and return its path.

    Raises ConfigError if it cannot be written (disk full, read-only); older checkpoints stay as they are.
    """
    work = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".writing-", dir=directory))
        arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in _tensors(simulation).items()}
        save_file(arrays, work / TENSORS)
        manifest = json.dumps(
            {
                "format": FORMAT,
                "config": simulation.config.to_dict(),
                "data": simulation.data.fingerprint,
                "tensors": _sha256(work / TENSORS),
                **_values(simulation),
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
        _restore(simulation, manifest, {name: tensor.to(device, copy=True) for name, tensor in tensors.items()})
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
    if differing:
        raise ConfigError(f"{path} belongs to another run, which differs in {', '.join(differing)}")


def _tensors(simulation: Simulation) -> dict[str, Tensor]:
    server = simulation.server
    tensors = {"state": server.state}
    tensors |= {f"buffer/{place}": update for place, update in enumerate(server.buffer)}
    tensors |= {f"snapshot/{version}": state for version, state in simulation.snapshots.items()}
    tensors |= {f"returned/{job}": state for job, state in simulation.returned.items()}
    if simulation.receipts:
        tensors["metrics"] = torch.stack([receipt.metrics for receipt in simulation.receipts])
    for place, (_, shown, labels) in enumerate(simulation.samples):
        tensors |= {
            f"sample/{place}/shown": torch.from_numpy(shown),
            f"sample/{place}/labels": torch.from_numpy(labels),
        }
    if simulation.reviver is not None:
        tensors |= _reviver_tensors(simulation.reviver)
    return tensors


def _reviver_tensors(reviver: Reviver) -> dict[str, Tensor]:
    tensors = {f"teacher/{place}": teacher.state for place, teacher in enumerate(reviver.buffer)}
    tensors |= {"distillation/" + name: value for name, value in reviver.distiller.guard.state().items()}
    for client, estimates in reviver.proportions.estimates.items():
        tensors |= {f"proportions/{client}/{n}": torch.from_numpy(estimate) for n, estimate in enumerate(estimates)}
    if reviver.synthesizer is not None:
        synthesizer, pool = reviver.synthesizer, reviver.pool
        tensors |= {"synthesis/" + name: value for name, value in synthesizer.guard.state().items()}
        tensors |= {"generator/" + name: value for name, value in synthesizer.generator.state_dict().items()}
        for number, values in synthesizer.meta_optimiser.state_dict()["state"].items():
            tensors |= {f"meta/{number}/{name}": value for name, value in values.items()}
        tensors |= {
            "pool/samples": pool.samples[: len(pool)],
            "pool/labels": torch.from_numpy(pool.labels[: len(pool)]),
        }
    return tensors


def _values(simulation: Simulation) -> dict[str, Any]:
    """What is not a tensor."""
    reviver = simulation.reviver
    return {
        "num_processed": simulation.num_processed,
        "version": simulation.server.version,
        "evaluations": simulation.evaluations,
        "receipts": [[r.beta, r.revived, r.rejected, r.pool_size] for r in simulation.receipts],
        "sample_versions": [version for version, _, _ in simulation.samples],
        "teachers": [teacher.client for teacher in reviver.buffer] if reviver else [],
        "pool_added": reviver.pool.num_added if reviver else 0,
        "timings": {part: [s, simulation.stopwatch.calls[part]] for part, s in simulation.stopwatch.seconds.items()},
        "num_resumed": simulation.num_resumed,
    }


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _restore(simulation: Simulation, manifest: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    server, timeline = simulation.server, simulation.timeline
    simulation.num_processed = server.num_received = manifest["num_processed"]
    simulation.num_resumed = manifest["num_resumed"] + 1
    left = timeline.base_version[timeline.arrivals[simulation.num_processed :]]
    simulation.users = np.bincount(left, minlength=timeline.num_versions + 1)
    server.state, server.version = tensors["state"], manifest["version"]
    buffer = _below(tensors, "buffer/")
    server.buffer = [buffer[str(place)] for place in range(len(buffer))]
    simulation.snapshots = {int(version): state for version, state in _below(tensors, "snapshot/").items()}
    simulation.returned = {int(job): state for job, state in _below(tensors, "returned/").items()}
    simulation.evaluations = manifest["evaluations"]
    metrics = tensors["metrics"].unbind() if manifest["receipts"] else ()
    for (beta, revived, rejected, pool_size), row in zip(manifest["receipts"], metrics, strict=True):
        simulation.receipts.append(Receipt(beta, revived, rejected, pool_size, row))
    samples = {name: tensor.cpu().numpy() for name, tensor in _below(tensors, "sample/").items()}
    simulation.samples = [
        (version, samples[f"{n}/shown"], samples[f"{n}/labels"])
        for n, version in enumerate(manifest["sample_versions"])
    ]
    for part, (seconds, calls) in manifest["timings"].items():
        simulation.stopwatch.seconds[part] += seconds
        simulation.stopwatch.calls[part] += calls
    if simulation.reviver is not None:
        _restore_reviver(simulation.reviver, manifest, tensors)


def _restore_reviver(reviver: Reviver, manifest: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    states = _below(tensors, "teacher/")
    teachers = [Teacher(client, states[str(place)]) for place, client in enumerate(manifest["teachers"])]
    reviver.buffer.teachers = deque(teachers, maxlen=reviver.config.num_teachers)
    reviver.distiller.guard.load(_below(tensors, "distillation/"))
    for name, estimate in sorted(_below(tensors, "proportions/").items()):
        reviver.proportions.estimates.setdefault(int(name.split("/")[0]), []).append(estimate.cpu().numpy())
    if reviver.synthesizer is None:
        return
    synthesizer, pool = reviver.synthesizer, reviver.pool
    synthesizer.guard.load(_below(tensors, "synthesis/"))
    synthesizer.generator.load_state_dict(_below(tensors, "generator/"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, "meta/").items():
        number, _, kind = name.partition("/")
        moments.setdefault(int(number), {})[kind] = tensor
    groups = synthesizer.meta_optimiser.state_dict()["param_groups"]
    synthesizer.meta_optimiser.load_state_dict({"state": moments, "param_groups": groups})
    length = len(tensors["pool/labels"])
    pool.samples[:length], pool.labels[:length] = tensors["pool/samples"], tensors["pool/labels"].cpu().numpy()
    pool.num_added = manifest["pool_added"]
