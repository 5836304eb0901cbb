"""The present moment of a simulation: taken out of it, put into a fresh one, carried over to another configuration.

It is what cannot be computed again: the global model and the versions still in use, models that are trained and have
not arrived, the buffer, the aggregator's memory and moments, teachers, class proportions, pool, generator and its
optimiser, guards, and the tables so far.
The timeline, the data and every random stream follow from the configuration.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fedrevive_core.aggregation import Entry
from fedrevive_core.config import RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.records import state_sha256
from fedrevive_core.revival import Reviver, Synthesizer, Teacher
from fedrevive_core.server import METRICS, Receipt

if TYPE_CHECKING:
    from fedrevive_core.simulation.simulation import Simulation

SAMPLES_SHOWN = 32  # newest images of the pool kept at a moment of the record
SAMPLE_MOMENTS = 24  # moments at which they are kept, at most
WAITING = ("snapshot/", "returned/")  # tensors that wait for their use, on the host if `offload` says so
STATES = ("state", "buffer/", "teacher/", *WAITING)  # tensors that are states of the model
HEADER = 2**20  # bytes for names, and for tensors too small to count

# What has made the present moment and makes the arrivals to come. The split is here because a branch goes on with the
# table of evaluations.
FIXED = ("seed", "model", "device", "federation", "data", "training", "evaluation.split")


@dataclass(frozen=True)
class Moment:
    """values: JSON-able; tensors: by name, some of them shared with the simulation, which replaces but never changes
    those that `put` does not copy."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


def take(simulation: Simulation) -> Moment:
    """The present moment of `simulation`, between two arrivals."""
    return Moment(_values(simulation), _tensors(simulation) | _reviver_tensors(simulation.reviver))


def most_bytes(simulation: Simulation) -> int:
    """Upper bound of what the tensors of a moment of `simulation` take; docs/DURABILITY.md has it as a formula."""
    config, timeline, data = simulation.config, simulation.timeline, simulation.data
    federation = config.federation
    # Jobs in flight: a version that each starts from and a model that each returns.
    states = 2 * federation.concurrency + federation.buffer_size + config.revival.num_teachers + 2
    size = 4 * simulation.layout.size * states + 4 * len(METRICS) * len(timeline.arrivals)
    remembered = federation.num_clients if config.server.memory != "none" else 0
    size += 4 * simulation.layout.num_parameters * (remembered + 4)  # of the aggregator, with its moments
    if simulation.reviver is not None:
        pool = simulation.reviver.pool
        size += pool.samples.nbytes + pool.labels.nbytes
        size += (SAMPLE_MOMENTS + 2) * SAMPLES_SHOWN * 8 * (prod(pool.samples.shape[1:]) + 1)
        size += 2 * 8 * data.num_classes * federation.num_clients
        if simulation.reviver.synthesizer is not None:  # with the two moments of its Adam
            size += (
                3 * 4 * sum(tensor.numel() for tensor in simulation.reviver.synthesizer.generator.state_dict().values())
            )
    return size + HEADER


def branched(simulation: Simulation, config: RunConfig, beta: Callable[[int], float] | None) -> Simulation:
    """See `Simulation.branched`."""
    changed = simulation.config.differences(config)
    forbidden = [text for text in changed if text.startswith(FIXED)]
    if forbidden:
        raise ConfigError(f"a branch cannot differ in {', '.join(forbidden)}: it goes on with the same jobs and models")
    own = simulation.own
    other = type(simulation)(
        config,
        simulation.layout.model() if "model" in own else None,
        simulation.data if "data" in own else None,
        beta,
    )
    if own.get("beta") != other.own.get("beta"):
        changed.append("beta of your own")
    values, tensors = _values(simulation), _tensors(simulation)
    origin = {
        "version": simulation.server.version,
        "num_arrivals": simulation.num_processed,
        "state_sha256": state_sha256(simulation.server.state.cpu().numpy()),
        "changed": changed,
    }
    values["branches"] = [*simulation.branches, origin]
    if other.reviver is not None:
        revived = _carried(simulation.reviver, other.reviver)
        values, tensors = values | revived.values, tensors | revived.tensors
    put(other, Moment(values, tensors))
    return other


def _carried(old: Reviver | None, new: Reviver) -> Moment:
    """The reviver's part of a branch's first moment: what `new` can use of `old`, otherwise its own beginning."""
    values, tensors = _reviver_values(new), _reviver_tensors(new)
    if old is None:
        return Moment(values, tensors)
    parts = []
    # A teacher needs its client's class proportions, and true ones leave no estimates behind.
    if old.proportions.true is None or new.proportions.true is not None:
        parts += ["teacher/", "proportions/"]
        values["teachers"] = [teacher.client for teacher in old.buffer][: new.config.num_teachers]
    if old.synthesizer is not None and new.synthesizer is not None:
        # All images and labels, oldest first; in the same slots if there are as many.
        if len(old.pool.labels) == len(new.pool.labels):
            parts.append("pool/")
            values["pool_added"] = old.pool.num_added
        else:
            samples, labels = old.pool.newest(len(new.pool.labels))
            tensors |= {"pool/samples": samples.flip(0), "pool/labels": torch.from_numpy(labels[::-1].copy())}
            values["pool_added"] = len(labels)
        if _shapes(old.synthesizer) == _shapes(new.synthesizer):
            parts += ["generator/", "meta/", "synthesis/"]
    # The guard compares losses with those of before, so it starts afresh where their scale may change.
    if (old.config.source, old.distiller.config.temperature) == (new.config.source, new.distiller.config.temperature):
        parts.append("distillation/")
    return Moment(values, tensors | {n: t for n, t in _reviver_tensors(old).items() if n.startswith(tuple(parts))})


