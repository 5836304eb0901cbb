"""One device of a federation: Flower's SuperNode, and beside it what stays while messages come and go."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from reproduce.live.flower import check_flower, end, environment, free_port, program
from reproduce.live.resident import Resident


def run_node(superlink: str, client: int, slowdown: float, preset: str, options: Sequence[str]) -> int:
    """Be client number `client` until the SuperNode ends; returns its exit code.

    preset: the only one that it takes part in; '' for any. options: more of `flower-supernode`.
    """
    check_flower()
    os.environ |= environment()
    settings = f'partition-id={client} slowdown={slowdown} preset="{preset}"'
    command = [program("flower-supernode"), "--superlink", superlink, "--node-config", settings]
    command += [] if "--port" in options else ["--port", str(free_port())]
    with TemporaryDirectory(prefix="fedrevive-node-") as folder:
        resident = Resident()
        resident.stand_in(Path(folder))
        process = subprocess.Popen([*command, *options])

        def watch() -> None:
            process.wait()
            resident.end()

        Thread(target=watch, daemon=True).start()
        try:
            resident.serve()
        finally:
            end([process])
    return process.returncode
