"""What server and clients say to each other: a line of JSON and a model's state as float32, never pickle.

A client says hello once; after that it is heard only when it has a job. Nothing that a client sends is trusted: a
message has a largest size, and its values are checked one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

import fedrevive_core
from fedrevive_core.config import RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.records import code_hash

NOBODY = -1  # in place of the number of a client that is not known


class Event(NamedTuple):
    """What the server learns of a `client`: it has 'joined', sends a 'result', is 'gone' or was 'refused'.

    client: NOBODY if it was refused before it said who it is. state: bytes of the result. why: it is gone or refused.
    """

    client: int
    kind: str
    state: bytes = b""
    why: str = ""


class Transport(Protocol):
    """How jobs reach clients and results come back; the server knows no more of them than this."""

    @property
    def given_up(self) -> list[int]:
        """Clients that will not come back."""

    def send(self, client: int, job: int, state: bytes) -> None:
        """Give `client`, which has joined and has no job, the job with its number and the state to start from."""

    def wait(self, seconds: float) -> list[Event]:
        """What has happened since the last call; waits for something, `seconds` at most."""

    def drop(self, client: int, why: str) -> None:
        """Part with a client; it is reported as gone, and may join again."""

    def close(self) -> None:
        """Part with all clients for good."""


def to_bytes(state: np.ndarray) -> bytes:
    """A state (size,) as little-endian float32."""
    return np.ascontiguousarray(state, dtype="<f4").tobytes()


def from_bytes(state: bytes) -> np.ndarray:
    """The state (size,) in `state`, float32 and writable. Raises ValueError if the bytes are not whole numbers of 4."""
    return np.frombuffer(state, dtype="<f4").astype(np.float32)


def package() -> dict[str, str]:
    """Which version of this package it is."""
    return {"version": fedrevive_core.__version__, "code": code_hash()}


def hello(client: int, config: RunConfig, data: str) -> dict[str, Any]:
    """What a client says of itself first; `data` is the fingerprint of the data set."""
    return {"client": client, **package(), "config": config.to_dict(), "data": data}


def check_hello(words: Mapping[str, Any], client: int, config: RunConfig, data: str) -> str:
    """Why the server refuses the client that says `words`, naming both sides; '' if it does not."""
    ours = hello(client, config, data)
    if words.get("client") != client:
        return f"it calls itself client {words.get('client')!r:.20}, and its line is that of client {client}"
    if (words.get("version"), words.get("code")) != (ours["version"], ours["code"]):
        theirs = f"{words.get('version')!s:.20} (code {words.get('code')!s:.12})"
        return f"it has version {theirs} of the package, and the server {ours['version']} (code {ours['code'][:12]})"
    if why := words.get("why"):
        return f"it cannot take part: {why!s:.300}"
    try:
        other = RunConfig.from_dict(words.get("config") or {})
    except ConfigError as error:
        return f"its settings cannot be read: {error!s:.200}"
    if other.preset != config.preset:
        return f"it has the preset {other.preset}, and the server {config.preset}"
    if differing := config.differences(other):
        return f"it has other settings than the server: {differing[0]!s:.200}"
    return "it has other data than the server" if words.get("data") != data else ""