def _shapes(synthesizer: Synthesizer) -> list[torch.Size]:
    return [parameter.shape for parameter in synthesizer.generator.parameters()]


def _tensors(simulation: Simulation) -> dict[str, Tensor]:
    server = simulation.server
    tensors = {"state": server.state}
    tensors |= {f"buffer/{place}": entry.update for place, entry in enumerate(server.buffer)}
    tensors |= {f"aggregator/{name}": value for name, value in server.aggregator.state().items()}
    tensors |= {f"snapshot/{version}": state for version, state in simulation.snapshots.items()}
    tensors |= {f"returned/{job}": state for job, state in simulation.returned.items()}
    if simulation.receipts:
        tensors["metrics"] = torch.stack([receipt.metrics for receipt in simulation.receipts])
    for place, (_, shown, labels) in enumerate(simulation.samples):
        tensors |= {
            f"sample/{place}/shown": torch.from_numpy(shown),
            f"sample/{place}/labels": torch.from_numpy(labels),
        }
    return tensors


def _reviver_tensors(reviver: Reviver | None) -> dict[str, Tensor]:
    if reviver is None:
        return {}
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
    return {
        "num_processed": simulation.num_processed,
        "version": simulation.server.version,
        "buffer": [[entry.client, entry.staleness, entry.counts] for entry in simulation.server.buffer],
        "evaluations": simulation.evaluations,
        "receipts": [[r.beta, r.revived, r.rejected, r.pool_size] for r in simulation.receipts],
        "sample_versions": [version for version, _, _ in simulation.samples],
        "timings": {part: [s, simulation.timer.calls[part]] for part, s in simulation.timer.seconds.items()},
        "num_resumed": simulation.num_resumed,
        "branches": simulation.branches,
        **(_reviver_values(simulation.reviver) if simulation.reviver is not None else {}),
    }


def _reviver_values(reviver: Reviver) -> dict[str, Any]:
    return {"teachers": [teacher.client for teacher in reviver.buffer], "pool_added": reviver.pool.num_added}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def put(simulation: Simulation, moment: Moment) -> None:
    """Bring `simulation` to `moment`, which is not modified. Raises an error of some kind if it cannot be its own."""
    values, tensors = moment.values, moment.tensors
    server, timeline = simulation.server, simulation.timeline
    counted = values["num_processed"] == len(values["receipts"]) <= len(timeline.arrivals)
    states = [tensor for name, tensor in tensors.items() if name.startswith(STATES)]
    if not counted or any(state.shape != server.state.shape for state in states):
        raise ValueError("its counts or shapes are others")
    simulation.num_processed = server.num_received = values["num_processed"]
    simulation.num_resumed, simulation.branches = values["num_resumed"], values["branches"]
    server.jobs = set(timeline.arrivals[: server.num_received].tolist())
    left = timeline.base_version[timeline.arrivals[simulation.num_processed :]]
    simulation.users = np.bincount(left, minlength=timeline.num_versions + 1)
    server.state, server.version = tensors["state"], values["version"]
    buffered = _below(tensors, "buffer/")
    server.buffer = [
        Entry(client, staleness, buffered[str(place)], counts)
        for place, (client, staleness, counts) in enumerate(moment.values["buffer"])
    ]
    server.aggregator.load(_below(tensors, "aggregator/"))
    for waiting, prefix in zip((simulation.snapshots, simulation.returned), WAITING, strict=True):
        waiting.replace({int(number): state for number, state in _below(tensors, prefix).items()})
    simulation.evaluations = list(values["evaluations"])
    metrics = tensors["metrics"].unbind() if values["receipts"] else ()
    simulation.receipts = [
        Receipt(beta, revived, rejected, pool_size, row)
        for (beta, revived, rejected, pool_size), row in zip(values["receipts"], metrics, strict=True)
    ]
    samples = {name: tensor.cpu().numpy() for name, tensor in _below(tensors, "sample/").items()}
    simulation.samples = [
        (version, samples[f"{n}/shown"], samples[f"{n}/labels"]) for n, version in enumerate(values["sample_versions"])
    ]
    for part, (seconds, calls) in values["timings"].items():
        simulation.timer.seconds[part], simulation.timer.calls[part] = seconds, calls
    if simulation.reviver is not None:
        _put_reviver(simulation.reviver, values, tensors)


def _put_reviver(reviver: Reviver, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    states = _below(tensors, "teacher/")
    teachers = [Teacher(client, states[str(place)]) for place, client in enumerate(values["teachers"])]
    reviver.buffer.teachers = deque(teachers, maxlen=reviver.config.num_teachers)
    reviver.distiller.guard.load(_below(tensors, "distillation/"))
    reviver.proportions.estimates.clear()
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
        moments.setdefault(int(number), {})[kind] = tensor.clone()  # the optimiser writes to them
    groups = synthesizer.meta_optimiser.state_dict()["param_groups"]
    synthesizer.meta_optimiser.load_state_dict({"state": moments, "param_groups": groups})
    length = len(tensors["pool/labels"])
    pool.samples[:length], pool.labels[:length] = tensors["pool/samples"], tensors["pool/labels"].cpu().numpy()
    pool.num_added = values["pool_added"]
