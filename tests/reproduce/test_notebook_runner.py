"""Notebooks as batch jobs: parameters checked, this interpreter's kernel, failures kept, pages that need no network."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from fedrevive_core.errors import ConfigError
from fedrevive_core.files import lock
from reproduce import notebook_runner as notebooks
from reproduce.cli.app import main
from reproduce.reports.notebook_html import draw_formula, to_html, write_notebook_page

PARAMETERS = "n = 1\nrate = 0.5\nname = 'a'\nflag = False\nmany = [1, 2]\nany_of = None\nrecords = ''"


def write(path: Path, *code: str, about: str = "# Does it run?") -> Path:
    """A notebook with the parameters above and a cell for each of `code`."""
    cells = [
        new_markdown_cell(about),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *(new_code_cell(source) for source in code),
    ]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path.resolve()


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["reproduce", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_values_take_the_type_of_their_default(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb")
    given = {"n": "-3", "rate": "2", "name": "7", "flag": "True", "many": "[3]", "any_of": "0.5"}
    parsed = notebooks.parse(path, given)
    assert parsed == {"n": -3, "rate": 2.0, "name": "7", "flag": True, "many": [3], "any_of": 0.5}
    assert type(parsed["rate"]) is float
    assert notebooks.parse(path, {"any_of": "word", "flag": "false"}) == {"any_of": "word", "flag": False}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("rat", "1", "no parameter 'rat': did you mean 'rate'"),
        ("n", "1.5", "n = 1.5: must be a whole number"),
        ("n", "true", "n = true: must be a whole number"),
        ("flag", "1", "flag = 1: must be true or false"),
        ("rate", "fast", "rate = fast: must be a number"),
        ("rate", "9" * 400, "must be a number"),
        ("rate", "1e999", "must be a number"),
        ("many", "[" * 5000, "is too long or nested too deeply"),
        ("many", "3", "many = 3: must be a list"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        notebooks.parse(write(tmp_path / "a.ipynb"), {name: text})


def test_an_unknown_notebook_is_refused() -> None:
    with pytest.raises(ConfigError, match="notebook = 'nothing' is unknown"):
        notebooks.find("nothing")


def test_several_at_once_each_in_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreter, package and working directory are this one's, whatever 'python3' is; progress comes as lines."""
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text('{"argv": ["false"], "display_name": "Another", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    source = (
        "import os, sys, fedrevive_core\n"
        "from fedrevive_core.simulation import Progress\n"
        "with Progress('inside', 2) as bar:\n    bar.advance(2, 'all')\n"
        "print(n, sys.executable, os.getcwd(), fedrevive_core.__file__)"
    )
    path = write(tmp_path / "a.ipynb", source)
    outs = [tmp_path / "out" / f"{number}.ipynb" for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(notebooks.execute, path, out, {"n": i}, progress=False) for i, out in enumerate(outs)]
        pages = [job.result() for job in jobs]
    package = str(Path(notebooks.fedrevive_core.__file__))
    for number, (out, page) in enumerate(zip(outs, pages, strict=True)):
        assert f"{number} {sys.executable} {tmp_path.resolve()} {package}" in printed(out)
        assert "inside: 2/2, all" in printed(out)
        assert page.exists()


