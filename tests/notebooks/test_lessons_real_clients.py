"""What 12_real_clients says and draws, and its checks: the right answer, each mistake by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from verdicts import Answers, cases, judge

from fedrevive_core import Record, Timeline
from fedrevive_core.errors import ConfigError
from fedrevive_notebooks.lessons import real_clients as lesson

TIMELINE = Timeline.load(lesson.RECORDING)
SHARE = np.bincount(TIMELINE.client[TIMELINE.arrivals]) / 150


def of_each(duration, client, function):
    return np.array([function(duration[client == number]) for number in range(client.max() + 1)])[client]


MEAN = Answers(
    lesson.check_mean,
    f"For the live run it says 5.00; its 150 arrivals have {TIMELINE.arrival_staleness.mean():.2f} on average",
    [lambda k, b: (k - 1) / b, lambda num_processes, buffer_size: np.float64(num_processes - 1) / buffer_size],
    {
        "Nearly": lambda k, b: k / b,
        "one version takes buffer_size": lambda k, b: k - 1,
        "staleness counts versions": lambda k, b: k,
        "divide by it": lambda k, b: (k - 1) * b,
        "makes fewer versions": lambda k, b: k * b,
        "This is half of it": lambda k, b: (k - 1) / b / 2,
        "other way round": lambda k, b: b / (k - 1),
        "For 6 processes and B = 1 yours says 3.": lambda k, b: 3,
        "not for 11 processes and B = 5": lambda k, b: {(6, 1): 5, (6, 2): 2.5, (8, 4): 1.75}.get((k, b), 1),
        "called with 2 arguments": lambda k: k - 1,
    },
    lambda: (TIMELINE,),
)
SPREAD = Answers(
    lesson.check_spread,
    f"In the live run the spread is {lesson.relative_durations(TIMELINE).std():.2f}; exponential durations have 1",
    [
        lesson.spread,
        lambda duration, client: np.std(duration / of_each(duration, client, np.mean)),
    ],
    {
        "it also measures that some are slower": lambda duration, client: duration.std() / duration.mean(),
        "These are seconds": lambda duration, client: duration.std(),
        "divide each duration by the mean of its client first": lambda duration, client: np.std(
            duration - of_each(duration, client, np.mean)
        ),
        "take its square root": lambda duration, client: np.var(duration / of_each(duration, client, np.mean)),
        "n - 1": lambda duration, client: np.std(duration / of_each(duration, client, np.mean), ddof=1),
        "is always 1": lambda duration, client: np.mean(duration / of_each(duration, client, np.mean)),
        "not by its median": lambda duration, client: np.std(duration / of_each(duration, client, np.max)),
        "yours gives 0.5": lambda duration, client: 0.5,
        "but not for three clients": lambda duration, client: np.std(np.array([1, 1.5, 0.5, 1])),
        "shape (8,) instead of one number": lambda duration, client: duration / of_each(duration, client, np.mean),
    },
    lambda: (TIMELINE,),
)
SHARES = Answers(
    lesson.check_shares,
    f"In the live run the shares go from {SHARE.min():.1%} to {SHARE.max():.1%}; equal ones would be 16.7%.",
    [lesson.shares, lambda client, n: [np.mean(client == number) for number in range(n)]],
    {
        "must not be left out": lambda client, n: np.bincount(client) / len(client),
        "its share is 0": lambda client, n: np.unique(client, return_counts=True)[1] / len(client),
        "These are counts": lambda client, n: np.bincount(client, minlength=n),
        "percentages": lambda client, n: 100 * np.bincount(client, minlength=n) / len(client),
        "number of clients": lambda client, n: np.bincount(client, minlength=n) / n,
        "heard most": lambda client, n: np.bincount(client, minlength=n) / np.bincount(client).max(),
        "equal shares": lambda client, n: np.full(n, 1 / n),
        "six are from client 0": lambda client, n: np.array([0.5, 0.2, 0.2, 0.1]),
        "five clients of which two are heard": lambda client, n: np.array([0.6, 0.2, 0.2, 0.0]),
    },
    lambda: (TIMELINE,),
)


@pytest.mark.parametrize(("table", "answer", "kind", "words"), cases(MEAN, SPREAD, SHARES))
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


def test_models_have_the_means_of_the_clients_and_the_spread_that_their_names_say() -> None:
    """Jobs of equal length: of two clients, one three times as slow, the slow one misses 3 versions, the fast one 1."""
    relative = lesson.relative_durations(TIMELINE)
    client, duration = lesson.arrived(TIMELINE)
    for number in range(6):
        assert relative[client == number].mean() == pytest.approx(1)
        assert TIMELINE.mean_duration[number] == pytest.approx(duration[client == number].mean())
    assert lesson.spread(duration, client) == pytest.approx(relative.std())
    deviations = [lesson.modelled(TIMELINE, kind, 0).std() for kind in ("constant", "as measured", "exponential")]
    assert deviations == sorted(deviations)
    assert len(lesson.modelled(TIMELINE, "exponential", 0, 4)) == lesson.REPEATS * 37 * 4
    assert lesson.modelled(TIMELINE, "exponential", 0, 4).mean() == pytest.approx(5 / 4, rel=0.1)
    assert lesson.modelled(TIMELINE, "constant", 1).tolist() == lesson.modelled(TIMELINE, "constant", 1).tolist()


def test_a_repetition_says_whether_it_is_the_same() -> None:
    """The first versions of the recording, and the same with another method."""
    live = Record.load(lesson.RECORDING)
    replay, other = (lesson.again(lesson.RECORDING, method, 4) for method in (None, "afl-dw"))
    assert "4 arrivals" in lesson.compared(replay, replay)
    assert lesson.compared(live, other).startswith("**Different** at version 1 in ")  # the first stale update
    assert replay.arrivals["client"].tolist() == live.arrivals["client"].tolist()[:4]
    assert "| FedRevive | 1 | 4 |" in lesson.methods_table([replay])


def test_the_recording_is_small_and_names_no_computer() -> None:
    files = list(lesson.RECORDING.iterdir())
    assert sum(path.stat().st_size for path in files) < 200_000
    record = Record.load(lesson.RECORDING)
    assert not record.model
    assert record.provenance["platform"] == "Linux"
    assert record.config.federation.timeline == "live"


def test_a_panel_says_why_no_run_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The button starts what `live` starts; an error is in the panel, and the next press works."""
    panel = lesson.explore_live(lesson.RECORDING, 150, [10] * 6, 0)

    def refuse(out: Path, *asked: object, show: object) -> None:
        raise ConfigError("no client is left")

    monkeypatch.setattr(lesson, "live", refuse)
    panel.button.click()
    assert "Not finished: ConfigError: no client is left" in panel.status.value
    assert panel.folder == lesson.RECORDING
    assert not panel.button.disabled

    def copy(out: Path, *asked: object, show: object) -> None:
        assert asked == (150, [10] * 6, 0)
        Record.load(lesson.RECORDING).save(out)

    monkeypatch.setattr(lesson, "live", copy)
    panel.button.click()
    assert "Finished: this is your own run" in panel.status.value
    assert panel.folder != lesson.RECORDING
    assert panel.timeline.client.tolist() == TIMELINE.client.tolist()


@pytest.mark.processes
def test_real_processes_of_a_notebook(tmp_path: Path) -> None:
    said = []
    record = lesson.live(tmp_path / "live", 9, [1, 2, 3], show=lambda words, arrivals: said.append(words))
    assert record.summary["num_arrivals"] == 9
    assert "the processes start: 0 of 3 are there ..." in said
    assert lesson.compared(record, lesson.again(tmp_path / "live")).startswith("**Identical**")
    with pytest.raises(ConfigError, match="already holds a run"):
        lesson.live(tmp_path / "live")
