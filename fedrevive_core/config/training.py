"""Sections of the configuration: what a client does with a job, and who teaches it there."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedrevive_core.config.base import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


class LessonConfig(Section):
    """What a client learns from another model on its own samples: loss = cross-entropy + weight * T^2 KL."""

    teacher: Literal["none", "returned", "current"] = Field(
        "none",
        description="who teaches: nobody; in a job, one of the models returned last [arXiv 2403.09086]; after a job "
        "whose start is stale, in further steps, the current model [arXiv 2504.04081]",
    )
    weight: NonNegativeFloat = Field(1.0, description="of the teacher's part of the loss [ours]")
    temperature: PositiveFloat = Field(1.0, description="T, softmax temperature of a lesson [ours]")
    rise: NonNegativeInt = Field(
        0, description="versions over which weight rises from 0 in a line; the papers' shape is not known to us [ours]"
    )
    kept: PositiveInt = Field(16, description="returned: teachers are drawn from that many returned models [ours]")
    steps: PositiveInt = Field(5, description="current: optimiser steps of a correction [ours]")

    @property
    def source(self) -> str:
        """Who teaches; 'none' too where the weight is 0, since then nothing is taught."""
        return self.teacher if self.weight > 0 else "none"

    def weight_at(self, version: int) -> float:
        """The weight while `version` is the global model."""
        return self.weight if version >= self.rise else self.weight * version / self.rise


class TrainingConfig(Section):
    """What a client does with a job."""

    steps: PositiveInt = Field(25, description="Q, optimiser steps of a job [authors]")
    batch_size: PositiveInt = Field(32, description="samples per step, fewer at the end of a pass [authors]")
    lr: PositiveFloat = Field(description="Adam learning rate [authors]")
    lesson: LessonConfig = Field(LessonConfig(), description="what another model teaches a client [ours]")