def test_a_long_name_of_the_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Socket files have short names: then, as on Windows, the kernel listens on ports. What a killed command left goes,
    and what is of one that is alive, or of somebody else, stays."""
    home = tmp_path / ("x" * max(1, 125 - len(str(tmp_path))))
    left, live, new, mine = (home / f"{name}1" for name in [*[notebooks.KERNEL + part for part in "abc"], "kernel-"])
    for directory in (left, live, new, mine):
        directory.mkdir(parents=True)
        if directory != new:
            os.utime(directory, (0, 0))
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    source = "import json, ipykernel\nprint(json.load(open(ipykernel.get_connection_file()))['transport'])"
    with lock(live):
        os.utime(live, (0, 0))
        notebooks.execute(write(tmp_path / "a.ipynb", source), tmp_path / "out.ipynb", progress=False)
    assert printed(tmp_path / "out.ipynb") == "tcp\n"
    assert sorted(home.iterdir()) == sorted([live, new, mine])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("%matplotlib inline\nn = 1\nm: int = 2\nimport os", None),
        (
            "n = 1 +",
            "the parameters of a.ipynb cannot be read .*: the cell tagged 'parameters' must assign plain values",
        ),
        ("n = os.getcwd()", "the parameters of a.ipynb cannot be read"),
        ("n = " + "(" * 300, "the parameters of a.ipynb cannot be read"),
    ],
)
def test_any_cell_of_parameters_is_read_or_refused(tmp_path: Path, source: str, words: str | None) -> None:
    cell = new_code_cell(source, metadata={"tags": ["parameters"]})
    path = tmp_path / "a.ipynb"
    nbformat.write(new_notebook(cells=[cell]), path)
    assert notebooks.parse(path, {}) == {}
    if words is None:
        assert notebooks.parse(path, {"n": "3", "m": "4"}) == {"n": 3, "m": 4}
    else:
        with pytest.raises(ConfigError, match=words):
            notebooks.parse(path, {"n": "3"})


def test_a_cell_that_hangs_fails_and_a_stopped_notebook_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hanging, out = write(tmp_path / "a.ipynb", "import time\ntime.sleep(100)"), tmp_path / "out" / "a.ipynb"
    assert run_cli(monkeypatch, "notebook", hanging, "--out", out, "--cell-seconds", 1) == 1
    said = capsys.readouterr().err
    assert "a: cell 2 (`import time`) took more than 1 seconds; --cell-seconds allows more" in said
    assert out.with_suffix(".html").exists()
    shutil.rmtree(out.parent)
    stop = f"import os, signal, time\nos.kill({os.getpid()}, signal.SIGTERM)\ntime.sleep(100)"
    assert run_cli(monkeypatch, "notebook", write(tmp_path / "b.ipynb", stop), "--out", out) == 143
    assert capsys.readouterr().err.endswith("\nstopped by signal 15: b was not finished\n")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.ipynb", "b.ipynb"]


def test_a_terminal_gets_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    notebooks.execute(write(tmp_path / "a.ipynb", "print('here')"), tmp_path / "out.ipynb")
    said = capsys.readouterr().err
    assert "a: 100%" in said
    assert "a: cell" not in said


@pytest.mark.notebooks
def test_ten_at_once_twenty_times_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No kernel needs a second start, and none is left."""
    path = write(tmp_path / "a.ipynb", "print('here')")
    outs = [tmp_path / "out" / f"{number}.ipynb" for number in range(200)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda out: notebooks.execute(path, out, progress=False), outs))
    assert all("here" in printed(out) for out in outs)
    assert "starting another" not in capsys.readouterr().err


def test_a_failing_notebook_is_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.ipynb", "print('before')", "# why\nraise ValueError('no way')", "print('after')")
    out = tmp_path / "out" / "a.ipynb"
    assert run_cli(monkeypatch, "notebook", path, "-p", "n=-1", "--out", out) == 1
    said = capsys.readouterr().err
    assert "a failed in cell 4 (`raise ValueError('no way')`): ValueError: no way; what ran is in" in said
    assert "a: cell 4/5, raise ValueError" in said
    assert "before" in printed(out)
    assert "after" not in printed(out)
    assert "ValueError" in out.with_suffix(".html").read_text(encoding="utf-8")


def test_a_kernel_that_dies_is_not_started_again(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    path = write(tmp_path / "a.ipynb", f"import os\nopen({str(marks)!r}, 'a').write('x')\nos._exit(1)")
    with pytest.raises(notebooks.NotebookFailed, match=r"kernel died in cell 2 \(`import os`\)"):
        notebooks.execute(path, tmp_path / "out.ipynb", progress=False)
    assert marks.read_text(encoding="utf-8") == "x"


def test_a_kernel_that_does_not_come_up_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    real = notebooks.papermill.execute_notebook

    def unlucky(*given: Any, **options: Any) -> Any:
        starts.append(1)
        if len(starts) == 1:
            raise RuntimeError("Kernel didn't respond in 60 seconds")
        return real(*given, **options)

    monkeypatch.setattr(notebooks.papermill, "execute_notebook", unlucky)
    monkeypatch.setattr(notebooks.time, "sleep", lambda _: None)
    notebooks.execute(write(tmp_path / "a.ipynb", "print('here')"), tmp_path / "out.ipynb", progress=False)
    assert len(starts) == 2
    assert "here" in printed(tmp_path / "out.ipynb")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "nn=3"], "did you mean 'n'"),
        (["-p", "n"], "-p n: must be NAME=VALUE, such as seed=1"),
        (["-p", "=3"], "-p =3: must be NAME=VALUE"),
        (["-p", "n=3", "4"], "'4' is one argument too many: set parameters with -p NAME=VALUE"),
        (["--ot", "a.ipynb"], "'--ot' is one argument too many"),
        (["--out", "a.txt"], "must be an .ipynb file"),
    ],
)
def test_bad_input_ends_with_a_sentence_and_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert run_cli(monkeypatch, "notebook", write(tmp_path / "a.ipynb"), *arguments) == 2
    assert words in capsys.readouterr().err


