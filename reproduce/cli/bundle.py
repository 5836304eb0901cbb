"""The command that makes a bundle for a lab without a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedrevive_core.config import choices
from fedrevive_core.errors import ConfigError
from reproduce.classroom.bundle import PLATFORMS, write_bundle
from reproduce.cli.options import directory, listed, one_of

HERE = {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")


def bundle(
    out: Annotated[Path, directory("New directory for the bundle.")],
    platform: Annotated[
        str, one_of("--platform", PLATFORMS, f"System of the laptops. One of {listed(PLATFORMS)}.")
    ] = HERE,
    python: Annotated[
        str, typer.Option("--python", metavar="VERSION", help="Version of Python on the laptops, such as `3.12`.")
    ] = f"{sys.version_info.major}.{sys.version_info.minor}",
    gpu: Annotated[
        bool, typer.Option("--gpu", help="For Linux with NVIDIA GPUs; PyTorch is many times larger then.")
    ] = False,
) -> None:
    """Download everything that a laptop needs to install the course without a network, with scripts that do so.

    Copy the directory to the laptops. They need Python, of this version, and nothing else. Needs uv (`pip install uv`).

    ```
    fedrevive classroom bundle --platform windows --out build/bundle
    ```
    """
    if platform not in PLATFORMS:
        raise ConfigError(f"platform = '{platform}' is unknown: {choices(platform, PLATFORMS)}")
    write_bundle(out, platform, python, gpu=gpu)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"The bundle ({size / 1e6:,.0f} MB) is in {out}; its README.md says what to do on a laptop.")
