"""Pools to distil on: how good their images are, beside what they gain. For docs/RESULTS.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from fedrevive_core.config import TEXT_DATA, DataConfig, RunConfig, merge
from fedrevive_core.data import load_federated
from fedrevive_core.data.samples import Samples
from fedrevive_core.errors import ConfigError
from fedrevive_core.evaluation import evaluate
from fedrevive_core.files import atomic_file, check_file, writing
from fedrevive_core.models import StateLayout
from fedrevive_core.plots import STYLE, Plot, colours
from fedrevive_core.records import Record, confidence_interval, read_header
from fedrevive_core.simulation import Simulation, num_threads
from fedrevive_core.simulation.build import build_client
from fedrevive_core.training import Job
from fedrevive_core.transforms import Preparation
from reproduce.evidence.common import RECORDS, SCORES, lead_over, percent
from reproduce.sweeps.figures import lead
from reproduce.sweeps.results import collect, is_packed

QUALITY = RECORDS.parent / "image-quality.json"  # see `write_quality`
PAGE = Path(__file__).parents[2] / "docs" / "RESULTS.md"  # is what the numbers are for
EXPERIMENTS = {
    "image-pools-fashion": "Fashion-MNIST, 14x14",
    "image-pools-28": "Fashion-MNIST, 28x28",
    "image-pools-styles": "handwritings, 8x8",
}
POOLS = {"fedrevive": "synthesised", "held-back": "held back", "other": "other images", "noise": "noise"}  # by arm
AGAINST = "afl-dw"  # the same method without a pool
STEPS = 2000  # of the judge, 32 images each
SHOWN = 400  # images of a pool that are judged
SHARES = {"agreement": "wanted class %", "confidence": "confidence %"}
MEASURES = ("agreement", "confidence", "entropy", "diversity", "distance")


@dataclass(frozen=True)
class Judge:
    """A classifier that saw real images only, with those it saw and others that it did not; accuracy on the latter."""

    layout: StateLayout
    state: Tensor
    prepare: Preparation
    seen: Samples
    unseen: Samples
    accuracy: float

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> np.ndarray:
        """(n, classes) of `images` (n, C, S, S) in [0, 1]."""
        return self.layout.call(self.layout.views(self.state), self.prepare(images)).softmax(dim=1).numpy()


def train_judge(config: RunConfig, steps: int = STEPS) -> Judge:
    """LabNet, trained for `steps` steps on all clients' images of `config.data`, tested on the test split."""
    own = {"model": "labnet", "seed": 1000, "training": {"steps": steps, "batch_size": 32, "lr": 1e-3}}
    config = RunConfig.from_dict(merge(config.to_dict(), own))
    data = load_federated(config.data, config.federation.num_clients, torch.device("cpu"))
    everything = np.unique(np.concatenate(data.shards))
    with num_threads(1):
        layout, modality, trainer, network = build_client(config, replace(data, shards=[everything]))
        (state,) = trainer.train([Job(0, 0, layout.pack(network))])
        test = data.test
        accuracy, *_ = evaluate(layout, state, modality.prepare, test.inputs, test.labels, data.num_classes)
    return Judge(layout, state, modality.prepare, data.clients.take(everything), test, accuracy)


def quality(judge: Judge, images: Tensor, labels: np.ndarray) -> dict[str, float]:
    """What the judge says of `images` (n, C, S, S) in [0, 1] that should show `labels` (n,).

    agreement: share that it gives the wanted class; confidence: mean largest probability; entropy: of the classes that
    it gives, 1 if all are equally frequent. diversity: mean distance of two images of one wanted class, and distance:
    median distance to the nearest image that the judge saw; both in multiples of unseen real images'.
    """
    probabilities = judge.probabilities(images)
    given = probabilities.argmax(axis=1)
    shares = np.bincount(given, minlength=probabilities.shape[1]) / len(given)
    real = judge.unseen.take(np.arange(min(SHOWN, len(judge.unseen.labels))))
    return {
        "agreement": float((given == labels).mean()),
        "confidence": float(probabilities.max(axis=1).mean()),
        "entropy": float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum() / np.log(len(shares))),
        "diversity": _spread(images, labels) / _spread(real.inputs, real.labels.numpy()),
        "distance": _to_nearest(images, judge.seen.inputs) / _to_nearest(real.inputs, judge.seen.inputs),
    }


def _spread(images: Tensor, labels: np.ndarray) -> float:
    """Mean distance between two of `images` with one label, every pair counts once; NaN where there is no pair."""
    apart = [torch.pdist(images[torch.from_numpy(labels == label)].flatten(1)) for label in np.unique(labels)]
    return float(torch.cat(apart).mean())


def _to_nearest(images: Tensor, others: Tensor) -> float:
    return float(torch.cdist(images.flatten(1), others.flatten(1)).min(dim=1).values.median())


def pool_of(run: Path) -> tuple[Tensor, np.ndarray]:
    """At most SHOWN (images, labels) of what the run with the record `run` distilled on.

    A pool that does not change is made again; of a synthesised one the newest that the record kept, at several versions
    in the second half of the run.
    """
    record = Record.load(run)
    if record.config.revival.source != "synthetic":
        reviver = Simulation(record.config).reviver
        assert reviver is not None
        return reviver.pool.newest(SHOWN)
    kept = record.samples["version"] > record.summary["num_versions"] / 2
    images, labels = (record.samples[name][kept] for name in ("images", "labels"))
    there = labels >= 0
    return torch.from_numpy(images[there][-SHOWN:]).float().div(255), labels[there][-SHOWN:]


