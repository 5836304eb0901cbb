"""What can go wrong by the user's doing, and a run that was told to stop."""

from __future__ import annotations


class ConfigError(ValueError):
    """A request that cannot be carried out; the message is one readable sentence naming field, value and remedy."""


class Interrupted(Exception):
    """A run was told to stop by `signal` (its number); `checkpoint` holds all that is needed to go on."""

    def __init__(self, signal: int, checkpoint: str) -> None:
        super().__init__(f"stopped by signal {signal}; the same call goes on from {checkpoint}")
        self.signal, self.checkpoint = signal, checkpoint
