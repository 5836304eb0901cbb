"""The page that the main job leaves: what happened in the three runs, for someone who has never seen one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedrevive_core.config import method_title
from fedrevive_core.plots import (
    plot_accuracy,
    plot_participation,
    plot_samples,
    plot_staleness,
    plot_staleness_weights,
    plot_timeline,
)
from fedrevive_core.records import Record
from fedrevive_core.timeline import simulate_timeline
from reproduce.reports.html import Illustration, made_with, write_page
from reproduce.reports.text import comparison_table

PRESET = "lab-digits"
METHODS_SHOWN = ("fedbuff", "afl-dw", "fedrevive")
SETTINGS = {"federation.max_sim_time": 27.0}  # a tenth less than the preset has: a minute and a half on two cores


def write_quickstart_page(records: Sequence[Record], path: Path, command: str) -> Path:
    """Write the page for one record of each of METHODS_SHOWN, made with one seed, and return its path."""
    revived = next(record for record in records if record.config.method == "fedrevive")
    config, federation = revived.config, revived.config.federation
    best = max(records, key=lambda record: record.summary["mean_accuracy"])
    last = max(records, key=lambda record: record.summary["final_accuracy"])
    provenance = revived.provenance
    intro = [
        f"{federation.num_clients} clients hold a few real handwritten digits each, mostly of one or two classes. "
        f"{federation.concurrency} are always training, each at its own pace, so an update usually arrives long "
        "after the model it started from has moved on, here by "
        f"{revived.summary['mean_staleness']:.0f} versions on average. "
        "Such an update is stale.",
        "Three servers receive exactly the same updates at the same times. FedBuff takes every update as it is. "
        "AFL-DW gives less weight to a staler one and throws the rest away. FedRevive fills that rest by distillation: "
        "the current model learns from the latest client models on images that were synthesised without any data.",
        f"In this one run {method_title(best.config.method)} had the highest accuracy averaged over the run, and "
        f"{'also' if last is best else method_title(last.config.method)} the highest at its end. One seed shows what "
        "happens, not which method is better: the command compare gives intervals over several seeds.",
    ]
    illustrations = [
        Illustration(
            "Who works when",
            "Each bar is one job, from download to upload; its colour is how stale the result was when it arrived. "
            "This picture is computed before any training, and it is the same for all three methods.",
            plot_timeline(simulate_timeline(federation, config.seed)),
        ),
        Illustration(
            "How stale the updates are",
            "Little's law predicts the mean: with K jobs in flight, about K - 1 other updates arrive while one is on "
            "its way. FedBuff makes one version of two updates, so it counts half as many versions.",
            plot_staleness(records),
        ),
        Illustration(
            "What staleness costs an update",
            "The weight that AFL-DW discards and FedRevive hands to the distilled update.",
            plot_staleness_weights(config.staleness, federation),
        ),
        Illustration(
            "What the global model learns",
            "Accuracy on test digits that no client has. The first versions are noise: every client pulls the model "
            "towards its own few classes.",
            plot_accuracy(records),
        ),
        Illustration(
            "What FedRevive synthesises",
            "Images that the generator made for each class as the run went on, without having seen a digit. They need "
            "not look like digits to carry what the client models know.",
            plot_samples(revived),
        ),
        Illustration(
            "Who was heard",
            "Slow clients send fewer updates. What an update counts is split into the client's own part and the "
            "distilled part, whose classes are those of the teachers.",
            plot_participation(revived),
        ),
    ]
    return write_page(
        path,
        title="Three servers, one timeline: what stale updates do, and what reviving them does",
        intro=intro,
        tables=[("", "", comparison_table(records))],
        illustrations=illustrations,
        command=command,
        provenance={
            "preset": f"{config.preset}, seed {config.seed}",
            **made_with(provenance),
            **{f"{r.config.method}, state": r.summary["state_sha256"] for r in records},
        },
    )