def measure_pools(sweep: Path, steps: int = STEPS) -> tuple[str, list[dict[str, Any]]]:
    """The experiment of `sweep`, and a row per run that distils: arm, seed, images, accuracy of the judge, `quality`.

    Raises ConfigError if the sweep is packed, so that its images are gone, or if none of its runs distils on images.
    """
    if is_packed(sweep):
        raise ConfigError(f"'{sweep}' is packed and holds no images: give the directory that the sweep wrote")
    swept = collect(sweep)
    judges: dict[DataConfig, Judge] = {}
    rows = []
    for run in swept.records.runs.to_dict("records"):
        config, _ = read_header(sweep / "runs" / run["run"])
        if config.revival.source == "none" or config.data.name in TEXT_DATA:
            continue
        if config.data not in judges:
            judges[config.data] = train_judge(config, steps)
        images, labels = pool_of(sweep / "runs" / run["run"])
        if len(labels) == 0:
            raise ConfigError(f"run '{run['run']}' kept no images of its pool: give it more versions")
        row = {"arm": run["arm"], "seed": run["seed"], "images": len(labels)}
        rows.append(row | {"judge": judges[config.data].accuracy} | quality(judges[config.data], images, labels))
    if not rows:
        raise ConfigError(f"no run of '{sweep}' distils on images: give a sweep of an experiment about pools")
    return swept.experiment.name, rows


def write_quality(sweeps: Sequence[Path]) -> Path:
    """Measure the pools of `sweeps` and keep the rows in QUALITY, in place of older ones of the same experiments.

    Raises ConfigError, before any measurement, where there is no page for them, as in an installed copy, or QUALITY
    cannot be written.
    """
    if not PAGE.exists():
        raise ConfigError(f"there is no '{PAGE}': run this command in a checkout of the repository")
    check_file(QUALITY)
    known = json.loads(QUALITY.read_text(encoding="utf-8")) if QUALITY.exists() else {}
    known |= dict(measure_pools(sweep) for sweep in sweeps)
    with writing(QUALITY), atomic_file(QUALITY) as path:
        path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return QUALITY


def judged(name: str) -> pd.DataFrame:
    """Means over the runs of the experiment `name` in QUALITY: by arm, MEASURES and the accuracy of the judge."""
    known = pd.DataFrame(json.loads(QUALITY.read_text(encoding="utf-8"))[name])
    return known.groupby("arm", sort=False)[[*MEASURES, "judge"]].mean()


def pools_table(name: str) -> list[dict[str, str]]:
    """A row per pool of the experiment `name`: what it reaches and gains, and how good its images are."""
    runs, found = collect(RECORDS / name).records.runs, judged(name)
    tried = [arm for arm in POOLS if arm in set(runs["arm"])]
    family, rows = 2 * len(tried) - 1, []
    for arm in tried:
        row = {"pool": POOLS[arm]}
        row |= {f"{said} %": percent(runs.loc[runs["arm"] == arm, score]) for score, said in SCORES.items()}
        for against, said in ((AGAINST, "AFL-DW"), ("fedrevive", "synthesised")):
            row[f"above {said}, over the run"] = (
                "" if arm == against else lead_over(runs, "mean_accuracy", arm, against, family)
            )
        row |= {said: f"{100 * found.loc[arm, score]:.0f}" for score, said in SHARES.items()}
        rows.append(row | {score: f"{found.loc[arm, score]:.2f}" for score in ("entropy", "diversity", "distance")})
    return rows


@mpl.rc_context(STYLE)
def plot_pools() -> Figure:
    """What each pool gains against what a classifier of real images makes of it, a panel per experiment.

    Bars are 95% intervals of the gain.
    """
    figure = Plot(figsize=(4.2 * len(EXPERIMENTS), 4.0), layout="constrained")
    panels = figure.subplots(1, len(EXPERIMENTS), sharey=True)
    for axes, (name, title) in zip(panels, EXPERIMENTS.items(), strict=True):
        runs, found = collect(RECORDS / name).records.runs, judged(name)
        shades = colours(list(POOLS))
        for arm in (arm for arm in POOLS if arm in set(runs["arm"])):
            mean, half = confidence_interval(100 * lead(runs, "mean_accuracy", arm, AGAINST))
            style: Any = {"color": shades[arm], "ms": 8, "capsize": 3, "label": POOLS[arm]}
            axes.errorbar(found.loc[arm, "agreement"], mean, np.nan_to_num(half), fmt="o", **style)
        axes.axhline(0, color="#888888", lw=1)
        axes.set_title(title, fontsize=11)
        axes.set(xlim=(0, 1.03), xlabel="images that show the wanted class")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panels[0].set_ylabel("accuracy over the run,\npoints above AFL-DW (no pool)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    figure.suptitle("Does a pool teach because its images are good?", fontsize=13, x=0.01, ha="left")
    return figure
