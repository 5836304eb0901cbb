"""The server: it takes returned models one by one and makes a new version whenever its buffer is full.

It sees no clock and no client data. Methods are compositions, not subclasses: a staleness rule gives beta, a reviver
(or none) fills it, a buffer collects, and an aggregator makes the new version, w <- w + lr * mean of the buffer unless
it has a memory or moments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedrevive_core.aggregation import Aggregator, Entry
from fedrevive_core.config import FederationConfig, ServerConfig, StalenessConfig
from fedrevive_core.models import StateLayout
from fedrevive_core.revival import Revival, Reviver, Teacher
from fedrevive_core.staleness import MEASURING, Measured, beta

# No number of the model or of an update may be larger, so that no sum of them overflows: float32 ends at 3.4e38.
LARGEST = 1e38

# Columns of the record that are measured on the device, NaN where a method has no such thing.
METRICS = (
    "client_norm",
    "distilled_norm",
    "cosine",
    "feature_loss",
    "label_loss",
    "adversarial_loss",
    "distillation_loss",
    "rejected_terms",
)


@dataclass(frozen=True)
class Upload:
    """A job's result: its `client`, its `staleness` (versions), the `downloaded` and the `returned` state (size,).

    job: its number, by which a second copy of the upload is known; None if it has none.
    """

    client: int
    staleness: int
    downloaded: Tensor
    returned: Tensor
    job: int | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What happened to an upload.

    beta: weight given by the rule; revived: whether a distilled update was blended in; rejected: why the upload, or its
    distilled update, was left out ('' if it was not); metrics (len(METRICS),) on the device; not_teaching: why the
    guard on teachers refused the model ('' if it did not).
    """

    beta: float
    revived: bool
    rejected: str
    pool_size: int
    metrics: Tensor
    not_teaching: str = ""


