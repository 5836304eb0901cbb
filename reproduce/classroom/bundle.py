"""Everything that a laptop needs to install the course without a network: wheels for one platform, and scripts.

uv chooses the versions, as it can for platforms other than this one; pip downloads the wheels.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import reproduce
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_directory, check_free, writing

ROOT = Path(reproduce.__file__).parents[1]
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"  # PyTorch's own; on PyPI the wheels for Linux are for NVIDIA GPUs


@dataclass(frozen=True)
class Platform:
    """What uv and pip call a platform, and how one calls Python there."""

    uv: str
    tags: tuple[str, ...]  # of wheels, beside those for any platform
    python: str  # the command, with the version at `{}`


PLATFORMS = {
    "linux": Platform(
        "x86_64-manylinux_2_28",
        (*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "manylinux2014_x86_64", "manylinux2010_x86_64",
         "manylinux1_x86_64", "linux_x86_64"),
        "python{}",
    ),
    "windows": Platform("x86_64-pc-windows-msvc", ("win_amd64",), "py -{}"),
    "macos": Platform("aarch64-apple-darwin", ("macosx_13_0_arm64",), "python{}"),
}  # fmt: skip

INSTALL_SH = """\
#!/bin/sh
# Installs the course below this folder, in `env`; nothing is downloaded.
set -e
cd "$(dirname "$0")"
command -v {python} >/dev/null || {{ echo "Python {version} is needed, as {python}"; exit 1; }}
{python} -m venv env
env/bin/python -m pip install --quiet --no-index --find-links wheels -r requirements.txt
echo "Installed. Open the notebooks with: ./lab.sh"
"""
LAB_SH = """\
#!/bin/sh
cd "$(dirname "$0")"
exec env/bin/python -m reproduce lab fedrevive-lab -- "$@"
"""
INSTALL_BAT = """\
@echo off
rem Installs the course below this folder, in env; nothing is downloaded. Not tried: we had no Windows.
cd /d "%~dp0"
{python} -m venv env
if errorlevel 1 (echo Python {version} is needed, as {python} & exit /b 1)
env\\Scripts\\python -m pip install --quiet --no-index --find-links wheels -r requirements.txt
if errorlevel 1 exit /b 1
echo Installed. Open the notebooks with: lab.bat
"""
LAB_BAT = """\
@echo off
cd /d "%~dp0"
env\\Scripts\\python -m reproduce lab fedrevive-lab -- %*
"""
READ_ME = """\
# FedRevive: a lab without a network

For {platform} ({tag}) with Python {version}. {torch}

1. Copy this folder to the laptop ({megabytes:,} MB; installed, two to four times as much).
2. Run `{install}` in it. It makes an environment in the folder `env`, from the wheels here; nothing is downloaded.
3. `{lab}` copies the notebooks to `fedrevive-lab` beside it, and opens them in JupyterLab.

`{doctor}` says what is installed and what would fail. To begin again, remove `env`.
{untried}"""


def write_bundle(out: Path, platform: str, python: str, *, gpu: bool) -> Path:
    """Write the bundle to the new directory `out`, and return it.

    Args:
        platform: one of PLATFORMS.
        python: the version on the laptops, such as '3.12'.
        gpu: with a PyTorch for NVIDIA GPUs, where that is another one.

    Raises ConfigError outside a checkout, without uv or pip, and if a wheel cannot be built or downloaded.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise ConfigError("a bundle is made of the sources: run this command in a checkout of the repository")
    for tool in ("pip", "uv"):
        if importlib.util.find_spec(tool) is None:
            raise ConfigError(f"{tool} is not installed here: python -m pip install {tool}")
    if not re.fullmatch(r"3\.\d{1,2}", python) or int(python[2:]) < 11:
        raise ConfigError(f"python = '{python}' must be the version on the laptops, 3.11 or newer, such as 3.12")
    at, own_torch = PLATFORMS[platform], platform == "linux" and not gpu
    check_free(out)
    with writing(out), atomic_directory(out) as work:
        wheels = work / "wheels"
        _run("uv", "build", "--quiet", "--out-dir", wheels, ROOT)
        # uv builds the wheel of a source archive, so that nothing that is left in `build` gets in.
        for file in wheels.iterdir():
            if file.suffix != ".whl":
                file.unlink()
        (project,) = wheels.iterdir()
        wanted = work / "requirements.txt"
        wanted.write_text(f"{project.as_posix()}[notebooks]\n", encoding="utf-8")
        _run(
            "uv", "pip", "compile", wanted, "--output-file", wanted, "--constraint", ROOT / "constraints.txt",
            "--python-platform", at.uv, "--python-version", python, "--no-header", "--no-annotate", "--quiet",
            *(["--torch-backend", "cpu"] if own_torch else []),
        )  # fmt: skip
        lines = [line for line in wanted.read_text(encoding="utf-8").splitlines() if re.match(r"[\w.-]+==", line)]
        wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
        _run(
            "pip", "download", "--no-deps", "--only-binary=:all:", "--requirement", wanted, "--dest", wheels,
            "--implementation=cp", f"--python-version={python}", *(f"--platform={tag}" for tag in at.tags),
            *([f"--extra-index-url={CPU_WHEELS}"] if own_torch else []),
        )  # fmt: skip
        version = project.name.split("-")[1]
        wanted.write_text("\n".join([*lines, f"fedrevive=={version}"]) + "\n", encoding="utf-8")
        _write_scripts(work, platform, python, own_torch)
    return out


def _run(module: str, *arguments: str | Path) -> None:
    """Run `python -m MODULE`; what it prints goes to standard error. Raises ConfigError if it fails."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if subprocess.run(command, stdout=2, stdin=subprocess.DEVNULL, check=False).returncode:
        raise ConfigError(
            f"{module} {arguments[0]} failed, it says why above: is there a network, and room on the disk?"
        )


def _write_scripts(work: Path, platform: str, version: str, own_torch: bool) -> None:
    at, windows = PLATFORMS[platform], platform == "windows"
    python = at.python.format(version)
    scripts = (
        {"install.bat": INSTALL_BAT, "lab.bat": LAB_BAT} if windows else {"install.sh": INSTALL_SH, "lab.sh": LAB_SH}
    )
    for name, text in scripts.items():
        path = work / name
        path.write_text(
            text.format(python=python, version=version), encoding="utf-8", newline="\r\n" if windows else "\n"
        )
        path.chmod(0o755)
    size = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    text = READ_ME.format(
        platform=platform,
        tag=at.tags[0],
        version=version,
        torch="PyTorch runs on the CPU only." if platform == "macos" or own_torch or windows else "PyTorch uses a GPU.",
        megabytes=round(size / 1e6),
        install="install.bat" if windows else "sh install.sh",
        lab="lab.bat" if windows else "sh lab.sh",
        doctor=("env\\Scripts\\python" if windows else "env/bin/python") + " -m reproduce doctor",
        untried="" if platform == "linux" else f"\nWe had no {platform} to try this on: try it on one laptop first.\n",
    )
    (work / "README.md").write_text(text, encoding="utf-8")
