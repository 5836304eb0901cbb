"""The server: it takes returned models one by one and now and then makes a new version.

It sees no clock and no client data. Methods are compositions, not subclasses: a staleness rule gives beta, a reviver
(or none) fills it, a buffer collects, and one formula makes the new version, w <- w + lr * mean of the buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrevive_core.config import FederationConfig, ServerConfig, StalenessConfig
from fedrevive_core.revival import Revival, Reviver
from fedrevive_core.staleness import beta
from fedrevive_core.state import StateLayout
from fedrevive_core.teachers import Teacher

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
    """A job's result: its `client`, its `staleness` (versions), the `downloaded` and the `returned` state (size,)."""

    client: int
    staleness: int
    downloaded: Tensor
    returned: Tensor


@dataclass(frozen=True, slots=True)
class Receipt:
    """What happened to an upload.

    beta: weight given by the rule; revived: whether a distilled update was blended in; rejected: why the upload, or its
    distilled update, was left out ('' if it was not); metrics (len(METRICS),) on the device.
    """

    beta: float
    revived: bool
    rejected: str
    pool_size: int
    metrics: Tensor


class Server:
    """Holds the global model `state` (size,), its `version`, and the buffer of updates on their way into the next one.

    Args:
        state: version 0. reviver: fills the weight beta; None leaves it empty (down-weighting).
    """

    def __init__(
        self,
        state: Tensor,
        layout: StateLayout,
        server: ServerConfig,
        staleness: StalenessConfig,
        federation: FederationConfig,
        reviver: Reviver | None = None,
    ) -> None:
        self.layout, self.config, self.staleness, self.federation = layout, server, staleness, federation
        self.reviver = reviver
        self.state = layout.reset_statistics_(state.clone())
        self.version = 0
        self.num_received = 0
        self.buffer: list[Tensor] = []

    def receive(self, upload: Upload) -> Receipt:
        """Process one upload against the current version; after every `buffer_size` uploads there is a new version.

        A non-finite upload is left out (it counts as an update of zero, so that versions keep the timeline's pace), and
        so is a non-finite distilled update. Nothing passed in is modified.
        """
        weight = beta(upload.staleness, self.staleness, self.federation)
        start = self.state if self.config.update_from == "current" else upload.downloaded
        client_update = upload.returned - start
        revival, rejected = Revival(), ""
        if not bool(client_update.isfinite().all()):
            rejected = "client update not finite"
            update = client_update = torch.zeros_like(self.state)
        else:
            if self.reviver is not None:
                teacher = Teacher(upload.client, upload.returned)
                revival = self.reviver.revive(self.num_received, teacher, weight, self.version, self.state)
            if revival.update is not None and not bool(revival.update.isfinite().all()):
                rejected, revival.update = "distilled update not finite", None
            update = self._blend(client_update, revival.update, weight)
        receipt = Receipt(
            beta=weight,
            revived=revival.update is not None,
            rejected=rejected,
            pool_size=len(self.reviver.pool) if self.reviver is not None else 0,
            metrics=self._metrics(client_update, revival),
        )
        self.num_received += 1
        self.buffer.append(update)
        if len(self.buffer) == self.federation.buffer_size:
            self._aggregate()
        return receipt

    def _blend(self, client_update: Tensor, distilled_update: Tensor | None, weight: float) -> Tensor:
        """With a reviver and nothing distilled, the client's update counts whole."""
        if distilled_update is None and self.reviver is not None:
            return client_update
        return blend(client_update, distilled_update, weight)

    def _aggregate(self) -> None:
        self.state = new_version(self.layout, self.state, self.buffer, self.config.lr)
        self.version += 1
        self.buffer.clear()

    def _metrics(self, client_update: Tensor, revival: Revival) -> Tensor:
        client = self.layout.parameters(client_update)
        values = dict(revival.metrics, client_norm=torch.linalg.vector_norm(client))
        if revival.update is not None:
            distilled = self.layout.parameters(revival.update)
            values["distilled_norm"] = torch.linalg.vector_norm(distilled)
            values["cosine"] = torch.nn.functional.cosine_similarity(client, distilled, dim=0)
        missing = client.new_tensor(torch.nan)
        return torch.stack([values.get(name, missing).to(client) for name in METRICS])


def blend(client_update: Tensor, distilled_update: Tensor | None, weight: float) -> Tensor:
    """(1 - weight) * client_update + weight * distilled_update; None stands for zero. Returns a new tensor."""
    update = (1 - weight) * client_update
    if distilled_update is not None:
        update += weight * distilled_update
    return update


def new_version(layout: StateLayout, state: Tensor, updates: Sequence[Tensor], lr: float) -> Tensor:
    """state + lr * mean of `updates`, with the probes' statistics reset. Returns a new tensor."""
    mean = updates[0] if len(updates) == 1 else torch.stack(list(updates)).mean(dim=0)
    version = lr * mean
    version += state
    return layout.reset_statistics_(version)
