"""The folder to work in: copies that are renewed unless someone changed them, and no link that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from fedrevive_core.errors import ConfigError
from reproduce import lab

INDEX = "notebooks/index.ipynb"


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A course of two files, of which a newer version can be written."""
    home = tmp_path / "course"
    (home / "figures").mkdir(parents=True)
    (home / "index.ipynb").write_text("first")
    (home / "figures" / "a.png").write_bytes(b"drawn")
    monkeypatch.setattr(lab, "COPIED", {"notebooks": (home, ("*.ipynb",)), "docs": (home, ("figures/*.png",))})
    return home / "index.ipynb"


def test_copies_are_renewed_until_someone_changes_them(newer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert lab.copy_course(folder) == []
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        lab.LIST,
        "docs/figures/a.png",
        INDEX,
    ]
    newer.write_text("second")
    assert lab.copy_course(folder) == []
    assert (folder / INDEX).read_text() == "second"
    (folder / INDEX).write_text("my work")
    assert lab.copy_course(folder) == []  # nothing is newer
    newer.write_text("third")
    assert lab.copy_course(folder) == lab.copy_course(folder) == [INDEX]
    assert (folder / INDEX).read_text() == "my work"
    (folder / INDEX).rename(folder / "notebooks/mine.ipynb")
    assert lab.copy_course(folder) == []
    assert (folder / INDEX).read_text() == "third"
    assert (folder / "notebooks/mine.ipynb").read_text() == "my work"


def test_what_others_put_there_stays(newer: Path, tmp_path: Path) -> None:
    folder, secret = tmp_path / "mine", tmp_path / "secret"
    (folder / "notebooks").mkdir(parents=True)
    (folder / INDEX).write_text("not of the course")
    assert lab.copy_course(folder) == [INDEX]
    assert (folder / INDEX).read_text() == "not of the course"
    newer.write_text("second")
    (folder / INDEX).unlink()
    lab.copy_course(folder)
    (folder / INDEX).unlink()
    secret.write_text("second")  # as it was copied, but behind a link
    (folder / INDEX).symlink_to(secret)
    newer.write_text("third")
    assert lab.copy_course(folder) == [INDEX]
    assert secret.read_text() == "second"


@pytest.mark.parametrize("text", ["", "[]", "[" * 5000, '{"notebooks/index.ipynb": 3}', "\xff"])
def test_a_damaged_list_keeps_everything(newer: Path, tmp_path: Path, text: str) -> None:
    lab.copy_course(tmp_path / "mine")
    (tmp_path / "mine" / lab.LIST).write_text(text, encoding="latin-1")
    newer.write_text("second")
    assert lab.copy_course(tmp_path / "mine") == [INDEX]
    assert (tmp_path / "mine" / INDEX).read_text() == "first"


def test_a_folder_that_cannot_be_written_is_refused(newer: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"index.ipynb' cannot be written"):
        lab.copy_course(newer)


def test_every_link_of_a_notebook_leads_to_a_file_of_the_folder() -> None:
    """In the working folder as in a checkout, where `docs` lies beside `notebooks`, too."""
    course = lab.course()
    assert {INDEX, "notebooks/from_scratch.py", "docs/RESULTS.md", "docs/figures/lab-digits.png"} <= set(course)
    followed = 0
    for name, path in course.items():
        if path.suffix != ".ipynb":
            continue
        for cell in nbformat.read(path, as_version=4).cells:
            for pair in re.findall(r"\]\(([^)#]+)|(?:href|src)=\"([^\"#]+)", cell.source):
                target = "".join(pair)
                if not target.startswith(("http://", "https://", "data:")):
                    place = (Path("/", name).parent / target).resolve().relative_to("/").as_posix()
                    assert place in course, f"{name}: {target}"
                    followed += 1
    assert followed > 20
