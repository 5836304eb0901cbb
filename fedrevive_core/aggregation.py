"""From the buffered updates to a new version: what the server remembers of its clients, and how it steps.

Both are parts of a method like any other. Without either a new version is state + lr * mean of the updates. Both work
on the parameters alone: the probes' statistics are reset in every new version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from fedrevive_core.config import ServerConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.models import StateLayout

MOMENTS = ("first", "second", "largest")
MEMORY_SHARE = 0.5  # of the memory that is free, which the clients' latest updates may take


@dataclass(frozen=True)
class Entry:
    """A buffered update (size,) with its `client` and `staleness` (versions); `counts` False if it was rejected."""

    client: int
    staleness: int
    update: Tensor
    counts: bool = True


class Aggregator:
    """Makes new versions and keeps what lasts between them.

    latest: parameters (P,) of each client's latest update, if `config.memory` keeps them; total (P,): their sum; ages:
    versions since the jobs behind them began.
    first, second, largest: the optimiser's moments (P,), zero before the first step.
    auxiliary: parameters (P,) of the model that stragglers move, if `config.auxiliary` asks for one, after a version.

    usual: K / B, about the mean staleness. Raises ConfigError if the memory would take more than MEMORY_SHARE of what
    is free on `device`.
    """

    def __init__(
        self, layout: StateLayout, config: ServerConfig, num_clients: int, device: torch.device, usual: float = 1.0
    ) -> None:
        self.layout, self.config, self.num_clients = layout, config, num_clients
        self.late_after = config.straggler * usual
        self.auxiliary: Tensor | None = None
        self.latest: dict[int, Tensor] = {}
        self.ages: dict[int, int] = {}
        self.total, self.first, self.second, self.largest = torch.zeros(
            4, layout.num_parameters, device=device
        ).unbind()
        if config.memory != "none":
            needed, free = 4 * num_clients * layout.num_parameters, _free_bytes(device)
            if needed > MEMORY_SHARE * free:
                raise ConfigError(
                    f"server.memory = '{config.memory}' keeps an update of every client: {num_clients} x "
                    f"{layout.num_parameters:,} parameters = {needed / 2**30:.1f} GiB, more than {MEMORY_SHARE:.0%} of "
                    f"the {free / 2**30:.1f} GiB free; use fewer clients, a smaller model or another method"
                )

    @property
    def is_plain(self) -> bool:
        """Whether a new version is state + lr * mean of the updates and nothing else."""
        config = self.config
        plain = config.memory == "none" and config.optimiser == "sgd" and config.delay_threshold is None
        return plain and config.auxiliary == 0

    def new_version(self, state: Tensor, buffer: Sequence[Entry]) -> Tensor:
        """The next state (size,) after `state` from the `buffer`; neither is modified."""
        # Also where memory or moments say how the parameters move: then it is for the other tensors of a state.
        version = new_version(self.layout, state, [entry.update for entry in buffer], self.config.lr)
        if self.is_plain:
            return version
        parameters = self.layout.parameters(state)
        if self.config.auxiliary > 0:
            self.layout.parameters(version).copy_(self._with_auxiliary(parameters, buffer))
            return version
        step = self._step(self._direction(buffer), max(entry.staleness for entry in buffer))
        torch.add(parameters, step, out=self.layout.parameters(version))
        return version

    def _with_auxiliary(self, parameters: Tensor, buffer: Sequence[Entry]) -> Tensor:
        """The next `parameters` (P,), FeAST-on-MSG's: a share of them is taken from the auxiliary model.

        Every update moves the auxiliary model, although it began from another; those that are not late move the model.
        """
        updates = torch.stack([self.layout.parameters(entry.update) for entry in buffer])
        in_time = torch.stack([u * (e.staleness <= self.late_after) for u, e in zip(updates, buffer, strict=True)])
        before = parameters if self.auxiliary is None else self.auxiliary
        self.auxiliary = before + self.config.lr * updates.mean(dim=0)
        return torch.lerp(parameters + self.config.lr * in_time.mean(dim=0), self.auxiliary, self.config.auxiliary)

    def state_dict(self) -> dict[str, Any]:
        """What lasts between versions; the tensors are shared, and replaced, never changed, by later versions."""
        state: dict[str, Any] = {}
        if self.config.memory != "none":
            state |= {"latest": {str(client): update for client, update in self.latest.items()}, "total": self.total}
            state["ages"] = {str(client): age for client, age in self.ages.items()}
        if self.config.optimiser != "sgd":
            state |= {name: getattr(self, name) for name in MOMENTS}
        if self.auxiliary is not None:
            state["auxiliary"] = self.auxiliary
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, also that of a configuration that keeps less or more.

        Raises ValueError if a shape does not match.
        """
        latest = {int(client): update for client, update in state.get("latest", {}).items()}
        kept = {name: state[name] for name in ("total", "auxiliary", *MOMENTS) if name in state}
        for tensor in (*latest.values(), *kept.values()):
            if tensor.shape != (self.layout.num_parameters,):
                raise ValueError(f"an update has {self.layout.num_parameters} parameters, not {tuple(tensor.shape)}")
        self.latest.update((client, update.to(self.total.device)) for client, update in latest.items())
        self.ages = {client: int(state.get("ages", {}).get(str(client), 0)) for client in latest}
        for name, tensor in kept.items():
            setattr(self, name, tensor.to(self.total.device))

    def _direction(self, buffer: Sequence[Entry]) -> Tensor:
        """Where the server steps to, (P,): a mean over the buffer, helped by what is remembered of other clients.

        calibrate (CA2FL): mean over all N clients of their latest updates (zero before the first), plus the mean over
        the buffer of each update's difference from the latest of its client. average (MIFA, ACE): mean of the latest
        updates over all clients seen so far; with a horizon (ACED) those of older jobs are forgotten first.
        """
        updates = [self.layout.parameters(entry.update) for entry in buffer]
        if self.config.memory == "none":
            return torch.stack(updates).mean(dim=0)
        change = torch.zeros_like(self.total)
        for entry, update in zip(buffer, updates, strict=True):
            if entry.counts:
                before = self.latest.get(entry.client)
                change += update if before is None else update - before
                self.latest[entry.client] = update.clone()
                self.ages[entry.client] = entry.staleness
        for client in self._forgotten():
            change -= self.latest.pop(client)
        before_change = self.total
        self.total = self.total + change
        if self.config.memory == "calibrate":
            return before_change / self.num_clients + change / len(buffer)
        return self.total / max(len(self.latest), 1)

    def _forgotten(self) -> list[int]:
        """Clients whose latest job began too long ago; all that stay grow older by the version that is made now."""
        horizon = self.config.memory_horizon
        forgotten = [client for client, age in self.ages.items() if horizon is not None and age > horizon]
        self.ages = {client: age + 1 for client, age in self.ages.items() if client not in forgotten}
        return forgotten

    def _step(self, direction: Tensor, max_staleness: int) -> Tensor:
        """What is added to the parameters (P,), moments updated: no bias correction, as in arXiv 2003.00295."""
        config = self.config
        threshold = config.delay_threshold
        lr = config.lr if threshold is None or max_staleness <= threshold else min(config.lr, 1 / max_staleness)
        if config.optimiser == "sgd":
            return lr * direction
        if config.optimiser == "momentum":
            self.first = config.momentum * self.first + direction
            return lr * self.first
        self.first = config.momentum * self.first + (1 - config.momentum) * direction
        self.second = config.second_momentum * self.second + (1 - config.second_momentum) * direction**2
        self.largest = torch.maximum(self.largest, self.second) if config.optimiser == "amsgrad" else self.second
        return lr * self.first / (self.largest.sqrt() + config.eps)


def new_version(layout: StateLayout, state: Tensor, updates: Sequence[Tensor], lr: float) -> Tensor:
    """state + lr * mean of `updates`, with the probes' statistics reset. Returns a new tensor."""
    mean = updates[0] if len(updates) == 1 else torch.stack(list(updates)).mean(dim=0)
    # One operation, because every new vector of a large model costs more than the arithmetic on it.
    return layout.reset_statistics_(torch.add(state, mean, alpha=lr))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
