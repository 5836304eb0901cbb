"""Experiments as data: a question, its runs at each scale, and what has been claimed about the answer.

An experiment is a YAML file; `experiments/` holds those that are shipped. A cell is one run of it: an arm (a method
with settings), a point of the grid, a seed. `smoke.yaml` is the shortest example.

A sweep of one at one scale is a directory:

    experiment.yaml            the experiment, as it was run
    sweep.json                 {"experiment", "scale", "device", "code", "cells": [{"run", "arm", "seed", "grid"}, ...]}
    runs/ARM-sSEED-HASH/       a record without its model, for every cell that is finished
    runs/ARM-sSEED-HASH.partial/   checkpoints of a run that is not finished
    failures/ARM-sSEED-HASH.txt    why a run failed, one sentence, then the traceback
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from fedrevive_core.config import (
    Finite,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    RunConfig,
    Section,
    Switch,
    build,
    choices,
    flatten,
    merge,
    sentences,
    unflatten,
)
from fedrevive_core.errors import ConfigError
from reproduce.sweeps import plain_yaml
from reproduce.sweeps.grid import check_apart, check_values, check_where, holds, selected, text

SHIPPED = Path(__file__).parents[1] / "experiments"
METRICS = ("final_accuracy", "last_accuracy", "best_accuracy", "mean_accuracy")
ScaleName = Literal["lab", "paper"]
NAME = r"^[a-z0-9][a-z0-9._-]{0,99}$"  # names are parts of file names
MOST_CELLS = 10_000
MOST_SHOWN = 40  # lines of an error


class Tuned(Section):
    """What was tuned for some points of the grid."""

    where: dict[str, Any] = Field(min_length=1, description="values of grid fields")
    settings: dict[str, Any] = Field(min_length=1, description="values by dotted name")


class Arm(Section):
    """One thing that is compared: a method, and what is changed in it."""

    method: str = Field(description="name of the method, as `presets` lists them")
    schedule: str | None = Field(None, description="delays instead of the scale's")
    settings: dict[str, Any] = Field({}, description="values by dotted name, on top of the scale's")
    tuned: tuple[Tuned, ...] = Field((), description="values by point of the grid, on top of settings")

    def at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Settings at a point of the grid (dotted field: value).

        Raises ConfigError if two entries of `tuned` that hold there set the same thing.
        """
        best: dict[str, Any] = {}
        for tuned in self.tuned:
            if holds(tuned.where, point):
                twice = best.keys() & tuned.settings.keys()
                if twice:
                    raise ConfigError(f"{min(twice)} is tuned twice for this point: let one entry set it")
                best |= tuned.settings
        return flatten(merge(unflatten(self.settings), unflatten(best)))


class Scale(Section):
    """Where an experiment runs, and how large."""

    preset: str = Field(description="data set with all its settings")
    schedule: str = Field("default", description="delays: 'default' or 'shifted'")
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1, description="one run each, in every cell")
    settings: dict[str, Any] = Field({}, description="values by dotted name, for every arm")
    arms: dict[str, Arm] | None = Field(None, min_length=1, description="instead of the experiment's")
    grid: dict[str, list[Any]] | None = Field(None, description="instead of the experiment's")
    checkpoint_every: PositiveInt = Field(200, description="arrivals between checkpoints of a run")
    cpus: PositiveFloat = Field(1.0, description="declared per run on a Ray cluster")
    gpus: PositiveFloat = Field(0.25, description="declared per run on a Ray cluster that has GPUs")


