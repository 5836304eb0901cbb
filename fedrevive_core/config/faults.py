"""Faults in the federation: what can go wrong with a job, how often, and which job is hit; as data.

A job has at most one fault, drawn when it is dispatched from a random stream of its own: switching a fault on changes
neither which client is picked next nor how long the next job lasts, but for what the fault itself causes.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from fedrevive_core.config.base import Fraction, PositiveFloat, Section

# Codes of faults are places in this tuple. A job's draw is compared with the running sum of their probabilities in this
# order, so raising one probability leaves the faults before it where they were.
FAULTS = ("", "never_return", "crash", "drop_out", "duplicate", "non_finite", "wrong_size", "sign_flip", "scaled")
NEVER_RETURN, CRASH, DROP_OUT, DUPLICATE = 1, 2, 3, 4


class FaultsConfig(Section):
    """Probabilities, for each job, of the one fault that it may have. All off by default."""

    never_return: Fraction = Field(0.0, description="the job is lost; its slot reopens after timeout [ours]")
    timeout: PositiveFloat | None = Field(
        None, description="simulated time from dispatch until a job that never returns is given up [ours]"
    )
    crash: Fraction = Field(0.0, description="the client crashes at a uniform moment of the job, which is lost [ours]")
    drop_out: Fraction = Field(0.0, description="the job arrives, then its client leaves for good [ours]")
    duplicate: Fraction = Field(0.0, description="the upload arrives twice, the copy right after the first [ours]")
    non_finite: Fraction = Field(0.0, description="one number of the returned model is NaN [ours]")
    wrong_size: Fraction = Field(0.0, description="the returned model is one number short [ours]")
    sign_flip: Fraction = Field(0.0, description="the update of the parameters is negated [ours]")
    scaled: Fraction = Field(0.0, description="the update of the parameters is multiplied by scale [ours]")
    scale: PositiveFloat = Field(1000.0, description="factor of a scaled update [ours]")

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Of each fault, in the order of FAULTS[1:]."""
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
            raise ValueError(f"never_return = {self.never_return} needs timeout, when to give a job up")
        return self
