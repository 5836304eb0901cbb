"""Faults in the federation: what can go wrong with a job, and how often.

A job has at most one fault, drawn at its dispatch from a separate random stream: switching a fault on does not change
which client is picked next or how long the next job lasts, except through the effects of the fault.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from fedrevive_core.config.base import Fraction, PositiveFloat, Section

# A fault's code is its index here. A job's random number is compared with the running sum of the probabilities in this
# order, so raising one probability does not move the faults before it.
FAULTS = ("", "never_return", "crash", "drop_out", "duplicate", "non_finite", "wrong_size", "sign_flip", "scaled")
NEVER_RETURN, CRASH, DROP_OUT, DUPLICATE = 1, 2, 3, 4


class FaultsConfig(Section):
    """Probability of each fault of a job. All are 0 by default."""

    never_return: Fraction = Field(0.0, description="the job is lost; its slot reopens after timeout [ours]")
    timeout: PositiveFloat | None = Field(
        None, description="simulated time after which a job that never returns is given up [ours]"
    )
    crash: Fraction = Field(0.0, description="the client crashes at a random time during the job, which is lost [ours]")
    drop_out: Fraction = Field(0.0, description="the job arrives, then its client leaves permanently [ours]")
    duplicate: Fraction = Field(0.0, description="the upload arrives twice in a row [ours]")
    non_finite: Fraction = Field(0.0, description="one number of the returned model is NaN [ours]")
    wrong_size: Fraction = Field(0.0, description="the returned model lacks one number [ours]")
    sign_flip: Fraction = Field(0.0, description="the update of the parameters is negated [ours]")
    scaled: Fraction = Field(0.0, description="the update of the parameters is multiplied by scale [ours]")
    scale: PositiveFloat = Field(1000.0, description="factor of a scaled update [ours]")

    @property
    def probabilities(self) -> tuple[float, ...]:
        """The probability of each fault, in the order of FAULTS[1:]."""
        return tuple(getattr(self, name) for name in FAULTS[1:])

    @model_validator(mode="after")
    def _check(self) -> FaultsConfig:
        if sum(self.probabilities) > 1 + 1e-9:
            raise ValueError(
                f"faults have probabilities that sum to {sum(self.probabilities):.4g}: at most 1 is allowed"
            )
        if self.never_return + self.crash >= 1:
            raise ValueError(
                f"never_return = {self.never_return} and crash = {self.crash} lose every job: their sum must be below 1"
            )
        if self.never_return > 0 and self.timeout is None:
            raise ValueError(
                f"never_return = {self.never_return} needs timeout, the time after which a job is given up"
            )
        return self
