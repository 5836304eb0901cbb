"""The wheel, installed outside any checkout, does every documented command in an empty directory.

The environment is new and holds only the wheel; all other packages it takes from the one of these tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import SMALL

from reproduce.cli.app import COMMANDS
from reproduce.notebook_runner import shipped

ROOT = Path(__file__).parents[2]
TAKEN = ("fedrevive_core", "reproduce", "notebooks", "docs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
MOST_BYTES = 5_000_000
SETTINGS = [part for name, value in SMALL.items() if value is not None for part in ("--set", f"{name}={value}")]
QUICKSTART = (  # a twentieth of what it usually runs
    "import sys; from reproduce.runs import quickstart; quickstart.SETTINGS['federation.max_sim_time'] = 1.0; "
    "sys.argv[0] = 'fedrevive'; from reproduce.cli.door import main; main()"
)
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy of the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in TAKEN:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_*"))
        else:
            shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-c", BUILD, out], cwd=source, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


class Installed:
    """An environment with the wheel, and an empty directory in which its commands run."""

    def __init__(self, wheel: Path, home: Path) -> None:
        self.folder = home / "work"
        self.folder.mkdir()
        venv.create(home / "venv", with_pip=True, symlinks=os.name != "nt")
        self.python = home / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        place = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
        subprocess.run([self.python, "-m", "pip", "install", *place, wheel], check=True, cwd=self.folder)
        (self.packages,) = {path.parent for path in (home / "venv").rglob("fedrevive_core")}
        (self.packages / "others.pth").write_text("\n".join({sysconfig.get_path(p) for p in ("purelib", "platlib")}))
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(self, *arguments: str | Path, code: int = 0) -> str:
        """What `python ARGUMENTS` prints."""
        command = [self.python, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        shown = done.stdout + done.stderr
        assert done.returncode == code, f"{arguments}: {shown}"
        assert "Traceback" not in shown, shown
        return shown

    def __call__(self, command: str, *more: str, code: int = 0) -> str:
        """What `python -m reproduce COMMAND` prints."""
        return self.run("-m", "reproduce", *command.split(), *more, code=code)


@pytest.fixture(scope="module")
def fedrevive(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


def test_the_wheel_holds_what_is_read_and_little_else(wheel: Path) -> None:
    assert wheel.stat().st_size < MOST_BYTES
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in held} == {
        "fedrevive", "fedrevive_core", "fedrevive_docs", "fedrevive_notebooks", "reproduce",
    }  # fmt: skip
    for folder, pattern in (
        ("fedrevive_core", "*.py"), ("reproduce", "*.py"), ("reproduce", "experiments/*.yaml"),
        ("reproduce", "results/records/**/*.parquet"), ("reproduce", "results/tuning/**/*.json"),
        ("notebooks", "*.ipynb"), ("notebooks", "*.py"), ("notebooks", "records/**/*.*"), ("docs", "*.md"),
    ):  # fmt: skip
        name = folder if folder in ("fedrevive_core", "reproduce") else f"fedrevive_{folder}"
        wanted = {f"{name}/{path.relative_to(ROOT / folder).as_posix()}" for path in (ROOT / folder).rglob(pattern)}
        assert wanted
        assert wanted <= held


def test_it_is_the_installed_copy_that_runs(fedrevive: Installed) -> None:
    places = "import fedrevive_core, fedrevive_notebooks, reproduce; print(fedrevive_core.__file__, reproduce.__file__)"
    assert fedrevive.run("-c", places).count(str(fedrevive.packages)) == 2


def test_understand_and_check(fedrevive: Installed) -> None:
    assert "lab-digits" in fedrevive("presets")
    assert "server.lr" in fedrevive("presets lab-digits")
    fedrevive("timeline --preset cifar10 --schedule shifted --seed 10 --plot lanes.png")
    assert "fedrevive" in fedrevive("doctor")
    for name in (function.__name__.replace("_", "-") for group in COMMANDS.values() for function in group):
        assert "Usage" in fedrevive(name, "--help")


def test_reproduce(fedrevive: Installed) -> None:
    assert "Open this page" in fedrevive.run("-c", QUICKSTART, "quickstart")
    fedrevive("run --preset lab-digits --method fedrevive --keep-every 8 --out runs/first", *SETTINGS)
    fedrevive("run --preset lab-digits --method fedrevive --out runs/second", *SETTINGS)
    assert "identical" in fedrevive("verify runs/first runs/second")
    fedrevive("branch runs/first --at 8 --method afl-dw --out runs/what-if")
    fedrevive("compare --methods fedbuff,fedrevive --seeds 0,1 --jobs 2 --out runs/compare", *SETTINGS)
    shown = fedrevive("sweep smoke --out runs/sweeps/smoke --jobs 2")
    assert "Notebook:" in shown
    assert (fedrevive.folder / "runs/sweeps/smoke/report/08_reproduce.html").is_file()
    fedrevive("report runs/sweeps/smoke")
    fedrevive("pack runs/sweeps/smoke --out build/packed")
    fedrevive("report build/packed/smoke")
    assert "checkout" in fedrevive("evidence", code=2)
    committed = fedrevive.packages / "reproduce/results/records/sceptic"
    assert " no " not in fedrevive("evidence --check", str(committed))


@pytest.mark.parametrize(
    "command",
    [
        "01_staleness -p num_arrivals=300",
        "05_fedrevive -p num_versions=12 -p concurrency=6 -p branch_every=4",
        "06_ablations",
    ],
)
def test_a_notebook(fedrevive: Installed, command: str) -> None:
    name = command.split()[0]
    assert "Page:" in fedrevive(f"notebook {command}")
    assert (fedrevive.folder / f"build/notebooks/{name}.html").is_file()


def test_the_book_needs_a_checkout(fedrevive: Installed) -> None:
    assert "this is an installed copy" in fedrevive("book --out build/book", code=2)


def test_the_lab_opens_in_a_folder_of_its_own(fedrevive: Installed) -> None:
    options = ["--no-browser", "--allow-root", "--port=0", "--ServerApp.port_retries=0", "--IdentityProvider.token=t"]
    command = [fedrevive.python, "-m", "reproduce", "lab", "mine", "--", *options]
    log = fedrevive.folder / "log"
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=fedrevive.folder, env=fedrevive.environment, stdout=out, stderr=out)
    try:
        for _ in range(240):
            assert server.poll() is None, log.read_text()
            found = [word for word in log.read_text().split() if word.startswith("http://127.0.0.1")]
            if found:
                break
            time.sleep(0.5)
        assert "/lab/tree/notebooks/index.ipynb?token=" in found[0]
        address = found[0].partition("/lab/")[0]
        listed = urllib.request.urlopen(f"{address}/api/contents/notebooks?token=t", timeout=60).read().decode()
        assert all(f"{name}.ipynb" in listed for name in [*shipped(), "index"])
    finally:
        server.terminate()
        server.wait(60)
