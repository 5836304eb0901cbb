"""One place says which packages are needed, one says which versions were tested, and every way to install uses both."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fedrevive_core.records import provenance
from reproduce import doctor

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = [
    Requirement(line)  # an option, a path or an address would not parse
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
OWN_TORCH = {"torch", "torchvision"}  # a machine may keep an older one, so they have an upper bound only


def test_constraints_hold_one_exact_version_of_everything_that_is_installed() -> None:
    assert not [pin for pin in PINS if pin.url or pin.extras]
    assert {pin.name for pin in PINS if {part.operator for part in pin.specifier} != {"=="}} == OWN_TORCH
    assert {str(part)[:2] for pin in PINS if pin.name in OWN_TORCH for part in pin.specifier} == {"<="}
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in PINS}
    apart = {"cluster", "flower"}  # which bring what else they need
    declared = [*PROJECT["dependencies"], *(line for extra in EXTRAS for line in EXTRAS[extra] if extra not in apart)]
    for required in map(Requirement, declared):
        if required.name != "fedrevive":
            version = pinned[canonicalize_name(required.name)]
            assert required.specifier.contains(version), f"{required} does not allow the tested {version}"


def test_linter_and_type_checker_are_exact_without_constraints_too() -> None:
    assert all(str(Requirement(tool).specifier).startswith("==") for tool in EXTRAS["lint"])
    assert not [tool for tool in EXTRAS["test"] if tool.startswith(("mypy", "ruff"))]


def test_conda_installs_what_pip_does() -> None:
    *_, part = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert part == {"pip": ["--constraint constraints.txt", "--editable .[test]"]}


def test_the_light_environment_has_all_but_pytorch() -> None:
    lines = (ROOT / "requirements-light.txt").read_text(encoding="utf-8").splitlines()
    usual = [line for line in PROJECT["dependencies"] if Requirement(line).name not in OWN_TORCH]
    assert sorted(line for line in lines if not line.startswith("#")) == sorted([*usual, *EXTRAS["notebooks"]])


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_every_make_target_installs_the_tested_versions(tmp_path: Path) -> None:
    targets = ["quickstart", "test", "test-notebooks", "test-browser", "torture", "lab", "evidence-quick", "book"]
    outside = {name: value for name, value in os.environ.items() if name not in ("CONSTRAINTS", "MAKEFLAGS")}
    command = [
        "make",
        "--dry-run",
        f"VENV={tmp_path / 'none'}",
        f"LIGHT={tmp_path / 'light'}",
        *targets,
        "lab-light",
        "lint",
    ]
    shown = subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, encoding="utf-8", check=True).stdout
    installs = [line for line in shown.splitlines() if "pip install" in line]
    assert len(installs) == 8
    assert sum("--constraint constraints.txt" in line for line in installs) == 7
    assert sum("--no-deps --editable ." in line for line in installs) == 1  # after the others, beside no PyTorch


def test_a_record_names_every_package_that_a_run_may_use(monkeypatch) -> None:
    versions = provenance("cpu", 1)["versions"]
    always = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert {"fedrevive", "scipy"} | always <= versions.keys()
    assert versions["torch"] == importlib.metadata.version("torch")
    assert "transformers" in versions  # of an extra, and installed
    assert not {"pytest", "ruff", "playwright"} & versions.keys()
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["absent-one>=1", 'absent-two>=1; extra == "text"'])
    versions = provenance("cpu", 1)["versions"]
    assert (versions["absent-one"], "absent-two" in versions) == (None, False)

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", missing)
    assert provenance("cpu", 1)["versions"]["torch"] is not None  # from a source that is not installed


def test_doctor_says_which_packages_are_not_those_of_this_release(monkeypatch, tmp_path) -> None:
    def remarks() -> dict[str, str]:
        return {row["what"]: row["to do"] for row in doctor._packages()}

    numpy = importlib.metadata.version("numpy")
    monkeypatch.setattr(doctor, "TESTED", tmp_path / "constraints.txt")
    assert not any("tested" in remark for remark in remarks().values())  # installed without its source
    doctor.TESTED.write_text(
        f"# comment\nnumpy=={numpy}\nscipy==1.0 ; python_version > '3'\nrich==1 ; python_version < '3'\n"
    )
    assert {name for name, remark in remarks().items() if "tested" in remark} == {"scipy"}
    assert remarks()["scipy"] == "may stay; this release was tested with 1.0"
