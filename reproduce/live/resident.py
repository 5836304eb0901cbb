"""The trainer of a node. Flower starts a new process for every message, and this one stays.

So a message costs no import of PyTorch and no loading of data. The new process reaches it at a port of this machine
with a key that only its children know. What comes is bytes, never pickle.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from typing import Any

from reproduce.live.wire import pack, unpack

PORT, KEY = "FEDREVIVE_TRAINER_PORT", "FEDREVIVE_TRAINER_KEY"


def ask(words: Mapping[str, Any], state: bytes) -> bytes:
    """The answer of this node's trainer to a message; without one, this process does the work itself.

    words: those of the server, with config, client, slowdown and preset of this node.
    """
    message = pack(words, state)
    if PORT not in os.environ:
        return Answers().answer(message)
    with Client(("127.0.0.1", int(os.environ[PORT])), authkey=bytes.fromhex(os.environ[KEY])) as connection:
        connection.send_bytes(message)
        return connection.recv_bytes()


class Answers:
    """What a client answers; it keeps its data and its model as long as the run is the same."""

    def __init__(self) -> None:
        self.kept: Any = None
        self.settings: list[Any] = []

    def answer(self, message: bytes, *, warm: bool = False) -> bytes:
        """The answer to `message`. warm: train once for nothing first, so that no job lasts longer for being first."""
        from fedrevive_core.errors import ConfigError
        from reproduce.live.messages import package
        from reproduce.live.trainer import Trainer

        words, state = unpack(message)
        settings = [words["config"], words["client"], words["slowdown"]]
        try:
            if self.settings != settings:
                self.kept = Trainer(*settings)
                self.settings = settings
                if warm:
                    self.kept.warm_up()
        except ConfigError as error:
            return pack({"client": words["client"], **package(), "why": str(error)})
        if "hello" not in words:
            return pack({"job": words["job"]}, self.kept.train(words["job"], state))
        said = self.kept.hello()
        if words["preset"]:  # the only one that the owner of this node takes part in
            said["config"]["preset"] = words["preset"]
        return pack(said)


class Resident:
    """A trainer that serves the children of this process, which find it by `environment`, until it is told to end."""

    def __init__(self) -> None:
        key = secrets.token_bytes(32)
        self.listener = Listener(("127.0.0.1", 0), authkey=key)
        self.environment = {PORT: str(self.listener.address[1]), KEY: key.hex()}

    def serve(self) -> None:
        """Answer one after the other until `end` is called, from another thread."""
        answers = Answers()
        with self.listener:
            while True:
                with suppress(AuthenticationError, OSError, EOFError), self.listener.accept() as connection:
                    message = connection.recv_bytes()
                    if not message:
                        return
                    connection.send_bytes(answers.answer(message, warm=True))

    def end(self) -> None:
        """Let `serve` return after what it is doing."""
        key = bytes.fromhex(self.environment[KEY])
        with Client(("127.0.0.1", int(self.environment[PORT])), authkey=key) as connection:
            connection.send_bytes(b"")