class Claim(Section):
    """A number or a direction that somebody stated, and how ours is compared with it.

    Without `baselines` it is about the arm's own value; with them, about how far the arm is ahead of the best of them:
    in points of accuracy, or in percent of simulated time saved.
    """

    text: str = Field(min_length=1, description="the claim in a sentence")
    source: Literal["v1", "v2", "co-authors' public run", "ours"] = Field(
        description="v1, v2: versions of arXiv 2511.00655; ours: measured with this project"
    )
    metric: str = Field(description="a column of the table of runs: final_accuracy, ..., or 'time_to 0.8'")
    arm: str = Field(description="the arm that the claim is about")
    baselines: tuple[str, ...] = Field((), description="arms whose best is compared with")
    where: dict[str, Any] = Field({}, description="values of grid fields that the claim is about; empty: all of them")
    paper_value: Finite | None = Field(None, description="what the source says; unset: only a direction is claimed")
    unit: Literal["accuracy points", "percent faster"] = Field(description="of paper_value, ours and tolerance")
    direction: Literal["higher", "lower", "equal"] | None = Field(
        None, description="sign of the arm's lead; unset for a claim about the arm's own value"
    )
    tolerance: NonNegativeFloat = Field(description="largest distance from paper_value that counts as reproduced")
    comparable: dict[ScaleName, Switch] = Field(description="is it the source's data, per scale?")

    @model_validator(mode="after")
    def _check(self) -> Claim:
        from fedrevive_core.records import TARGETS

        allowed = (*METRICS, *(f"time_to {target}" for target in TARGETS))
        if self.metric not in allowed:
            raise ValueError(f"metric = '{self.metric}': {choices(self.metric, allowed)}")
        if self.metric.startswith("time_to") != (self.unit == "percent faster"):
            raise ValueError("unit must be 'percent faster' for time_to and 'accuracy points' for the other metrics")
        if (self.direction is None) == bool(self.baselines):
            raise ValueError("direction belongs to a claim with baselines, and only to that")
        if self.paper_value is None and not self.baselines:
            raise ValueError("a claim needs a paper_value, or baselines and a direction")
        return self


class Experiment(Section):
    """A question, the runs that answer it at each scale, and what has been claimed."""

    name: str = Field(pattern=NAME, description="the file's name without .yaml")
    question: str = Field(min_length=1, description="what the runs answer, one sentence")
    notebook: str = Field(description="notebook that shows the answer")
    note: str = Field("", description="what a reader of the result must know")
    scales: dict[ScaleName, Scale] = Field(min_length=1, description="where and how large")
    arms: dict[str, Arm] = Field({}, description="what is compared, by name")
    grid: dict[str, list[Any]] = Field({}, description="dotted field: values; every combination is one cell")
    claims: tuple[Claim, ...] = Field((), description="what has been stated about the answer")

    @model_validator(mode="after")
    def _check(self) -> Experiment:
        for name, scale in self.scales.items():
            arms, grid = self.arms_at(name), self.grid_at(name)
            if not arms:
                raise ValueError(f"arms is empty at scale {name}: name at least one thing to run")
            for field, values in grid.items():
                check_values(field, values)
            number = len(arms) * len(scale.seeds) * math.prod(map(len, grid.values()))
            if number > MOST_CELLS:
                raise ValueError(
                    f"scale {name} has {number:,} cells (arms x grid x seeds): at most {MOST_CELLS:,} are allowed; "
                    "make several experiments of it"
                )
            check_apart(f"scale {name}", scale.settings, grid)
            for arm, chosen in arms.items():
                if not re.match(NAME, arm):
                    raise ValueError(
                        f"arm '{arm}' must consist of lower-case letters, digits, '.', '_' and '-', 100 at most"
                    )
                for settings in (chosen.settings, *(tuned.settings for tuned in chosen.tuned)):
                    check_apart(f"arm '{arm}'", settings, grid)
                for tuned in chosen.tuned:
                    check_where(f"arm '{arm}' is tuned for", tuned.where, grid)
            if len(set(scale.seeds)) < len(scale.seeds):
                raise ValueError(f"seeds = {list(scale.seeds)} at scale {name}: each may be given once")
            for claim in self.claims:
                for arm in (claim.arm, *claim.baselines):
                    if arm not in arms:
                        raise ValueError(f"claim '{claim.text}' is about arm '{arm}': {choices(arm, arms)}")
                check_where(f"claim '{claim.text}' is about", claim.where, grid)
                if name not in claim.comparable:
                    raise ValueError(f"claim '{claim.text}' does not say whether scale {name} is comparable")
        return self

    def arms_at(self, scale: ScaleName) -> dict[str, Arm]:
        """The arms of `scale` where it lists any, or else the experiment's."""
        arms = self.scales[scale].arms
        return self.arms if arms is None else arms

    def grid_at(self, scale: ScaleName) -> dict[str, list[Any]]:
        """The grid of `scale` where it has one, or else the experiment's."""
        grid = self.scales[scale].grid
        return self.grid if grid is None else grid