class Server:
    """Holds the global model `state` (size,), its `version`, and the buffer of updates on their way into the next one.

    Args:
        state: version 0. reviver: fills the weight beta; None leaves it empty (down-weighting). weights: beta of
            staleness 0, 1, ... by a given rule, instead of `staleness`.
    """

    def __init__(
        self,
        state: Tensor,
        layout: StateLayout,
        server: ServerConfig,
        staleness: StalenessConfig,
        federation: FederationConfig,
        reviver: Reviver | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.layout, self.config, self.staleness, self.federation = layout, server, staleness, federation
        self.reviver, self.weights = reviver, weights
        self.state = layout.reset_statistics_(state.clone())
        self.version = 0
        self.num_received = 0
        usual = federation.concurrency / federation.buffer_size
        self.aggregator = Aggregator(layout, server, federation.num_clients, state.device, usual)
        self.jobs: set[int] = set()  # numbers of those received
        self.buffer: list[Entry] = []

    def receive(self, upload: Upload) -> Receipt:
        """Process one upload against the current version; after every `buffer_size` uploads there is a new version.

        An upload that is a copy, of another size or type, not finite or too large is left out: it counts as an update
        of zero, so that versions keep the timeline's pace. So is a distilled update that is not finite or too large.
        The global model stays finite whatever is uploaded. Nothing passed in is modified.
        """
        measures = self.weights is None and self.staleness.rule in MEASURING
        weight = 0.0 if measures else self._weight(upload.staleness)
        start = self.state if self.config.update_from == "current" else upload.downloaded
        revival, rejected = Revival(), self._unreadable(upload)
        update = client_update = torch.zeros_like(self.state) if rejected else upload.returned - start
        if not rejected and (fault := self._unusable(client_update)):
            rejected, update = f"client update {fault}", torch.zeros_like(self.state)
            client_update = update
        accepted = not rejected
        if accepted:
            update, returned = self._clip(client_update, upload.returned, start)
            if self.reviver is not None:
                teacher = Teacher(upload.client, returned)
                revival = self.reviver.revive(
                    self.num_received, teacher, client_update, measures or weight != 0, self.version, self.state
                )
            if revival.update is not None and (fault := self._unusable(revival.update)):
                rejected, revival.update = f"distilled update {fault}", None
            if measures:
                weight = self._weight(upload.staleness, self._measured(upload.downloaded, client_update, revival))
            update = self._blend(update, revival.update, weight)
        if upload.job is not None:
            self.jobs.add(upload.job)
        receipt = Receipt(
            beta=weight,
            revived=revival.update is not None,
            rejected=rejected,
            pool_size=len(self.reviver.pool) if self.reviver is not None else 0,
            metrics=self._metrics(client_update, revival),
            not_teaching=revival.refused,
        )
        self.num_received += 1
        self.buffer.append(Entry(upload.client, upload.staleness, update, counts=accepted))
        if len(self.buffer) == self.federation.buffer_size:
            self._aggregate()
        return receipt

    def state_dict(self) -> dict[str, Any]:
        """All that later uploads depend on; model states are shared, and replaced, never changed, by later uploads."""
        return {
            "state": self.state,
            "version": self.version,
            "num_received": self.num_received,
            "jobs": torch.tensor(sorted(self.jobs), dtype=torch.int64),
            "buffer": [dict(vars(entry)) for entry in self.buffer],
            "aggregator": self.aggregator.state_dict(),
            "reviver": None if self.reviver is None else self.reviver.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises an error if names or shapes do not match."""
        self.state = self.layout.checked(state["state"])
        self.version, self.num_received = int(state["version"]), int(state["num_received"])
        self.jobs = set(state["jobs"].tolist())
        self.buffer = [Entry(**{**entry, "update": self.layout.checked(entry["update"])}) for entry in state["buffer"]]
        self.aggregator.load_state_dict(state["aggregator"])
        if self.reviver is not None:
            self.reviver.load_state_dict(state["reviver"])

    def _weight(self, tau: int, measured: Measured | None = None) -> float:
        """beta of an arrival of staleness `tau`, by the given rule or that of the configuration."""
        return self.weights[tau] if self.weights is not None else beta(tau, self.staleness, self.federation, measured)

    def _measured(self, downloaded: Tensor, client_update: Tensor, revival: Revival) -> Measured:
        """What rules that do not count versions look at; the host waits for it."""
        client = self.layout.parameters(client_update).double()
        norm = torch.linalg.vector_norm(client)
        found = {"distance": torch.linalg.vector_norm(self.layout.parameters(self.state - downloaded)) / norm}
        if revival.update is not None:
            distilled = self.layout.parameters(revival.update).double()
            found["length"] = norm / torch.linalg.vector_norm(distilled)
            found["disagreement"] = 1 - torch.nn.functional.cosine_similarity(client, distilled, dim=0)
        values = torch.stack(list(found.values())).tolist()
        return Measured(coverage=revival.coverage, **dict(zip(found, values, strict=True)))

    def _unreadable(self, upload: Upload) -> str:
        """Why `upload` is rejected without looking at its numbers; '' if it is not."""
        if upload.job is not None and upload.job in self.jobs:
            return "duplicate upload"
        if upload.returned.shape != self.state.shape:
            return "client update of wrong size"
        return "client update of wrong type" if upload.returned.dtype != self.state.dtype else ""

    def _unusable(self, update: Tensor) -> str:
        """Why `update` (size,) could make a new version non-finite; '' if no mean of updates that pass here can."""
        # Not the norm of order infinity, which takes 16 times as long on a CPU. A NaN anywhere gives NaN.
        peaks = [torch.stack(values.aminmax()).abs().max() for values in (update, self.state)]
        of_update, of_state = torch.stack(peaks).tolist()
        if not math.isfinite(of_update):
            return "not finite"
        # Moments square an update, and a memory adds many.
        limit = LARGEST if self.aggregator.is_plain else LARGEST**0.5 / self.federation.num_clients
        largest = max(of_state + self.config.lr * of_update, self.federation.buffer_size * of_update)
        return "too large" if largest > limit else ""

    def _clip(self, update: Tensor, returned: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Update and returned model, both shortened where the parameters' update is longer than `clip_norm`."""
        if self.config.clip_norm is None:
            return update, returned
        norm = torch.linalg.vector_norm(self.layout.parameters(update))
        if norm <= self.config.clip_norm:
            return update, returned
        clipped = update.clone()
        self.layout.parameters(clipped).mul_(self.config.clip_norm / norm)  # a norm that overflows leaves zeros
        return clipped, start + clipped

    def _blend(self, client_update: Tensor, distilled_update: Tensor | None, weight: float) -> Tensor:
        """With a reviver and nothing distilled, the client's update counts whole."""
        if distilled_update is None and self.reviver is not None:
            return client_update
        return blend(client_update, distilled_update, weight)

    def _aggregate(self) -> None:
        self.state = self.aggregator.new_version(self.state, self.buffer)
        self.version += 1
        self.buffer.clear()

    def _metrics(self, client_update: Tensor, revival: Revival) -> Tensor:
        client = self.layout.parameters(client_update)
        values = dict(revival.metrics, client_norm=torch.linalg.vector_norm(client))
        if revival.update is not None:
            distilled = self.layout.parameters(revival.update)
            values["distilled_norm"] = torch.linalg.vector_norm(distilled)
            values["cosine"] = torch.nn.functional.cosine_similarity(client, distilled, dim=0)
        missing = torch.full_like(values["client_norm"], torch.nan)  # from a number the host would copy
        return torch.stack([values.get(name, missing).to(client) for name in METRICS])


def blend(client_update: Tensor, distilled_update: Tensor | None, weight: float) -> Tensor:
    """(1 - weight) * client_update + weight * distilled_update; None stands for zero. Returns a new tensor."""
    if distilled_update is None:
        return (1 - weight) * client_update
    return torch.lerp(client_update, distilled_update, weight)
