"""Who teaches a client: a model that another one returned before, or the current model after a stale job."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fedrevive_core.config import RunConfig
from fedrevive_core.seeding import stream
from fedrevive_core.simulation.build import num_threads
from fedrevive_core.simulation.progress import Timer
from fedrevive_core.simulation.state_store import StateStore
from fedrevive_core.timeline import Timeline
from fedrevive_core.training import Job, LocalTrainer


class Teaching:
    """The jobs of a run with their teachers, as `config.training.lesson` says.

    kept: the returned models, by the number of their arrival, that jobs still need: at most `lesson.kept` and one for
    each job in flight. users (A,): how many jobs that are not trained yet each arrival's model teaches.
    """

    def __init__(self, config: RunConfig, timeline: Timeline, trainer: LocalTrainer, timer: Timer) -> None:
        self.config, self.timeline, self.timer = config, timeline, timer
        self.lesson = config.training.lesson
        self.kept = StateStore(trainer.layout, offload=config.offload)
        self.teachers = self._drawn() if self.lesson.source == "returned" else None
        self.users = self._users(0)
        self.corrector = LocalTrainer(
            trainer.layout,
            trainer.data,
            trainer.prepare,
            config.training.model_copy(update={"steps": self.lesson.steps}),
            config.seed,
            trainer.executor,
            draws="corrections",
        )

    def job(self, number: int, snapshots: StateStore) -> Job:
        """Job `number` with its teacher, if it has one; `snapshots` hold the versions."""
        base, client = int(self.timeline.base_version[number]), int(self.timeline.client[number])
        arrival = -1 if self.teachers is None else int(self.teachers[number])
        teacher = self.kept.fetch(arrival) if arrival in self.kept else None
        if arrival >= 0:
            self.users[arrival] -= 1
            if self.users[arrival] == 0:
                self.kept.pop(arrival, None)
        return Job(number, client, snapshots.fetch(base), teacher, self.lesson.weight_at(base))

    def keep(self, arrival: int, returned: Tensor, rejected: str) -> None:
        """Keep what arrival number `arrival` has `returned` if it teaches a later job; what was `rejected` does not."""
        if not rejected and arrival < len(self.users) and self.users[arrival] > 0:
            self.kept[arrival] = returned

    def corrected(self, arrival: int, returned: Tensor, current: Tensor, version: int) -> Tensor:
        """What a client `returned` (size,) after a lesson from the `current` model, which is `version`.

        Nothing is corrected where nothing is stale, the weight is 0, or the upload is a copy.
        """
        timeline, weight = self.timeline, self.lesson.weight_at(version)
        if self.lesson.source != "current" or weight == 0 or timeline.is_copy[arrival]:
            return returned
        if timeline.arrival_staleness[arrival] == 0:
            return returned
        number = int(timeline.arrivals[arrival])
        with num_threads(self.config.num_threads), self.timer("training", 0):
            return self.corrector.train([Job(number, int(timeline.client[number]), returned, current, weight)])[0]

    def state_dict(self) -> dict[str, Tensor]:
        """The returned models that are kept; shared, and never changed."""
        return self.kept.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor], num_processed: int) -> None:
        """Restore what `state_dict` gave after `num_processed` arrivals. Raises ValueError if one is not a model's."""
        self.kept.load_state_dict(state)
        self.users = self._users(num_processed)

    def _drawn(self) -> np.ndarray:
        """(J,) the arrival whose model teaches each job: one of the last before its dispatch; -1: none."""
        teachers = np.full(len(self.timeline.client), -1, dtype=np.int64)
        for job, before in enumerate(self.timeline.dispatched_after.tolist()):
            if before > 0:
                back = stream(self.config.seed, "teachers", job).integers(min(before, self.lesson.kept))
                teachers[job] = before - 1 - back
        return teachers

    def _users(self, num_processed: int) -> np.ndarray:
        if self.teachers is None:
            return np.zeros(0, dtype=np.int64)
        groups = [jobs for number, jobs in self.timeline.training_groups.items() if number >= num_processed]
        taught = self.teachers[np.concatenate([np.zeros(0, dtype=np.int64), *groups])]
        return np.bincount(taught[taught >= 0], minlength=len(self.timeline.arrivals))