@dataclass(frozen=True)
class Cell:
    """One run of an experiment: arm, seed, the point of the grid (dotted field: value), and what follows from them."""

    arm: str
    seed: int
    grid: Mapping[str, Any]
    config: RunConfig

    def __str__(self) -> str:
        """'fedrevive seed 0 data.alpha=0.1', for messages."""
        return _label(self.arm, self.seed, self.grid)


def _label(arm: str, seed: int, grid: Mapping[str, Any]) -> str:
    return " ".join([f"{arm} seed {seed}", *(f"{field}={text(value)}" for field, value in grid.items())])


def shipped() -> list[str]:
    """Names of the experiments that come with the project."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_experiment(name: str | Path) -> Experiment:
    """Load the shipped experiment `name`, or the one in the YAML file at that path.

    Raises ConfigError for an unknown name and for a file that is not a valid experiment, naming every problem.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = SHIPPED / f"{name}.yaml"
        if str(name) not in shipped():
            raise ConfigError(f"experiment = '{name}' is unknown: {choices(str(name), shipped())}; or a .yaml file")
    try:
        experiment = Experiment.model_validate(plain_yaml.read(path))
    except ValidationError as error:
        raise ConfigError(f"experiment '{path}': {sentences(Experiment, error)}") from None
    if experiment.name != path.stem and path.parent == SHIPPED:
        raise ConfigError(f"experiment '{path}' must have the file's name: name = '{experiment.name}'")
    return experiment


def scale_of(experiment: Experiment, name: str) -> ScaleName:
    """The scale of `experiment` with this name. Raises ConfigError if it has none."""
    for scale in experiment.scales:
        if scale == name:
            return scale
    raise ConfigError(f"scale = '{name}' is unknown in {experiment.name}: {choices(name, experiment.scales)}")


def cells(experiment: Experiment, scale: ScaleName) -> list[Cell]:
    """Every run of `experiment` at `scale`, in the order arms, grid, seeds.

    Raises ConfigError listing every cell that cannot be built.
    """
    where, grid = experiment.scales[scale], experiment.grid_at(scale)
    built: list[Cell] = []
    problems: dict[str, list[str]] = defaultdict(list)
    for (name, arm), point in itertools.product(experiment.arms_at(scale).items(), itertools.product(*grid.values())):
        values = dict(zip(grid, point, strict=True))
        for seed in where.seeds:
            try:
                # Each run of a sweep has one core; more must be asked for, because they change the last bits.
                overrides = merge({"num_threads": 1}, *map(unflatten, (where.settings, arm.at(values), values)))
                schedule = arm.schedule or where.schedule
                config = build(where.preset, arm.method, seed=seed, schedule=schedule, overrides=overrides)
                built.append(Cell(name, seed, values, config))
            except ConfigError as error:
                problems[str(error)].append(_label(name, seed, values))
    by_config: dict[str, list[str]] = defaultdict(list)
    for cell in built:
        by_config[json.dumps(cell.config.to_dict())].append(str(cell))
    for same in by_config.values():
        if len(same) > 1:
            problems["the same configuration more than once"] += same
    if problems:
        lines = [f"\n  {label}: {problem}" for problem, labels in problems.items() for label in labels]
        more = [f"\n  and {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else []
        shown = "".join(lines[:MOST_SHOWN] + more)
        raise ConfigError(f"{experiment.name} at scale {scale} has {len(lines)} invalid cells:{shown}")
    return built


def select(listed: list[Cell], only: Mapping[str, str]) -> list[Cell]:
    """The cells whose arm, seed, method, or grid field has the given value, for every entry of `only`.

    Raises ConfigError for a key or a value that no cell has.
    """
    for key, wanted in only.items():
        fields = [{"arm": cell.arm, "method": cell.config.method, "seed": cell.seed, **cell.grid} for cell in listed]
        if key not in fields[0]:
            raise ConfigError(f"--only {key}={wanted}: {choices(key, fields[0])}")
        values = [every[key] for every in fields]
        chosen = selected(wanted, values)
        if not any(chosen):
            raise ConfigError(f"--only {key}={wanted}: {choices(wanted, dict.fromkeys(map(text, values)))}")
        listed = [cell for cell, is_chosen in zip(listed, chosen, strict=True) if is_chosen]
    return listed
