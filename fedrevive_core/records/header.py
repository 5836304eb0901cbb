"""What `run.json` holds, checked field by field, and what proves that nobody changed it or the files beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from fedrevive_core.config import NonNegativeInt, RunConfig, Section
from fedrevive_core.errors import ConfigError
from fedrevive_core.records.safe_load import read_json

Text = Annotated[str, Field(max_length=1000, strict=True)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, Field(strict=True)]  # also NaN: of a class without samples
Value = Number | Text | bool | None


class Altered(ConfigError):
    """A record whose files are not what its run wrote."""


class Summary(Section):
    """Numbers that compare runs; further ones may be added."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Value | dict[Text, Value]]

    num_parameters: NonNegativeInt | None = None
    sim_time: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    model: Text = ""
    stopped: Text = ""
    time_to: dict[Text, Number | None] = Field({})
    class_accuracy: dict[Text, Number] = Field({})
    speed_group_accuracy: dict[Text, Number] = Field({})
    faults: dict[Text, NonNegativeInt] = Field({})
    rejected: dict[Text, NonNegativeInt] = Field({})
    state_sha256: Sha256 | None = None
    timeline_sha256: Sha256 | None = None
    certificate: Sha256 | None = None


class Part(Section):
    """What made a part of a run; further entries may be added."""

    model_config = ConfigDict(extra="allow")

    first_arrival: NonNegativeInt
    code: Text = ""
    versions: dict[Text, Text | None] = Field({})


class Provenance(Section):
    """Where a run was made; further entries may be added."""

    model_config = ConfigDict(extra="allow")

    versions: dict[Text, Text | None]
    device: Text
    num_threads: Annotated[int, Field(ge=1, le=1024, strict=True)]
    git_commit: Text | None = None
    own: dict[Text, Text] = Field({})
    data_sha256: Text = ""
    num_resumed: NonNegativeInt = 0
    branches: list[dict[Text, Any]] = Field([])
    segments: list[Part] = Field([])


class Header(Section):
    """The whole of `run.json`.

    tensors: names of the model's tensors, in the order in which they make up its state. files: SHA-256 of every other
    file of the record. seal: of everything else in this one. Older records have none of the three.
    """

    config: RunConfig
    summary: Summary
    provenance: Provenance
    tensors: list[Text] = Field([])
    files: dict[Text, Sha256] = Field({})
    seal: Sha256 | None = None


def seal(values: Mapping[str, Any]) -> str:
    """SHA-256 of what a header holds, without its seal."""
    return hashlib.sha256(json.dumps({**values, "seal": None}, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_header(directory: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration and all values in `run.json`. Raises ConfigError or ValueError if one is not as it must be."""
    values = read_json(directory / "run.json")
    return Header.from_dict(values).config, values


def check_seal(directory: Path, values: Mapping[str, Any], names: list[str]) -> None:
    """Raise Altered if the header, or one of the files with these `names`, is not what the run wrote."""
    if values.get("seal") not in (None, seal(values)):
        raise Altered(f"{directory} is not what its run left: run.json changed since")
    for name, expected in values.get("files", {}).items():
        if name in names and file_sha256(directory / name) != expected:
            raise Altered(f"{directory} is not what its run left: {name} changed since")
