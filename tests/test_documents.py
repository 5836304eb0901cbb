"""What the documents say must work: every command parses, every Python block runs, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import fedrevive_core
from fedrevive_core.config.methods import METHODS
from fedrevive_core.config.presets import build
from fedrevive_core.config.run import RunConfig
from reproduce.cli.app import app
from reproduce.sweeps.experiment import load_experiment

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "reproduce" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands


def documented_commands() -> list[str]:
    found: set[str] = set()
    for document in DOCUMENTS:
        text = document.read_text()
        found |= set(re.findall(r"python -m reproduce ([a-z][^`\n#]*)", text))
        # In tables a command stands in a code span of its own.
        spans = re.findall(r"^\| `([a-z]+[^`]*)` \|", text, flags=re.MULTILINE)
        found |= {span for span in spans if span.split()[0] in COMMANDS}
    return sorted(command.strip() for command in found)


def test_there_are_commands():
    assert len(documented_commands()) > 10


@pytest.mark.parametrize("command", documented_commands())
def test_every_documented_command_parses(command):
    name, *arguments = shlex.split(re.sub(r"\[[A-Z]+\]", "", command))
    if arguments == ["--help"] or name == "COMMAND":
        return
    context = COMMANDS[name].make_context(name, arguments)
    chosen = context.params
    if name == "compare":
        for method in chosen["methods"].split(","):
            assert method in METHODS
    elif name == "sweep":
        assert chosen["scale"] in load_experiment(chosen["experiment"]).scales
    elif chosen.get("preset"):
        build(chosen["preset"], chosen.get("method", "fedrevive"), schedule=chosen.get("schedule", "default"))


def test_the_python_of_the_readme_runs(monkeypatch, tmp_path):
    """As written, only smaller: `run` gets 4 versions and tiny jobs."""
    real = fedrevive_core.run
    seen = []

    def smaller(config: RunConfig, **options):
        values = config.to_dict()
        values["federation"] |= {"max_versions": 4, "concurrency": 4}
        values["training"] |= {"steps": 2}
        seen.append(config)
        return real(RunConfig.from_dict(values), progress=False, **options)

    monkeypatch.setattr(fedrevive_core, "run", smaller, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(METHODS, "fedbuff-poly", METHODS["fedbuff"])  # removed again, with what the README puts there
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert len(seen) == 4
    assert seen[0].server.lr == 0.05


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), target
    assert "@@" not in document.read_text()  # a gap that was to be filled


def test_the_package_says_how_it_is_used():
    """The example in the package's docstring names real things."""
    assert fedrevive_core.build is build
    assert set(fedrevive_core.__all__) <= set(dir(fedrevive_core))
