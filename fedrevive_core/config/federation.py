"""Sections of the configuration: the federation, the delays of its jobs, and named schedules of delays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedrevive_core.config.base import Finite, NonNegativeFloat, PositiveFloat, PositiveInt, Section, choices
from fedrevive_core.config.faults import FaultsConfig


class Delay(Section):
    """One duration of a job, in simulated time. Each client draws a mean once; each of its jobs draws around it."""

    kind: Literal["constant", "exponential", "uniform", "lognormal", "pareto"] = Field(
        description="distribution around the mean [authors; lognormal and pareto, with heavy tails: ours]"
    )
    means: tuple[NonNegativeFloat, ...] = Field(min_length=1, description="possible means of a client [authors]")
    odds: tuple[NonNegativeFloat, ...] = Field(min_length=1, description="probability of each mean [authors]")
    half_width: NonNegativeFloat = Field(0.0, description="only for uniform: a duration is mean +- this [authors]")
    sigma: NonNegativeFloat = Field(1.0, description="only for lognormal: standard deviation of the logarithm [ours]")
    shape: Annotated[Finite, Field(gt=1)] = Field(
        2.0, description="only for pareto: P(duration > x) ~ x^-shape; the mean exists above 1 [ours]"
    )

    @model_validator(mode="after")
    def _check(self) -> Delay:
        if len(self.odds) != len(self.means) or abs(sum(self.odds) - 1) > 1e-9:
            raise ValueError(f"odds = {self.odds} must hold one probability per mean in {self.means} and sum to 1")
        if self.half_width > min(self.means):
            raise ValueError(
                f"half_width = {self.half_width} would allow negative durations: at most {min(self.means)}"
            )
        return self


class Schedule(Section):
    """The three durations of a job: download of the model, local training, upload of the update."""

    training: Delay = Field(description="local training [authors]")
    download: Delay = Field(description="server to client [authors]")
    upload: Delay = Field(description="client to server [authors]")


def _delay(kind: str, means: list[float], odds: list[float] | None = None, half_width: float = 0.0) -> dict[str, Any]:
    odds = odds or [1 / len(means)] * len(means)
    return {"kind": kind, "means": means, "odds": odds, "half_width": half_width}


SCHEDULES: dict[str, dict[str, Any]] = {
    "default": {
        "training": _delay("exponential", [1.0, 1.3, 1.6], [0.25, 0.5, 0.25]),
        "download": _delay("constant", [0.1]),
        "upload": _delay("uniform", [0.15, 0.25], half_width=0.02),
    },
    # The same mean durations as "default", but most jobs are faster and a few take very long.
    "stragglers": {
        "training": {**_delay("pareto", [1.0, 1.3, 1.6], [0.25, 0.5, 0.25]), "shape": 1.5},
        "download": _delay("constant", [0.1]),
        "upload": {**_delay("lognormal", [0.15, 0.25]), "sigma": 1.0},
    },
    "shifted": {
        "training": _delay("exponential", [0.1]),
        "download": _delay("constant", [0.02]),
        "upload": _delay("uniform", [0.05, 0.10], half_width=0.01),
    },
}
SCHEDULES["devices"] = SCHEDULES["default"]  # not used: durations follow from the section `devices`


class DevicesConfig(Section):
    """Real devices in place of random delays: a job lasts as long as its steps and bytes take its device."""

    trace: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        None,
        description="'synthetic', or a directory with availability and speed of devices, which say in place of the "
        "schedule how long jobs last [ours]",
    )
    unfinished: Literal["paused", "lost"] = Field(
        "paused", description="what becomes of a job when its device leaves: it continues later, or is lost [ours]"
    )
    steps: PositiveInt | None = Field(None, description="local steps of a job; unset: training.steps [ours]")
    model_bytes: PositiveInt | None = Field(
        None, description="bytes of one download and of one upload; unset: 4 for each number of the model [ours]"
    )


class FederationConfig(Section):
    """Who takes part and when: everything that the timeline needs."""

    num_clients: PositiveInt = Field(description="N, number of clients [authors]")
    concurrency: PositiveInt = Field(description="K, largest number of jobs in flight [authors]")
    buffer_size: PositiveInt = Field(1, description="B, updates per new version; 'concurrency' for B = K [authors]")
    refill_size: PositiveInt = Field(
        1,
        description="O, number of open slots that triggers dispatch; 'concurrency' for synchronous rounds [authors]",
    )
    schedule: Schedule = Field(
        description="'default', 'shifted', 'stragglers', 'devices', or three delays written out [authors]"
    )
    max_sim_time: PositiveFloat | None = Field(None, description="budget in simulated time, unitless [authors]")
    max_versions: PositiveInt | None = Field(None, description="budget in versions of the global model [authors]")
    devices: DevicesConfig = Field(DevicesConfig(), description="who is there when, and how fast; with a trace [ours]")
    faults: FaultsConfig = Field(FaultsConfig(), description="what can go wrong with jobs, and how often [ours]")
    timeline: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        None,
        description="run, or .csv or .parquet file, whose arrivals happen again; schedule, refill_size and the "
        "probabilities of faults are not used then, and a budget can only end it earlier [ours]",
    )
    time_unit: PositiveFloat = Field(
        1.0, description="seconds of a table of `timeline`, or of devices, that are one unit of simulated time [ours]"
    )

    @property
    def reads_files(self) -> bool:
        """Whether the timeline comes from files, which may change."""
        return self.timeline is not None or self.devices.trace not in (None, "synthetic")

    @model_validator(mode="before")
    @classmethod
    def _resolve_names(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        for field in ("buffer_size", "refill_size"):
            if values.get(field) == "concurrency":
                values[field] = values.get("concurrency")
            elif isinstance(values.get(field), str):
                raise ValueError(f"{field} = '{values[field]}' must be a whole number or 'concurrency'")
        schedule, devices = values.get("schedule"), values.get("devices", {})
        if isinstance(schedule, str):
            if schedule not in SCHEDULES:
                raise ValueError(f"schedule = '{schedule}' is unknown: {choices(schedule, SCHEDULES)}")
            values["schedule"] = SCHEDULES[schedule]
            if schedule == "devices" and isinstance(devices, Mapping):
                values["devices"] = {**devices, "trace": devices.get("trace") or "synthetic"}
        return values

    @model_validator(mode="after")
    def _check(self) -> FederationConfig:
        if self.concurrency > self.num_clients:
            raise ValueError(f"concurrency = {self.concurrency} must be at most num_clients = {self.num_clients}")
        if self.refill_size > self.concurrency:
            raise ValueError(f"refill_size = {self.refill_size} must be at most concurrency = {self.concurrency}")
        if self.timeline is not None:
            return self
        if self.devices.trace is not None and self.schedule != Schedule.from_dict(SCHEDULES["devices"]):
            raise ValueError("devices.trace and schedule both say how long jobs last: give schedule = 'devices'")
        if self.max_sim_time is None and self.max_versions is None:
            raise ValueError("max_sim_time and max_versions are both unset: give at least one budget")
        shortest = [
            min(delay.means) for delay in (self.schedule.training, self.schedule.download, self.schedule.upload)
        ]
        if self.max_versions is None and not any(shortest):
            raise ValueError(
                "schedule allows jobs that take no time at all, which never reach max_sim_time: set max_versions"
            )
        return self
