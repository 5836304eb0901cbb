"""What is handed in is read with bounds, judged apart, and told in a table."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch

from classroom.thirty import COUNT, NOTEBOOK, answered, broken, zipped
from fedrevive_core.errors import ConfigError
from fedrevive_core.timeline import expected_staleness
from reproduce.classroom import apart, plain, submissions
from reproduce.classroom.course import edition, exercises
from reproduce.classroom.judge import Group, Limits, judged
from reproduce.classroom.results import GRADEBOOK, first_sentence
from reproduce.classroom.submissions import read_notebook, read_submissions

TEXT = nbformat.writes(edition(NOTEBOOK, seed=7, student="ana"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
STUBS = [exercise.stub for exercise in exercises(NOTEBOOK)]


def one(raw: bytes, student: str = "ana") -> submissions.Submission:
    return read_notebook(student, NOTEBOOK, raw, NOW)


def outcomes(
    answers: dict[int, list[str]], notebook: str = NOTEBOOK, seed: int | None = None, seconds: float = 20
) -> list[tuple[Any, ...]]:
    given = {exercise.number: answers.get(exercise.number, [exercise.stub]) for exercise in exercises(notebook)}
    found = list(judged(Group(notebook, seed, {"ana": given}, (), Limits(seconds, 1000))))
    return [(o.kind, o.message, o.marks, o.own) for o in sorted(found, key=lambda o: o.number) if o.number in answers]


# -- reading -----------------------------------------------------------------------------------------------------------


def test_an_untouched_copy_is_open_and_unchanged() -> None:
    read = one(TEXT.encode())
    assert read.answers == {n + 1: [stub] for n, stub in enumerate(STUBS)}
    assert (read.changed, read.notes, read.problem) == ([], [], "")


def test_answers_are_taken_from_their_cells_and_from_added_ones_that_assign_the_name() -> None:
    document = json.loads(answered(TEXT, [COUNT + "1", STUBS[1], "x = (", "mean_staleness_does = 'stays'"]))
    code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    code[0]["source"].append("\nimport os")
    code[1]["source"] = "".join(code[1]["source"]).replace("num_clients = 60", "num_clients = 61")
    added = {
        "cell_type": "code",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
        "source": "y = 1\npredicted_mean = 3",
    }
    document["cells"] += [added, dict(added, source="helper = 1")]
    del document["cells"][-3]
    read = one(json.dumps(document).encode())
    assert read.answers == {1: [COUNT + "1"], 2: [added["source"]], 3: ["x = ("], 4: ["mean_staleness_does = 'stays'"]}
    assert read.changed == [
        "code cell 1 `import numpy as np` was changed",
        "parameters (num_clients)",
        "2 code cells added",
    ]


def test_copies_of_others_and_copies_without_ids_are_recognised() -> None:
    assert one(TEXT.encode(), "bob").notes == ["this copy was released to ana"]
    document = json.loads(answered(TEXT, ["", "predicted_mean = 3", "", ""]))
    for cell in document["cells"]:
        del cell["id"]
    read = one(json.dumps(document).encode())
    assert (read.answers[1], read.answers[2]) == ([], ["predicted_mean = 3"])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no notebook of format 4"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (broken(TEXT.encode(), "not UTF-8"), "not UTF-8"),
        (broken(TEXT.encode(), "cut"), "no notebook of format 4 (JSONDecodeError)"),
        (broken(b"", "deep"), "no notebook of format 4"),
        (b"[]", "no notebook of format 4 (TypeError)"),
        (b'{"worksheets": []}', "no notebook of format 4 (KeyError)"),
        (b'{"cells": 3}', "no list of at most"),
        (b'{"cells": [3]}', "a cell of it has no source"),
        (b'{"cells": [{"cell_type": "code", "source": [1]}]}', "a cell of it has no source"),
        (json.dumps({"cells": [{}] * 2001}).encode(), "no list of at most 2000 cells"),
    ],
)
def test_what_is_no_notebook_has_a_problem(raw: bytes, words: str) -> None:
    assert words in one(raw).problem


def test_other_encodings_are_read() -> None:
    for raw in (TEXT.encode("utf-16"), b"\xef\xbb\xbf" + TEXT.encode(), TEXT.replace("\n", "\r\n").encode()):
        assert one(raw).problem == ""
        assert one(raw).changed == []


def test_links_and_zips_that_lead_elsewhere_are_not_followed(tmp_path: Path) -> None:
    secret, folder = tmp_path / f"{NOTEBOOK}.ipynb", tmp_path / "in"
    secret.write_text(TEXT, encoding="utf-8")
    (folder / "ana").mkdir(parents=True)
    (folder / "ana" / f"{NOTEBOOK}.ipynb").symlink_to(secret)
    (folder / "ana" / "sub").symlink_to(tmp_path, target_is_directory=True)
    (folder / "bob").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(folder / "eve.zip")
    link = zipfile.ZipInfo(f"{NOTEBOOK}.ipynb")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(folder / "joe.zip", "w") as archive:
        archive.writestr(link, str(secret))
        archive.writestr(f"../../{NOTEBOOK}.ipynb", TEXT)
        archive.writestr(f"/{NOTEBOOK}.ipynb", TEXT)
    read = {found.student_id: found for found in read_submissions(folder)}
    assert "is a link or no file, and was not opened" in read["ana"].problem
    assert read["bob"].problem == "it is a link"
    assert read["eve"].problem == "it is neither a folder nor a .zip"
    assert "is a link, and was not read" in read["joe"].problem
    assert read["joe"].problem.count("leads out of its folder, and was not read") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"in", f"{NOTEBOOK}.ipynb"}


@pytest.mark.parametrize("kind", ["bomb", "many", "damaged", "encrypted", "cut"])
def test_bad_zips_end_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(submissions, "BYTES", 100_000)
    raw = zipped({f"{NOTEBOOK}.ipynb": TEXT.encode()} if kind != "bomb" else {f"{NOTEBOOK}.ipynb": b" " * 10**7})
    if kind == "many":
        raw = zipped({f"{n}.txt": b"" for n in range(300)})
    if kind == "damaged":
        raw = raw[:200] + bytes(1000) + raw[1200:]
    if kind == "encrypted":
        raw = raw.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01").replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
        )
    if kind == "cut":
        raw = raw[:-100]
    (tmp_path / "ana.zip").write_bytes(raw)
    (read,) = read_submissions(tmp_path)
    words = {"bomb": "more than 100,000 bytes", "many": "more than 200 files"}.get(kind, "the zip")
    assert words in read.problem


def test_a_folder_with_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is empty"):
        read_submissions(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_submissions(tmp_path / "none")


# -- judging -----------------------------------------------------------------------------------------------------------


def test_plain_data_keep_their_kind_and_nothing_else_passes() -> None:
    values = [
        None,
        True,
        3,
        2.5,
        float("inf"),
        "text",
        [1, (2.0, "x")],
        np.float32(1.5),
        np.int64(3),
        np.arange(6.0).reshape(2, 3),
    ]
    back = plain.loads(plain.dumps(values))
    assert [type(value) for value in back] == [type(value) for value in values]
    assert back[:7] == values[:7]
    assert np.array_equal(back[-1], values[-1])
    tensor = torch.arange(4.0).reshape(2, 2)
    assert torch.equal(plain.loads(plain.dumps(tensor)), tensor)
    for value in (object(), {1: 2}, print, torch.nn.Linear(1, 1), np.array([object()]), 10**30, [[[[[[[[1]]]]]]]]):
        with pytest.raises(plain.NotPlain):
            plain.dumps(value)
    for raw in (
        b"",
        b"{}",
        b'{"array": "|O", "shape": [1], "data": ""}',
        b'{"scalar": "<f8", "data": ""}',
        b"[" * 10**5,
    ):
        with pytest.raises(plain.NotPlain):
            plain.loads(raw)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.processes)])
def test_values_and_functions_are_judged_with_the_students_seed(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The same on systems that cannot copy a process."""
    if method not in apart.multiprocessing.get_all_start_methods():
        pytest.skip("this system has no such processes")
    from fedrevive_core import build
    from fedrevive_notebooks.lessons import staleness as lesson

    monkeypatch.setattr(apart, "METHOD", method)
    ((kind, message, marks, own),) = outcomes({2: ["predicted_mean = 3"]}, seed=77)
    sizes = {"federation.num_clients": 60, "federation.concurrency": 13}
    federation = build("lab-digits", "fedrevive", overrides=sizes).federation
    asked = lesson.changed(federation, 5000, buffer_size=4)
    measured = f"{lesson.mean_staleness(asked, 77):.3g}"
    assert (kind, marks, own) == ("right", [], False)
    law = f"Little's law, below, says {expected_staleness(asked):.3g}."
    assert message == f"A run of 1250 versions has {measured}; {law}"


