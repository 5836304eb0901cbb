"""What the user can put right, and being told to stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGINT, SIGTERM, signal
from threading import current_thread, main_thread


class ConfigError(ValueError):
    """A request that does not work; the message is one readable sentence naming field, value and remedy."""


class Interrupted(Exception):
    """A run was told to stop by `signal` (its number); `checkpoint` holds all that is needed to resume it."""

    def __init__(self, signal: int, checkpoint: str) -> None:
        super().__init__(signal, checkpoint)  # its own arguments: a process that gets it from another makes it again
        self.signal, self.checkpoint = signal, checkpoint

    def __str__(self) -> str:
        return f"stopped by signal {self.signal}; the same call resumes from {self.checkpoint}"


@contextmanager
def stop_signals(*, at_once: bool = False) -> Iterator[list[int]]:
    """While open, collect SIGINT and SIGTERM in a list instead of being ended by them (main thread only).

    at_once: raise KeyboardInterrupt too, for both.
    """
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        received.append(number)
        if at_once:
            raise KeyboardInterrupt

    caught = (SIGINT, SIGTERM) if current_thread() is main_thread() else ()
    before = {number: signal(number, receive) for number in caught}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal(number, handler)
