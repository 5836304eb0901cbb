"""A run whose clients are real: the server loop, which records who did what when, and never trains itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedrevive_core.config import CRASH, FAULTS, NEVER_RETURN, RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.records import Record
from fedrevive_core.seeding import stream
from fedrevive_core.simulation import Simulation, checkpoint, num_threads
from reproduce.live.log import Log
from reproduce.live.messages import NOBODY, Event, Transport, from_bytes, to_bytes

EVENTS_KEPT = 1000  # newest events that a record keeps
WRONG_SIZE, NON_FINITE = FAULTS.index("wrong_size"), FAULTS.index("non_finite")


class LiveRun(Simulation):
    """A run of `config` as it happens: server, recorder and checkpoints of a simulation, with the timeline of a `Log`.

    timeout: seconds after which a job is given up. told: called with every event worth a line. The run ends after
    `config.federation.max_versions` versions.
    """

    def __init__(self, config: RunConfig, timeout: float, told: Callable[[str], None] = lambda words: None) -> None:
        self.log = Log(config.federation)
        super().__init__(config, timeline=self.log.timeline())
        versions = config.federation.max_versions or 1
        self.num_arrivals = versions * config.federation.buffer_size
        self.recorder.metrics = torch.empty(self.num_arrivals, self.recorder.metrics.shape[1], device=self.device)
        self.users = np.zeros(versions + 1, dtype=np.int64)
        self.timeout, self.told = timeout, told
        self.events: list[dict[str, Any]] = []
        self.present: set[int] = set()
        self.at_work: dict[int, int] = {}  # job by client
        self.selection = stream(config.seed, "selection")

    @property
    def free(self) -> list[int]:
        """Clients that are there and have no job."""
        return sorted(self.present - self.at_work.keys())

    def serve(
        self,
        transport: Transport,
        *,
        checkpoints: Path | None = None,
        checkpoint_every: int | str = "300s",
        keep_every: int = 0,
        allow_other_code: bool = False,
        show: Callable[[LiveRun], None] = lambda run: None,
    ) -> Record:
        """Let the clients behind `transport` work until the run ends, and return its record; see `run` in simulation.

        show: called several times a second. Raises ConfigError if no client is left.
        """
        with (
            num_threads(self.config.num_threads),
            checkpoint.kept(self, checkpoints, checkpoint_every, keep_every, allow_other_code) as keep,
        ):
            if not self.recorder.evaluations:
                self.evaluate()
            while not self.is_over:
                for event in transport.wait(0.5):
                    keep(self.take(event))
                    if self.is_over:
                        break
                    self.dispatch(transport)
                self.give_up(transport)
                keep(False)  # stops here on a signal
                show(self)
            return self.record()

    @property
    def is_over(self) -> bool:
        """Whether the run has reached its last version, or stops early."""
        return self.num_processed == self.num_arrivals or bool(self.reason_to_stop())

    def dispatch(self, transport: Transport) -> None:
        """Fill the open slots, once there are enough of them, with free clients drawn at random.

        The first jobs wait until there are clients for all slots.
        """
        federation = self.config.federation
        if not self.log.client and len(self.present) < federation.concurrency:
            return
        open_slots = federation.concurrency - len(self.at_work)
        if open_slots < federation.refill_size:
            return
        for client in self.selection.permutation(self.free)[:open_slots].tolist():
            job = self.at_work[client] = self.log.dispatch(client)
            if self.version not in self.snapshots:
                self.snapshots[self.version] = self.server.state
            self.users[self.version] += 1
            transport.send(client, job, to_bytes(self.server.state.cpu().numpy()))

    def take(self, event: Event) -> bool:
        """Process an event of a client; returns whether it made a new version."""
        client = event.client
        if event.kind == "joined":
            self.present.add(client)
            self.note(client, "is there")
        elif event.kind == "gone":
            self.present.discard(client)
            self.lose(client, CRASH, f"is gone: {event.why}")
        elif event.kind == "refused":
            self.note(client, f"is refused: {event.why}")
        elif client in self.at_work:
            return self.arrive(client, event.state)
        return False

    def arrive(self, client: int, upload: bytes) -> bool:
        """Hand what `client` uploads to the server; returns whether there is a new version.

        What is no state of this model, or not finite, is recorded as that fault and rejected as the simulation would.
        """
        job, before = self.at_work.pop(client), self.version
        fault, state = 0, self.snapshots.fetch(self.log.dispatched_after[job] // self.config.federation.buffer_size)
        if len(upload) != 4 * self.layout.size:
            fault = WRONG_SIZE
        elif not np.isfinite(values := from_bytes(upload)).all():
            fault = NON_FINITE
        else:
            state = torch.from_numpy(values).to(self.device)
        if fault:
            self.note(client, f"uploads for job {job} what is no model ({FAULTS[fault]}): rejected")
        self.log.end(job, fault, lost=False)
        self.timeline = self.recorder.timeline = self.log.timeline()
        self.returned[job] = state
        self.receive(self.num_processed)
        return self.evaluate_if_due(before)

    def lose(self, client: int, fault: int, why: str) -> None:
        """Write down that `client` is gone, or does not answer, and that its job, if it has one, is lost."""
        job = self.at_work.pop(client, None)
        if job is not None:
            self.log.end(job, fault, lost=True)
            base = self.log.dispatched_after[job] // self.config.federation.buffer_size
            self.users[base] -= 1
            if self.users[base] == 0:
                del self.snapshots[base]
            why += f"; job {job} is lost"
        self.timeline = self.recorder.timeline = self.log.timeline()
        self.note(client, why)

    def give_up(self, transport: Transport) -> None:
        """Lose the jobs that last too long, and part with their clients."""
        for client, job in list(self.at_work.items()):
            if self.log.now() - self.log.dispatched[job] > self.timeout:
                self.lose(client, NEVER_RETURN, f"has not answered for {self.timeout:g} seconds")
                self.present.discard(client)
                transport.drop(client, "it did not answer")
        federation, given_up = self.config.federation, transport.given_up
        if len(given_up) > (
            federation.num_clients - 1 if self.log.client else federation.num_clients - federation.concurrency
        ):
            left = federation.num_clients - len(given_up)
            last = f", the last that ended {self.events[-1]['what']}" if self.events else ""
            raise ConfigError(
                f"{left} of {federation.num_clients} clients are left{last}: "
                "see to it that they can run; --resume continues from a checkpoint"
            )

    def note(self, client: int, what: str) -> None:
        """Add to the events of the run."""
        self.events.append({"time": round(self.log.now(), 3), "client": client, "what": what})
        del self.events[:-EVENTS_KEPT]
        self.told(f"{self.log.now():.1f} s: {'a client' if client == NOBODY else f'client {client}'} {what}")

    def record(self) -> Record:
        """The record of the run as far as it has come, with the events."""
        record = super().record()
        return replace(record, provenance={**record.provenance, "live": {"events": self.events}})

    def state_dict(self) -> dict[str, Any]:
        """See `Simulation`; jobs at work are in the log."""
        return super().state_dict() | {"log": self.log.state_dict(), "events": list(self.events)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. What was at work then is lost."""
        at_work = self.log.load_state_dict(state["log"])
        self.events = [dict(event) for event in state["events"]]
        self.timeline = self.recorder.timeline = self.log.timeline()
        super().load_state_dict(state)
        self.users = np.zeros(self.recorder.last_version + 1, dtype=np.int64)
        self.snapshots.clear()
        for job in at_work:
            self.log.end(job, CRASH, lost=True)
            self.note(self.log.client[job], f"worked on job {job} when the server stopped; the job is lost")
        self.timeline = self.recorder.timeline = self.log.timeline()
        # Other clients may be drawn than those of the jobs that nobody knows of any more.
        self.selection = stream(self.config.seed, "selection", state["num_resumed"] + 1)
