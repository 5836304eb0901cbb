"""The bundle for a lab without a network; what uv and pip do is put in their place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from helpers import leave_what_uv_leaves

from fedrevive_core.errors import ConfigError
from reproduce.classroom import bundle


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were run; each leaves what the next one needs."""
    commands: list[list[str]] = []

    def run(*command: str | Path) -> None:
        commands.append([str(word) for word in command])
        leave_what_uv_leaves(*command)

    monkeypatch.setattr(bundle, "_run", run)
    monkeypatch.setattr(bundle.importlib.util, "find_spec", lambda name: name)
    return commands


def test_a_bundle_holds_wheels_pins_scripts_and_what_to_do(asked: list[list[str]], tmp_path: Path) -> None:
    out = bundle.write_bundle(tmp_path / "bundle", "linux", "3.12", gpu=False)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "install.sh", "lab.sh", "requirements.txt", "wheels",
    ]  # fmt: skip
    assert [path.name for path in (out / "wheels").iterdir()] == ["fedrevive-0.1.0-py3-none-any.whl"]
    assert (out / "requirements.txt").read_text().split() == ["numpy==2.4.6", "torch==2.9", "fedrevive==0.1.0"]
    _, chosen, downloaded = asked
    assert chosen[chosen.index("--torch-backend") + 1] == "cpu"
    assert {"--only-binary=:all:", "--no-deps", "--platform=manylinux_2_17_x86_64", "--python-version=3.12"} <= {
        *downloaded
    }
    assert any(word.endswith("whl/cpu") for word in downloaded)
    assert "--no-index --find-links wheels" in (out / "install.sh").read_text()
    for script in ("install.sh", "lab.sh"):
        subprocess.run(["sh", "-n", out / script], check=True)
    assert "Python 3.12. PyTorch runs on the CPU only." in (out / "README.md").read_text()


def test_other_platforms(asked: list[list[str]], tmp_path: Path) -> None:
    out = bundle.write_bundle(tmp_path / "windows", "windows", "3.12", gpu=False)
    assert b"py -3.12 -m venv env\r\n" in (out / "install.bat").read_bytes()
    assert "We had no windows" in (out / "README.md").read_text()
    bundle.write_bundle(tmp_path / "gpu", "linux", "3.12", gpu=True)
    assert "PyTorch uses a GPU" in (tmp_path / "gpu" / "README.md").read_text()
    assert not [word for command in asked for word in command if "--torch-backend" in word or "whl/cpu" in word]


def test_what_cannot_work_is_refused_before_any_work(
    asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call
) -> None:
    for python in ("3", "3.10", "4.1", "3.12; rm", "latest"):
        with pytest.raises(ConfigError, match="or newer, such as"):
            bundle.write_bundle(tmp_path / "out", "linux", python, gpu=False)
    code, _, error = call("classroom", "bundle", "--platform", "windwos", "--out", tmp_path / "out")
    assert (code, "did you mean 'windows'?" in error) == (2, True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        bundle.write_bundle(tmp_path / "full", "linux", "3.12", gpu=False)
    monkeypatch.setattr(bundle.importlib.util, "find_spec", lambda name: None if name == "uv" else name)
    with pytest.raises(ConfigError, match="uv is not installed here: python -m pip install uv"):
        bundle.write_bundle(tmp_path / "out", "linux", "3.12", gpu=False)
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    with pytest.raises(ConfigError, match="run this command in a checkout"):
        bundle.write_bundle(tmp_path / "out", "linux", "3.12", gpu=False)
    assert asked == []
    assert not (tmp_path / "out").exists()


def test_a_download_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(bundle.sys, "executable", "false")
    with pytest.raises(ConfigError, match="uv build failed"):
        bundle.write_bundle(tmp_path / "out", "linux", "3.12", gpu=False)
    assert not (tmp_path / "out").exists()
