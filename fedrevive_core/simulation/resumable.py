"""What a checkpoint knows of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fedrevive_core.config import RunConfig


class Resumable(Protocol):
    """What can be saved in the middle and resumed."""

    num_processed: int
    num_resumed: int  # how often it was resumed

    @property
    def version(self) -> int:
        """Version of the global model."""

    def identity(self) -> dict[str, Any]:
        """JSON-able values that must be equal for a checkpoint to be resumed."""

    def differences(self, identity: Mapping[str, Any]) -> list[str]:
        """In which respects `identity`, of a checkpoint, is another than this one's, in words."""

    def made_by(self) -> dict[str, Any]:
        """The code, versions, device and threads that it continues with."""

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to resume."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""


def identity_differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """In which respects the identity `there`, of a checkpoint, is another than that of the run `here`, in words."""
    differing = RunConfig.from_dict(here["config"]).differences(RunConfig.from_dict(there["config"]))
    differing += ["the data itself"] if there["data"] != here["data"] else []
    given = {"model": "model of your own", "beta": "beta of your own", "timeline": "the timeline itself"}
    differing += [words for name, words in given.items() if there["custom"].get(name) != here["custom"].get(name)]
    differing += ["the arrival after which it was branched"] if there["branches"] != here["branches"] else []
    return differing