def test_parameters_and_their_old_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value may hold '=' and begin with a minus sign; the old spelling works for one release, with a hint."""
    given: list[Any] = []
    monkeypatch.setattr(notebooks, "execute", lambda path, out, parameters, **_: given.append(parameters))
    path = write(tmp_path / "a.ipynb")
    assert run_cli(monkeypatch, "notebook", path, "-p", "n=-3", "-p", "name=a=b") == 0
    assert capsys.readouterr().err == ""
    run_cli(monkeypatch, "notebook", path, "-p", "n", "-3", "-p", "flag=true", "-p", "name", "a=b")
    hints = capsys.readouterr().err.splitlines()
    assert given == [{"n": -3, "name": "a=b"}, {"n": -3, "flag": True, "name": "a=b"}]
    assert [line.split(";")[0] for line in hints] == ["hint: write -p n=-3", "hint: write -p name=a=b"]


def test_a_notebook_is_never_overwritten_by_its_execution(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb")
    with pytest.raises(ConfigError, match="not the notebook itself"):
        notebooks.execute(path, path)


def test_rendering_passes_the_sweep_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.ipynb", "print(records)")
    notebooks.render(str(path), tmp_path / "sweep", tmp_path / "sweep" / "report.ipynb")
    assert str(tmp_path / "sweep") in printed(tmp_path / "sweep" / "report.ipynb")
    other = tmp_path / "b.ipynb"
    nbformat.write(new_notebook(), other)
    with pytest.raises(ConfigError, match="no parameter 'records'"):
        notebooks.render(str(other), tmp_path, tmp_path / "c.ipynb")


def test_the_cell_tagged_picture_is_kept_beside_the_page(tmp_path: Path) -> None:
    path = write(tmp_path / "00_drawn.ipynb", "from PIL import Image\nImage.new('RGB', (3, 2), 'red')")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].metadata.tags = ["picture"]
    nbformat.write(notebook, path)
    plain = write(tmp_path / "01_plain.ipynb", "1 + 1")
    for source in (path, plain):
        notebooks.execute(source, tmp_path / "out" / source.name)
    picture = Image.open(tmp_path / "out" / "00_drawn.png")
    assert picture.size == (3, 2)
    assert picture.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert not (tmp_path / "out" / "01_plain.png").exists()


def test_pages_load_nothing_and_fold_solutions(tmp_path: Path) -> None:
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "0"}, "text/plain": "Panel(children=...)"}
    cells = [
        new_markdown_cell("# A $\\tau$ title\n\n`$code$` and $\\beta(\\tau)$"),
        new_code_cell("answer = 3", metadata={"tags": ["solution"]}),
        new_code_cell("panel", outputs=[new_output("display_data", data=widget)]),
    ]
    write_notebook_page(new_notebook(cells=cells), tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "<summary>Solution</summary>" in page
    assert "Panel(children" not in page
    assert "$code$" in page
    assert 'alt="\\beta(\\tau)"' in page


def test_formulas() -> None:
    """Inline ones sit on the line, display ones on their own, several lines apart; the rest stays readable."""
    assert "vertical-align:-" in draw_formula(r"\lVert w_t \rVert_2 \le \tfrac{1}{2}")
    assert to_html("$$\na \\\\ b\n$$").count('class="math display"') == 2
    assert to_html(r"$\unknowncommand{x}$") == "<p><code>\\unknowncommand{x}</code></p>\n"
    assert "<img" not in to_html("costs $5 and $6")
    assert "<img" in to_html("<details><summary>Hint</summary>\nsee $\\tau$\n</details>")


@pytest.mark.parametrize("path", sorted(notebooks.FOLDER.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_every_formula_of_the_course_can_be_drawn(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            source = re.findall(r"<code>(.*?)</code>", to_html(cell.source))
            assert not [code for code in source if "\\" in code], cell.source
