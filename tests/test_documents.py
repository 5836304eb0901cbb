"""What the documents say must work: every command parses, every Python block runs, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from helpers import commands_of
from test_architecture import FILES, ROOMS, imports, room

import fedrevive_core
from fedrevive_core.config.methods import METHODS
from fedrevive_core.config.presets import build
from fedrevive_core.config.run import RunConfig
from reproduce.cli.app import app
from reproduce.sweeps.experiment import load_experiment

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "reproduce").rglob("*.md")])
COMMANDS = commands_of(app)


def read(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def named(words: list[str]) -> tuple[str, list[str]]:
    """The name of a command, of one word or two, and its arguments."""
    count = 2 if " ".join(words[:2]) in COMMANDS else 1
    return " ".join(words[:count]), words[count:]


def documented_commands() -> list[str]:
    found: set[str] = set()
    for document in DOCUMENTS:
        text = re.sub(r"\\\n *", "", read(document))  # a command may continue in the next line
        found |= set(re.findall(r"python -m reproduce ([a-z][^`\n#]*)", text))
        # In tables a command stands alone in a code span.
        spans = re.findall(r"^\| `([a-z]+[^`]*)` \|", text, flags=re.MULTILINE)
        found |= {span for span in spans if named(span.split())[0] in COMMANDS}
    return sorted(command.strip() for command in found)


def test_there_are_commands():
    assert len(documented_commands()) > 10


@pytest.mark.parametrize("command", documented_commands())
def test_every_documented_command_parses(command):
    name, arguments = named(shlex.split(re.sub(r"\[[A-Z]+\]", "", command)))
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


@pytest.mark.parametrize(("document", "runs"), [("README.md", 1), ("docs/GUIDE.md", 4)])
def test_the_python_of_a_document_runs(document, runs, monkeypatch, tmp_path):
    """As written, only smaller: `run` gets 4 versions and tiny jobs. The blocks of a document share their names."""
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
    monkeypatch.setitem(METHODS, "fedbuff-poly", METHODS["fedbuff"])  # removed again, with what the guide puts there
    blocks = re.findall(r"```python\n(.*?)```", read(ROOT / document), flags=re.DOTALL)
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert len(seen) == runs
    assert seen[0].server.lr == 0.05


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(document):
    """To a file that exists, and with `#fragment` to a heading of it; a link to a line of code is tested below."""
    for target, fragment in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", read(document)):
        if target.startswith(("http://", "https://")):
            continue
        page = document.parent / target if target else document
        assert page.exists(), target
        if fragment and page.suffix == ".md":
            assert fragment in anchors(read(page)), f"{target}#{fragment}"
    assert "@@" not in read(document)  # a gap that was to be filled


def anchors(text: str) -> set[str]:
    """The headings of a page as GitHub names them in links: lower case, no punctuation, dashes for spaces."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_to_lines() -> list[tuple[str, str, int]]:
    """(code, file, line) of every link `[`code`](file.py#Lnn)` in the documents."""
    links = set()
    for document in DOCUMENTS:
        for code, target, line in re.findall(r"\[`([^`]+)`\]\(([^)#]+\.py)#L(\d+)\)", read(document)):
            links.add((code, str((document.parent / target).resolve().relative_to(ROOT.resolve())), int(line)))
    return sorted(links)


def test_there_are_links_to_lines():
    assert len(links_to_lines()) > 20


@pytest.mark.parametrize(("code", "file", "line"), links_to_lines())
def test_a_link_to_a_line_leads_to_the_code_that_it_names(code, file, line):
    lines = read(ROOT / file).splitlines()
    there = [number for number, text in enumerate(lines, 1) if code in text]
    assert line in there, f"{file} has {code!r} in the lines {there}, and not in line {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_to_a_module_names_what_is_in_it(document):
    """`[`Server.receive`](server.py)` says that server.py has both names."""
    for code, target in re.findall(r"\[`([A-Za-z_.]+)`\]\(([^)#]+\.py)\)", read(document)):
        if not code.endswith(".py"):
            names = set(re.findall(r"\w+", read((document.parent / target).resolve())))
            assert set(code.split(".")) <= names, f"{target} has no {code}"


def test_every_method_has_the_four_headings_and_the_results_of_the_table():
    sections = re.split(r"^## ", read(ROOT / "docs/METHODS.md"), flags=re.MULTILINE)
    methods = [section for section in sections if "### " in section]
    assert len(methods) == 10
    measured = read(ROOT / "docs/RESULTS.md")
    for section in methods:
        headings = re.findall(r"^### (.*)$", section, flags=re.MULTILINE)
        assert headings == ["Usage", "What is recorded", "Implementation", "Results"]
        results = section.partition("### Results")[2]
        assert {n for n in re.findall(r"\d+\.\d ± \d+\.\d", results) if n not in measured} == set()
    assert set(re.findall(r"--method ([\w-]+)", "".join(methods))) == set(METHODS)


def test_the_readme_says_how_long_the_method_is():
    """Its rooms without the files for texts, within a hundred lines; and the README stays a page."""
    rooms = re.search(r"\| \*\*method\*\* \| ([^|]*) \|", read(ROOT / "README.md")).group(1)
    files = []
    for name in re.findall(r"`(\w+)`", rooms):
        home = ROOT / "fedrevive_core" / name
        files += sorted(home.glob("*.py")) if home.is_dir() else [home.with_suffix(".py")]
    texts = {"text.py", "text_generator.py", "encoder.py"}
    lines = sum(len(read(file).splitlines()) for file in files if file.name not in texts)
    said = int(re.search(r"about ([\d,]+) lines", read(ROOT / "README.md")).group(1).replace(",", ""))
    assert abs(said - lines) <= 100
    assert len(read(ROOT / "README.md").splitlines()) <= 150


def test_the_map_of_the_rooms_shows_every_arrow():
    """The third column of the table in docs/ARCHITECTURE.md holds what the modules of a room import."""
    rows = re.findall(r"^\| `(\w+)(?:\.py|/)` \|[^|]*\| ([^|]*) \|$", read(ROOT / "docs/ARCHITECTURE.md"), re.MULTILINE)
    assert sorted(name for name, _ in rows) == ROOMS
    for name, arrows in rows:
        taken = {room(other) for module in FILES if room(module) == name for other in imports(module) if other in FILES}
        assert set(re.findall(r"`(\w+)`", arrows)) == taken - {name}, name


def test_the_package_says_how_it_is_used():
    """The example in the package's docstring names real things."""
    assert fedrevive_core.build is build
    assert set(fedrevive_core.__all__) <= set(dir(fedrevive_core))
