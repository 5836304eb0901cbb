"""The quiz: every verdict can be reached, what it praises is computed, and the notebook asks what the lesson asks."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from scipy import stats
from verdicts import Answers, cases, judge

from fedrevive_core import build, simulate_timeline
from fedrevive_core.revival import kl_divergence, teacher_weights
from fedrevive_core.staleness import beta
from fedrevive_core.timeline import expected_staleness
from fedrevive_core.widgets.timeline import with_stragglers
from fedrevive_notebooks import from_scratch
from fedrevive_notebooks.lessons import ablations, quiz
from fedrevive_notebooks.lessons import staleness as lesson

ROOT = Path(__file__).parents[2]

MEAN = Answers(
    quiz.check_answer,
    "the other 79 jobs arrive",
    ["c", " C ", "c)"],
    {
        "Clients that wait": "a",
        "Nearly": "b",
        "The spread does": "d",
        "no option 'e'": "e",
        "no option '79'": "79",
        "no option ''": "",
        "several letters": "bc",
        "this is a int": 79,
        "this is a list": ["c"],
        "this is a builtin_function_or_method": max,
    },
    lambda: (1,),
)


@pytest.mark.parametrize(("table", "answer", "kind", "words"), cases(MEAN))
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


@pytest.mark.parametrize("number", range(1, 13))
def test_one_option_is_right_and_each_has_its_own_reason(number: int) -> None:
    question = quiz.QUESTIONS[number - 1]
    assert len({text for text, _ in question.options}) == len({says for _, says in question.options}) == 4
    kinds = {letter: quiz.check_answer(letter, number).kind for letter in quiz.LETTERS}
    assert kinds == {letter: "right" if letter == question.right else "wrong" for letter in quiz.LETTERS}


def test_the_right_letters_do_not_follow_a_pattern_and_longest_is_not_always_right() -> None:
    letters = [question.right for question in quiz.QUESTIONS]
    assert set(letters) == set(quiz.LETTERS)
    longest = [
        max(zip(quiz.LETTERS, q.options, strict=True), key=lambda pair: len(pair[1][0]))[0] for q in quiz.QUESTIONS
    ]
    assert sum(map(str.__eq__, longest, letters)) <= 6


def test_the_notebook_asks_what_the_lesson_asks() -> None:
    text = [cell.source for cell in nbformat.read(ROOT / "notebooks" / "10_quiz.ipynb", as_version=4).cells]
    for number, question in enumerate(quiz.QUESTIONS, 1):
        assert any(source.endswith(quiz.markdown(number)) for source in text)
        assert f'if solve:\n    answer_{number} = "{question.right}"' in text
        assert f"lesson.check_answer(answer_{number}, {number})" in text


def test_where_an_answer_is_explained_is_a_section() -> None:
    for question in quiz.QUESTIONS:
        name, _, section = question.read.partition(", section ")
        cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        assert any(f"## {section}. " in cell.source for cell in cells), question.read


def option(number: int, letter: str = "") -> str:
    """The text of the right option of question `number`, or of another one."""
    question = quiz.QUESTIONS[number - 1]
    return question.options[quiz.LETTERS.index(letter or question.right)][0]


def test_what_the_quiz_says_about_staleness_is_true() -> None:
    """Questions 1 to 4, at the sizes that they name."""
    sizes = {"federation.num_clients": 150, "federation.concurrency": 80}
    federation = lesson.changed(build("lab-digits", "fedrevive", overrides=sizes).federation, 6000)
    calm = simulate_timeline(federation, 0).summary()
    assert float(option(1)) == expected_staleness(federation) == pytest.approx(calm["mean_staleness"], rel=0.03)
    slow = lesson.changed(federation, 6000, schedule=with_stragglers(federation.schedule.model_dump(), 20))
    slowed = simulate_timeline(slow, 0).summary()
    assert "The mean stays; the stalest" in option(2)
    assert slowed["mean_staleness"] == pytest.approx(calm["mean_staleness"], rel=0.05)
    assert slowed["max_staleness"] > 2 * calm["max_staleness"]
    worst = {}
    for letter, b, o in (("a", 1, 1), ("b", 12, 1), ("c", 1, 12), ("d", 12, 12)):
        assert option(3, letter) == f"$B = {b}$, $O = {o}$"
        chosen = lesson.changed(federation, 1200, concurrency=12, buffer_size=b, refill_size=o)
        worst[letter] = simulate_timeline(chosen, 0).summary()
    assert [letter for letter, found in worst.items() if found["max_staleness"] == 0] == [quiz.QUESTIONS[2].right]
    assert max(worst, key=lambda letter: worst[letter]["mean_staleness"]) == "a"  # what its verdict says
    config = build("lab-digits", "afl-dw")
    timeline = simulate_timeline(config.federation, 0)
    taus = timeline.staleness[timeline.arrivals]
    lost = np.mean([beta(tau, config.staleness, config.federation) for tau in taus])
    assert option(4) == "Less than one half."
    assert lost < 0.45
    assert np.median(taus) < taus.mean()


def test_what_the_quiz_says_about_the_method_is_true() -> None:
    """Questions 5 to 8, by the functions that the method is made of."""
    states = ({"w": torch.tensor([value])} for value in (0.0, 4.0, -2.0, 0.0))
    current, update, distilled, first = states
    moved = from_scratch.new_version(current, update, distilled, 0.25, first)["w"] / from_scratch.SERVER_LR
    assert float(moved) == pytest.approx(float(option(5)))
    for letter, value in zip("abc", (0.25 * 4 - 0.75 * 2, 0.75 * 4, 4 - 0.25 * 2), strict=True):
        assert float(option(5, letter)) == value  # the mistakes that their verdicts name
    kept = from_scratch.new_version(current, update, distilled, 0.0, first)["w"]
    assert torch.equal(kept, from_scratch.new_version(current, update, None, 0.0, first)["w"])
    assert "every update counts fully" in option(6)
    proportions = np.zeros((2, 10))
    proportions[:, 3] = 0.6, 0.2
    assert teacher_weights(proportions)[0, 3] == pytest.approx(float(option(7)))
    teacher = torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
    student = torch.tensor([[0.0, 1.0], [0.5, 0.0], [3.0, 0.0]])  # another class; the same, less sure; equal
    losses = -1.0 * (teacher.argmax(1) == student.argmax(1)) * kl_divergence(teacher, student)
    assert quiz.LETTERS[int(losses.argmin())] == quiz.QUESTIONS[7].right
    assert losses[[0, 2]].abs().max() == 0


def test_what_the_quiz_says_about_measurements_is_true() -> None:
    """Questions 9 to 11, from the committed records and by Student's t."""
    kept = ablations.kept_by_one_teacher(ablations.open_sweeps(""), "mean_accuracy")
    assert kept is not None
    assert kept < 5
    assert option(9) == "Nothing."
    leads = np.array([1.0, 2.0, 1.5])
    half = stats.t.ppf(0.975, 2) * leads.std(ddof=1) / 3**0.5
    assert leads.mean() - half > 0
    assert (f"{leads.mean():.1f} points", f"{half:.1f}") == ("1.5 points", "1.2")
    assert "1.5 points, its half width 1.2" in quiz.check_answer("d", 10).message
    assert (option(11), 20 * 0.05) == ("One.", 1)
