"""The growing record of a run: evaluations, what happened to each upload, samples, and the hash chain over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedrevive_core.config import FAULTS, RunConfig
from fedrevive_core.data import FederatedData
from fedrevive_core.records import (
    Record,
    class_table,
    intake,
    link,
    slow_classes,
    state_sha256,
    summarise,
    summarise_arrivals,
    table_sha256,
    update_counts,
)
from fedrevive_core.revival import SamplePool
from fedrevive_core.server import METRICS, Receipt
from fedrevive_core.simulation.modality import Modality
from fedrevive_core.timeline import Timeline, speed_groups

SAMPLES_KEPT = 32  # newest samples of the pool, at each version at which some are kept
VERSIONS_KEPT = 24  # versions at which samples are kept, at most


class Recorder:
    """What a run of `timeline` leaves, as far as it has come.

    evaluations: a row for each. receipts: what happened to each upload, in order of arrival. samples: (version, samples
    as `modality` shows them, labels) at some versions.
    """

    def __init__(self, timeline: Timeline, modality: Modality, device: torch.device) -> None:
        self.timeline, self.modality = timeline, modality
        self.evaluations: list[dict[str, Any]] = []
        self.receipts: list[Receipt] = []
        # All receipts share this memory: kept one by one they would lie between large tensors and hold theirs back.
        self.metrics = torch.empty(len(timeline.arrivals), len(METRICS), device=device)
        self.samples: list[tuple[int, np.ndarray, np.ndarray]] = []

    @property
    def last_version(self) -> int:
        """The version with which the run ends if nothing stops it."""
        return len(self.metrics) // self.timeline.federation.buffer_size

    def keep_receipt(self, receipt: Receipt) -> None:
        """Record what happened to the next upload."""
        row = self.metrics[len(self.receipts)]
        row.copy_(receipt.metrics)
        self.receipts.append(replace(receipt, metrics=row))

    def keep_evaluation(self, version: int, sim_time: float, state: Tensor, scores: Mapping[str, Any]) -> None:
        """Record the `scores` of the global model `state` (size,), with a new link of the hash chain."""
        row = {
            "version": version,
            "sim_time": sim_time,
            "num_arrivals": len(self.receipts),
            **scores,
            "state_sha256": state_sha256(state.cpu().numpy()),
        }
        self.evaluations.append(row | {"chain": self.link(row)})

    def keep_samples(self, version: int, pool: SamplePool) -> None:
        """Record the newest samples of `pool`, at VERSIONS_KEPT versions of the run at most."""
        last = self.last_version
        if self.samples and version - self.samples[-1][0] < last / VERSIONS_KEPT and version != last:
            return
        samples, labels = pool.newest(SAMPLES_KEPT)
        self.samples.append((version, self.modality.show(samples), labels))

    def link(self, row: Mapping[str, Any]) -> str:
        """The next link of the hash chain: over the arrivals since the last evaluation, and `row`."""
        last: dict[str, Any] = self.evaluations[-1] if self.evaluations else {"chain": "", "num_arrivals": 0}
        return link(last["chain"], row, self.arrivals_table(last["num_arrivals"]))

    def arrivals_table(self, first: int = 0) -> pd.DataFrame:
        """A row per arrival from number `first` on."""
        timeline, last = self.timeline, len(self.receipts)
        jobs, receipts = timeline.arrivals[first:last], self.receipts[first:]
        metrics = self.metrics[first:last].cpu().numpy()
        refused = [receipt.not_teaching for receipt in receipts]
        return pd.DataFrame(
            {
                "job": jobs,
                "client": timeline.client[jobs],
                "sim_time": timeline.arrival_time[jobs],
                "version": np.arange(first, last) // timeline.federation.buffer_size,
                "staleness": timeline.arrival_staleness[first:last],
                "beta": [receipt.beta for receipt in receipts],
                "revived": [receipt.revived for receipt in receipts],
                "fault": np.array(FAULTS)[timeline.arrival_fault[first:last]],
                "rejected": [receipt.rejected for receipt in receipts],
                "pool_size": [receipt.pool_size for receipt in receipts],
                **{name: metrics[:, column] for column, name in enumerate(METRICS)},
                **({"not_teaching": refused} if any(refused) else {}),
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """The record so far; the metrics are shared and never changed."""
        return {
            "evaluations": list(self.evaluations),
            "receipts": [[r.beta, r.revived, r.rejected, r.pool_size, r.not_teaching] for r in self.receipts],
            "metrics": self.metrics[: len(self.receipts)],
            "samples": [
                {"version": version, "shown": torch.from_numpy(shown), "labels": torch.from_numpy(labels)}
                for version, shown, labels in self.samples
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, copied. Raises ValueError if it holds more arrivals than the timeline."""
        count = len(state["receipts"])
        if len(state["metrics"]) != count or count > len(self.metrics):
            raise ValueError(f"a record of {count} arrivals is not one of this timeline of {len(self.metrics)}")
        self.metrics[:count] = state["metrics"]
        self.evaluations = list(state["evaluations"])
        self.receipts = [
            Receipt(float(beta), bool(revived), str(rejected), int(pool_size), row, str(*refused))
            # What an older version saved has no fifth entry.
            for (beta, revived, rejected, pool_size, *refused), row in zip(
                state["receipts"], self.metrics, strict=False
            )
        ]
        self.samples = [
            (kept["version"], kept["shown"].cpu().numpy(), kept["labels"].cpu().numpy()) for kept in state["samples"]
        ]

    def record(
        self,
        config: RunConfig,
        data: FederatedData,
        state: Tensor,
        model: Mapping[str, Tensor],
        *,
        stopped: str,
        summary: Mapping[str, Any],
        origin: Mapping[str, Any],
        timings: pd.DataFrame,
    ) -> Record:
        """The record of the run so far.

        Args:
            state: (size,) of the global model, whose named tensors are `model`. stopped: why the run ended early.
            summary: what else is said about the run. origin: its provenance.
        """
        timeline, count = self.timeline, len(self.receipts)
        evaluated, arrivals = pd.DataFrame(self.evaluations), self.arrivals_table()
        counted = summarise_arrivals(arrivals, config)
        # A run that its budget in time ended lasts until then; any other, until its last version.
        out_of_time = (
            count == len(timeline.arrivals)
            and counted["num_versions"] != config.federation.max_versions
            and not timeline.ran_dry
        )
        sim_time = float((out_of_time and config.federation.max_sim_time) or evaluated["sim_time"].iloc[-1])
        class_accuracy = np.array(self.evaluations[-1]["class_accuracy"])
        per_client = data.class_proportions @ np.nan_to_num(class_accuracy)
        last_hash = state_sha256(state.cpu().numpy())
        jobs = timeline.table()
        groups = speed_groups(timeline.mean_duration)
        there = {name: who for name, who in groups.items() if len(who)}  # of one or two clients not all three
        updates = update_counts(arrivals, len(per_client))
        classes = class_table(
            data.class_names, data.class_counts, groups, intake(arrivals, config), evaluated, sim_time
        )
        return Record(
            config=config,
            summary={
                **summarise(evaluated, sim_time),
                "sim_time": sim_time,
                **counted,
                "class_accuracy": dict(zip(data.class_names, class_accuracy.tolist(), strict=True)),
                # Expected test accuracy of a client: class accuracies weighted by its class proportions.
                "speed_group_accuracy": {name: float(per_client[who].mean()) for name, who in there.items()},
                "speed_group_updates": {name: float(updates[who].mean()) for name, who in there.items()},
                "slow_classes": slow_classes(classes),
                "mean_class_accuracy": dict(zip(data.class_names, classes["mean_accuracy"].tolist(), strict=True)),
                "stopped": stopped,
                "faults": timeline.fault_counts(count),
                **summary,
                "state_sha256": last_hash,
                "timeline_sha256": table_sha256(jobs),
                "certificate": self.link({"state_sha256": last_hash}),
            },
            provenance=dict(origin),
            evaluations=evaluated,
            arrivals=arrivals,
            timings=timings,
            samples=self._stacked_samples(),
            model={name: tensor.cpu().clone().numpy() for name, tensor in model.items()},
            timeline=jobs,
            classes=classes,
        )

    def _stacked_samples(self) -> dict[str, np.ndarray]:
        """`samples` of a Record, -1 as label where there is none."""
        labels = np.full((len(self.samples), SAMPLES_KEPT), -1, dtype=np.int64)
        for row, (_, _, wanted) in enumerate(self.samples):
            labels[row, : len(wanted)] = wanted
        shown: Sequence[np.ndarray] = [shown for _, shown, _ in self.samples]
        return {
            "version": np.array([version for version, _, _ in self.samples], dtype=np.int64),
            **self.modality.stack(shown, SAMPLES_KEPT),
            "labels": labels,
        }
