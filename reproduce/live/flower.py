"""A live run as a Flower app: it is given to a SuperLink, which starts it; its clients are SuperNodes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from packaging.version import Version

import fedrevive_core
from fedrevive_core.config import RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.records import Record
from reproduce.runs.output import OutputDirectory

LOWEST, BELOW = "1.42", "2"  # versions of Flower that this was written for
HERE = "here"  # the name of a SuperLink that is started for one run
START = 60.0  # seconds that it has for that
GRACE = 10.0  # seconds that a program of Flower's has to end
# No telemetry, no question whether there is a newer version; a SuperNode looks ten times a second for work to begin.
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}


def check_flower() -> None:
    """Raise ConfigError if Flower is not installed, or is of a version that is not supported."""
    try:
        found = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError('Flower is not installed: pip install -e ".[flower]", without constraints.txt') from None
    if not Version(LOWEST) <= Version(found) < Version(BELOW):
        raise ConfigError(f"Flower {found} is not supported: install flwr>={LOWEST},<{BELOW}")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What Flower's programs are started with: they find each other, and those of this environment first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**ENVIRONMENT, **os.environ, "PATH": path, **(more or {})}


def program(name: str) -> str:
    """The path of one of Flower's programs."""
    return str(Path(sys.executable).with_name(f"{name}.exe" if os.name == "nt" else name))


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_flower(
    config: RunConfig, slowdowns: Sequence[float], timeout: float, output: OutputDirectory, resume: bool, superlink: str
) -> Record:
    """Let the SuperLink of that name (in Flower's config.toml; '': one that is started here) run `config`.

    The record is saved where `output` says, by the process that the SuperLink starts. Raises ConfigError if it is not.
    """
    check_flower()
    with TemporaryDirectory(prefix="fedrevive-flower-") as folder:
        app = write_app(Path(folder) / "app", config, timeout, output, resume)
        if superlink:
            submit(app, superlink, environment())
        else:
            with federation(Path(folder), slowdowns) as home:
                submit(app, HERE, environment({"FLWR_HOME": str(home)}))
    if not (output.out / "run.json").exists():
        raise ConfigError("the run has ended without a record: the lines above say why; --resume continues it")
    output.is_finished = True
    return Record.load(output.out)


def write_app(folder: Path, config: RunConfig, timeout: float, output: OutputDirectory, resume: bool) -> Path:
    """Write the Flower app, which is a pyproject.toml that names what is installed everywhere; returns `folder`."""
    run = {
        "out": str(output.out.absolute()),
        "every": output.every,
        "resume": resume,
        "other_code": output.allow_other_code,
        "timeout": timeout,
    }
    text, asked = (json.dumps(json.dumps(value), ensure_ascii=False) for value in (config.to_dict(), run))
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        f"""[project]
name = "fedrevive-live"
version = "{fedrevive_core.__version__}"

[tool.flwr.app]
publisher = "fedrevive"

[tool.flwr.app.components]
serverapp = "reproduce.live.flower_server:app"
clientapp = "reproduce.live.flower_client:app"

[tool.flwr.app.config]
config = {text}
run = {asked}
""",
        encoding="utf-8",
    )
    return folder


def submit(app: Path, superlink: str, env: Mapping[str, str]) -> None:
    """Give the app to a SuperLink, and print what it says until it has ended."""
    command = [program("flwr"), "run", str(app), superlink, "--stream"]
    subprocess.run(command, env=env, stdout=sys.stderr, check=False)


@contextmanager
def federation(folder: Path, slowdowns: Sequence[float]) -> Iterator[Path]:
    """A SuperLink and a SuperNode for each client, on this machine, while the block lasts; gives Flower's home."""
    port, home = free_port(), folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{HERE}"\n\n[superlink.{HERE}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    started: list[subprocess.Popen[bytes]] = []
    with open(folder / "log.txt", "wb") as log:
        try:
            command = [program("flower-superlink"), "--insecure", "--port", str(port)]
            started.append(start([*command, "--disable-runtime-dependency-installation"], home, log))
            wait_for(port, started[0], folder / "log.txt")
            for client, slowdown in enumerate(slowdowns):
                words = ["--superlink", f"127.0.0.1:{port}", "--client", str(client), "--slowdown", str(slowdown)]
                command = [sys.executable, "-m", "reproduce", "node", *words, "--", "--insecure"]
                started.append(start(command, folder / f"node-{client}", log))
            yield home
        finally:
            end(started[1:])  # the nodes first: they wait long for a SuperLink that is not there
            end(started[:1])


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let them end, the last first; what does not within some seconds is killed."""
    for process in reversed(processes):
        process.terminate()
    for process in reversed(processes):
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start(command: Sequence[str], home: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start one of the programs, with a home of its own for Flower."""
    env = environment({"FLWR_HOME": str(home)})
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when something listens at `port`. Raises ConfigError if `process`, which is to do so, does not."""
    latest = time.monotonic() + START
    while time.monotonic() < latest and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    last = " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-300:]
    raise ConfigError(f"Flower's SuperLink has not started: {last}")