def test_the_limit_is_of_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy computer makes no answer wrong: one that has to wait may take longer."""
    waits = "import time\ntime.sleep({})\nmean_staleness_does = 'stays'"
    found = outcomes({2: ["predicted_mean = 3\nwhile True: pass"], 4: [waits.format(1.5)]}, seconds=1)
    assert next(message for _, message, *_ in found) == "it takes longer than 1 seconds of processor time"
    assert [kind for kind, *_ in found] == ["time", "right"]
    monkeypatch.setattr(apart, "PATIENCE", 1)
    ((kind, message, *_),) = outcomes({4: [waits.format(10**6)]}, seconds=1)
    assert (kind, message) == ("time", "it takes longer than 1 seconds, most of them waiting")


@pytest.mark.processes
def test_gradients_and_models_pass_between_the_processes() -> None:
    """Exercises of 03 and 04, whose answers return losses with gradients, or are asked about a model."""
    norm = "torch.linalg.vector_norm"
    loss = f"""def feature_loss(x, mean, var):
    batch_var, batch_mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    return ({norm}(batch_mean - mean) + {norm}(batch_var - var))"""
    moved = "def proportions(model, noise, T):\n    return (model{}(noise) / T).softmax(dim=1).mean(dim=0)"
    found = outcomes({2: [loss], 4: [moved.format(".eval()")]}, "03_synthesis")
    assert [(kind, own) for kind, _, _, own in found] == [("right", False)] * 2
    found = outcomes({2: [loss + ".detach()"], 4: [moved.format("")]}, "03_synthesis")
    assert [kind for kind, *_ in found] == ["wrong", "wrong"]
    assert "has no gradient" in found[0][1]
    assert "The model was in training mode" in found[1][1]
    cut = loss.replace("(batch_mean - mean)", "((batch_mean - mean).detach())")
    assert "not its gradient by x" in outcomes({2: [cut]}, "03_synthesis")[0][1]
    changes = "def weights(q):\n    q /= q.sum(axis=0)\n    return q"
    assert "Your function changes q" in outcomes({1: [changes]}, "04_distillation")[0][1]


def test_only_what_is_no_data_is_judged_in_the_students_process() -> None:
    linear = "hidden = [nn.Flatten(), nn.Linear(64, 32), StatisticProbe(32), nn.ReLU()]"
    model = f"def make_model():\n    {linear}\n    return nn.Sequential(*hidden, nn.Linear(32, 10))"
    forged = "import fedrevive_notebooks.lessons.own as own\nown.check_own_model = lambda *_: own.right('yes')\n"
    ((kind, _, marks, own),) = outcomes({1: [model]}, "09_your_own")
    assert (kind, marks, own) == ("right", [], True)
    ((kind, _, marks, own),) = outcomes({1: [forged + "def make_model():\n    return 3"]}, "09_your_own")
    assert kind == "marked"
    assert marks == ["replaced fedrevive_notebooks.lessons.own.check_own_model"]
    # Where our own answer is data, an object that only its own process can judge is not believed.
    three = "class A:\n    shape = ()\n    def __array__(self, *a, **k): return np.array(3.0)\npredicted_mean = A()"
    ((kind, _, marks, _),) = outcomes({2: [three]})
    assert (kind, marks) == ("marked", ["the answer is no plain data, and ours is"])


@pytest.mark.processes
def test_pieces_that_change_models_in_place_are_judged() -> None:
    solved = {e.number: ["solve = True\n" + e.solution] for e in exercises("11_from_scratch")}
    assert [(kind, marks) for kind, _, marks, _ in outcomes(solved, "11_from_scratch")] == [("right", [])] * 8


# -- telling -----------------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_the_table_tells_who_handed_in_what(call: Any, tmp_path: Path) -> None:
    roster = tmp_path / "roster.csv"
    roster.write_text("student_id,last_name\nana,=cmd\nbob,B\n", encoding="utf-8")
    assert call("classroom", "release", "--out", tmp_path / "lab", "--students", roster, "--key", "k")[0] == 0
    text = answered(TEXT, [STUBS[0], "predicted_mean = 13/4", *STUBS[2:]])
    for name in ("Ana", "mallory"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / f"{NOTEBOOK}.ipynb").write_text(text)
    given = ("classroom", "collect", tmp_path / "in", "--released", tmp_path / "lab", "--out", tmp_path / "t.csv")
    code, out, error = call(*given)
    assert code == 0, error
    assert "3 open, 1 wrong" in out
    text = (tmp_path / "t.csv").read_text(encoding="utf-8-sig")
    rows = {row["student_id"]: row for row in csv.DictReader(io.StringIO(text))}
    assert [rows["ana"][f"exercise {n}"] for n in (1, 2, 3, 4)] == ["open", "wrong: Nearly.", "open", "open"]
    assert (rows["ana"]["last_name"], rows["ana"]["right"]) == ("'=cmd", "0 of 4")
    assert rows["bob"]["exercise 1"] == "missing"
    assert rows["mallory"]["exercise 1"] == "unreadable: the name is not in the roster"
    grades = list(csv.reader(io.StringIO((tmp_path / "t-gradebook.csv").read_text(encoding="utf-8-sig"))))
    assert tuple(grades[0]) == GRADEBOOK
    assert [row[7:] for row in grades[1:]] == [["0.0", "0.0", "0.0", "4.0"]] * 3
    assert "Usual mistakes in 01_staleness" in (tmp_path / "t.html").read_text(encoding="utf-8")
    assert call(*given[:-1], tmp_path / "t.txt")[0] == 2
    (tmp_path / "t.csv").unlink()
    code, _, error = call(*given)
    assert (code, "would replace" in error) == (2, True)


def test_the_first_sentence_ends_where_a_reader_would_say() -> None:
    assert first_sentence("Nearly. While a job runs ...") == "Nearly."
    assert (
        first_sentence("def name(...): ... return ...; this is a int.")
        == "def name(...): ... return ...; this is a int."
    )
    assert first_sentence("It is 3.5 points. No.") == "It is 3.5 points."
    assert first_sentence("no end") == "no end"
    assert first_sentence("Your answer could not be used. Give a pair. Python says: no.") == "Give a pair."
