"""From a simulation to its record: tables of arrivals and evaluations, and the numbers that compare runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from fedrevive_core.config import FAULTS
from fedrevive_core.records import Record, provenance, stack_samples, state_sha256, summarise
from fedrevive_core.server import METRICS, Receipt
from fedrevive_core.simulation.branch import SAMPLES_SHOWN
from fedrevive_core.timeline import Timeline, speed_groups

if TYPE_CHECKING:
    from fedrevive_core.simulation.simulation import Simulation


def arrivals_table(timeline: Timeline, receipts: list[Receipt], first: int = 0) -> pd.DataFrame:
    """A row per arrival from number `first` on."""
    last = len(receipts)
    jobs, receipts = timeline.arrivals[first:last], receipts[first:]
    rows = [receipt.metrics for receipt in receipts]
    metrics = torch.stack(rows).cpu().numpy() if rows else np.empty((0, len(METRICS)), np.float32)
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
        }
    )


def record_of(simulation: Simulation) -> Record:
    """The record of `simulation` as far as it has come."""
    config, timeline = simulation.config, simulation.timeline
    state = simulation.server.state.cpu()
    evaluated = pd.DataFrame(simulation.evaluations)
    # A run that its budget in time ended lasts until then; any other, until its last version.
    out_of_time = (
        simulation.num_processed == len(timeline.arrivals)
        and simulation.server.version != config.federation.max_versions
        and not timeline.ran_dry
    )
    sim_time = float((out_of_time and config.federation.max_sim_time) or evaluated["sim_time"].iloc[-1])
    class_accuracy = np.array(simulation.evaluations[-1]["class_accuracy"])
    per_client = simulation.data.class_proportions @ np.nan_to_num(class_accuracy)
    groups = speed_groups(timeline.mean_duration)
    arrivals = arrivals_table(timeline, simulation.receipts)
    summary = {
        **summarise(evaluated, sim_time),
        "num_versions": simulation.server.version,
        "num_arrivals": simulation.num_processed,
        "sim_time": sim_time,
        "mean_staleness": float(arrivals["staleness"].mean()),
        "class_accuracy": dict(zip(simulation.data.class_names, class_accuracy.tolist(), strict=True)),
        # Expected test accuracy of a client: class accuracies weighted by its own class proportions.
        "speed_group_accuracy": {name: float(per_client[clients].mean()) for name, clients in groups.items()},
        "stopped": simulation.reason_to_stop(),
        "faults": timeline.fault_counts(simulation.num_processed),
        "rejected_uploads": int((arrivals["rejected"] != "").sum()),
        "rejected": arrivals.loc[arrivals["rejected"] != "", "rejected"].value_counts().to_dict(),
        "clipped_updates": int((arrivals["client_norm"] > (config.server.clip_norm or np.inf)).sum()),
        "rejected_terms": int(np.nansum(arrivals["rejected_terms"])),
        "model": simulation.model_name,
        "num_parameters": simulation.layout.num_parameters,
        "state_sha256": state_sha256(state.numpy()),
    }
    summary["certificate"] = simulation.certificate({"state_sha256": summary["state_sha256"]})
    device = torch.cuda.get_device_name() if simulation.device.type == "cuda" else "cpu"
    return Record(
        config=config,
        summary=summary,
        provenance=provenance(device, torch.get_num_threads())
        | {
            "own": simulation.own,
            "data_sha256": simulation.data.fingerprint,
            "num_resumed": simulation.num_resumed,
            "branches": simulation.branches,
        },
        evaluations=evaluated,
        arrivals=arrivals,
        timings=simulation.timer.table(),
        samples=stack_samples(simulation.samples, SAMPLES_SHOWN, simulation.inputs.stack),
        model={name: tensor.clone().numpy() for name, tensor in simulation.layout.views(state).items()},
    )
