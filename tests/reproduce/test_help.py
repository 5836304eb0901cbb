"""What the command line says about itself: help by groups, examples that parse, completion, old spellings."""

from __future__ import annotations

import re
import shlex
import sys

import pytest
from helpers import commands_of, run_python

from reproduce.cli.app import COMMANDS, GROUPS, app
from reproduce.console import command_line
from reproduce.sweeps.experiment import shipped

PARSERS = commands_of(app)
NAMES = {group: [function.__name__.replace("_", "-") for function in group_] for group, group_ in COMMANDS.items()}
NAMES["Teach"] += GROUPS


def examples(name: str) -> list[str]:
    """The lines of the code block in the help of a command."""
    block = re.search(r"```\n(.*?)```", PARSERS[name].help, flags=re.DOTALL)
    assert block is not None, name
    return [line.strip() for line in block[1].strip().splitlines()]


def test_commands_are_grouped_by_what_one_wants(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = call("--help")
    assert code == 0
    panels = dict(re.findall(r"╭─ (Understand|Reproduce|Teach|Check) ─+╮\n(.*?)╰", out, flags=re.DOTALL))
    assert {group: re.findall(r"^│ ([a-z-]+) ", panel, flags=re.MULTILINE) for group, panel in panels.items()} == NAMES
    single = [name for names in NAMES.values() for name in names if name not in GROUPS]
    parts = [f"{group} {function.__name__}" for group, (_, functions) in GROUPS.items() for function in functions]
    assert sorted(PARSERS) == sorted(single + parts)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", sorted(PARSERS))
def test_every_command_has_examples_on_lines_of_their_own(call, monkeypatch, name, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = call(*name.split(), "--help")
    lines = [line.strip() for line in out.splitlines()]
    assert code == 0
    for example in examples(name):
        assert example in lines
        program, *words = shlex.split(example)
        count = len(name.split())
        assert (program, words[:count]) == ("fedrevive", name.split())
        PARSERS[name].make_context(name, words[count:])


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("run", ("cifar10-authors", "fedasync-hinge", "stragglers")),
        ("branch", ("fedasync-hinge",)),
        ("sweep", ("paper", "ray")),
        ("seed-texts", ("newsgroups", "lab-text")),
    ],
)
def test_choices_are_listed(call, monkeypatch, command, names):
    monkeypatch.setenv("COLUMNS", "120")
    out = call(command, "--help")[1]
    assert all(name in out for name in names)


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("run --preset lab-", ["lab-digits", "lab-fashion", "lab-styles", "lab-text"]),
        ("compare --preset newsg", ["newsgroups"]),
        ("presets femn", ["femnist"]),
        ("run --method dd", ["dd-fedrevive"]),
        ("branch --method afl", ["afl-dw"]),
        ("timeline --schedule s", ["stragglers", "shifted"]),
        ("sweep --scale p", ["paper"]),
        ("sweep --engine r", ["ray"]),
        ("bench --device c", ["cpu", "cuda"]),
        ("sweep fig", [name for name in shipped() if name.startswith("fig")]),
        ("seed", ["seed-texts"]),
    ],
)
def test_completion(monkeypatch, capsys, words, completions):
    monkeypatch.setenv("_FEDREVIVE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"fedrevive {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    with pytest.raises(SystemExit, match="0"):
        app(prog_name="fedrevive")
    assert capsys.readouterr().out.split() == completions


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("/home/me/bin/fedrevive", "fedrevive"),
        ("C:/venv/Scripts/fedrevive.exe", "fedrevive"),
        ("/home/me/reproduce/__main__.py", "python -m reproduce"),
    ],
)
def test_commands_are_shown_as_they_were_typed(monkeypatch, program, words):
    monkeypatch.setattr(sys, "argv", [program, "run", "--out", "my runs"])
    assert command_line() == f"{words} run --out 'my runs'"
    assert command_line("report", "runs/a") == f"{words} report runs/a"


def test_help_loads_nothing_heavy():
    seen = run_python(
        "import sys\nsys.argv = ['reproduce', 'run', '--help']\nfrom reproduce.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'matplotlib', 'pandas', 'numpy', 'papermill'} & set(sys.modules))"
    )
    assert seen.strip().endswith("set()")


def test_the_old_module_of_seed_texts_still_works():
    seen = run_python(
        "import contextlib, io, runpy, sys\n"
        "sys.argv = ['reproduce/seed_texts.py', '--model', 'none', '--out', 'none.jsonl', '--preset', 'lab-digits']\n"
        "said = io.StringIO()\n"
        "with contextlib.redirect_stderr(said):\n"
        "    try:\n        runpy.run_module('reproduce.seed_texts', run_name='__main__')\n"
        "    except SystemExit as end:\n        print(end.code)\n"
        "print(said.getvalue())"
    )
    code, hint, error = seen.strip().splitlines()
    assert code == "2"
    assert hint.startswith("hint: `fedrevive seed-texts` replaces `python -m reproduce.seed_texts`")
    assert error == "error: preset = 'lab-digits' is unknown or has no texts: allowed: lab-text, newsgroups"
