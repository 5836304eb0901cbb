"""Delays of a federation: how long the three parts of a job last, and named schedules, as data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedrevive_core.validation import Finite, NonNegativeFloat, Section


class Delay(Section):
    """One duration of a job, in simulated time. A client draws its persistent mean once; a job draws around it."""

    kind: Literal["constant", "exponential", "uniform", "lognormal", "pareto"] = Field(
        description="distribution around the mean [authors; lognormal and pareto, of heavy tails: ours]"
    )
    means: tuple[NonNegativeFloat, ...] = Field(min_length=1, description="means a client may draw [authors]")
    odds: tuple[NonNegativeFloat, ...] = Field(min_length=1, description="probability of each mean [authors]")
    half_width: NonNegativeFloat = Field(0.0, description="uniform only: the job's draw is mean +- this [authors]")
    sigma: NonNegativeFloat = Field(1.0, description="lognormal only: deviation of the draw's logarithm [ours]")
    shape: Annotated[Finite, Field(gt=1)] = Field(
        2.0, description="pareto only: longer than x with probability ~ x^-shape; above 1, for a mean to exist [ours]"
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
    # The mean durations of "default", but most jobs are quicker and a few take very long.
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
