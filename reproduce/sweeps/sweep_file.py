"""`sweep.json`: what a sweep says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from fedrevive_core.config import NonNegativeInt, Section
from fedrevive_core.errors import ConfigError
from fedrevive_core.records import read_json
from reproduce.sweeps.experiment import NAME


class CellName(Section):
    """A cell as `sweep.json` names it."""

    run: Annotated[str, Field(pattern=NAME, max_length=250)]
    arm: Annotated[str, Field(pattern=NAME)]
    seed: NonNegativeInt
    grid: dict[str, Any]


class SweepFile(Section):
    """What `sweep.json` holds."""

    model_config = ConfigDict(extra="allow")

    experiment: str
    scale: str
    device: str
    code: str
    cells: list[CellName] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> SweepFile:
        if len({cell.run for cell in self.cells}) < len(self.cells):
            raise ValueError("cells: a run stands there twice")
        if len({tuple(cell.grid) for cell in self.cells}) > 1:
            raise ValueError("cells: their grids have different fields")
        return self


def header(out: Path) -> dict[str, Any]:
    """What `sweep.json` in `out` holds. Raises ConfigError if it cannot be read."""
    try:
        values = read_json(out / "sweep.json")
        SweepFile.from_dict(values)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{out} does not hold a readable sweep: {error}") from None
    return values
