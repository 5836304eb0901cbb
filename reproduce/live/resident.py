"""What stays on a device while Flower starts a new process for every message: a trainer, and Flower itself, imported.

A SuperNode starts the program `flwr-clientapp` for each message, and its imports take seconds. So the node puts a small
program of that name in its way, which only says what it was asked. The resident then forks a process that has Flower
already, and this one asks the resident to train. All of it happens on this machine, at a port that needs a key which
only the node's own children know; what is said is JSON and bytes, never pickle.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from reproduce.live.wire import pack, unpack

PORT, KEY = "FEDREVIVE_PORT", "FEDREVIVE_KEY"
CLIENT_APP = "flwr-clientapp"
STAND_IN = f"""#!{sys.executable} -IS
import json, os, sys
from multiprocessing.connection import Client
with Client(("127.0.0.1", int(os.environ["{PORT}"])), authkey=bytes.fromhex(os.environ["{KEY}"])) as resident:
    resident.send_bytes(json.dumps({{"arguments": sys.argv[1:]}}).encode())
"""


def connect() -> Connection:
    """A connection to the resident of this node."""
    return Client(("127.0.0.1", int(os.environ[PORT])), authkey=bytes.fromhex(os.environ[KEY]))


def ask(words: Mapping[str, Any], state: bytes) -> bytes:
    """The answer of this node's trainer to a message; without a resident, this process trains itself.

    words: those of the server, with config, client, slowdown and preset of this node.
    """
    message = pack(words, state)
    if PORT not in os.environ:
        return Answers().answer(message)
    with connect() as connection:
        connection.send_bytes(message)
        return connection.recv_bytes()


class Answers:
    """What a client answers; it keeps its data and its model as long as the run is the same."""

    def __init__(self) -> None:
        self.kept: Any = None
        self.settings: list[Any] = []

    def answer(self, message: bytes, *, warm: bool = False) -> bytes:
        """The answer to `message`. warm: train once before, so that the first job does not last longer."""
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
    """Serves the processes that Flower starts on this device. The environment of this process says where it is."""

    def __init__(self) -> None:
        key = secrets.token_bytes(32)
        self.listener = Listener(("127.0.0.1", 0), authkey=key)
        os.environ |= {PORT: str(self.listener.address[1]), KEY: key.hex()}
        self.children: list[int] = []

    def stand_in(self, folder: Path) -> None:
        """Import Flower, and write to `folder`, which comes first on PATH, the program that spares it to others.

        Only where a process can be forked; elsewhere each imports Flower.
        """
        if hasattr(os, "fork"):
            self.client_app = next(iter(entry_points(group="console_scripts", name=CLIENT_APP))).load()
            (folder / CLIENT_APP).write_text(STAND_IN, encoding="utf-8")
            (folder / CLIENT_APP).chmod(0o700)
            os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"

    def serve(self) -> None:
        """Answer one after the other until `end` is called, from another thread."""
        answers = Answers()
        with self.listener:
            while True:
                with suppress(AuthenticationError, OSError, EOFError), self.listener.accept() as connection:
                    message = connection.recv_bytes()
                    if not message:
                        return
                    words, _ = unpack(message)
                    if "arguments" not in words:
                        connection.send_bytes(answers.answer(message, warm=True))
                        continue
                    connection.close()
                    self._fork(words["arguments"])

    def _fork(self, arguments: list[str]) -> None:
        """Do in a process of its own what Flower's program does when it is started with these arguments."""
        self.children = [child for child in self.children if os.waitpid(child, os.WNOHANG) == (0, 0)]
        if child := os.fork():
            self.children.append(child)
            return
        code = 1
        try:
            self.listener.close()
            sys.argv = [CLIENT_APP, *arguments]
            self.client_app()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def end(self) -> None:
        """Let `serve` return after what it is doing."""
        with suppress(OSError, EOFError), connect() as connection:  # unless it has ended
            connection.send_bytes(b"")
