"""Who was heard: curves and weights worked by hand, and against the server's own teachers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import small

from fedrevive_core.config.presets import build
from fedrevive_core.plots import in_words, plot_participation
from fedrevive_core.records.participation import class_table, gini, intake, lorenz, slow_classes, update_counts
from fedrevive_core.records.record import Record
from fedrevive_core.simulation.simulation import Simulation


def test_two_of_four_clients_have_all_updates() -> None:
    """0, 0, 4, 4: the curve is flat to 1/2 and then rises to 1; it encloses 1/4 with the diagonal."""
    counts = np.array([4, 0, 4, 0])
    assert lorenz(counts).tolist() == [0, 0, 0, 0.5, 1]
    assert gini(counts) == 0.5
    assert gini(np.full(7, 3)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 0, 9])) == pytest.approx(1 - 1 / 5)
    assert np.isnan(gini(np.zeros(3)))


def arrivals(*rows: dict[str, Any]) -> pd.DataFrame:
    usual = {"beta": 0.0, "revived": False, "rejected": "", "distilled_norm": np.nan, "not_teaching": ""}
    return pd.DataFrame([{**usual, **row} for row in rows])


def config(method: str = "fedrevive", **settings: Any) -> Any:
    return build("lab-digits", method, overrides={"federation.num_clients": 4, "federation.concurrency": 4} | settings)


def test_five_arrivals_by_hand() -> None:
    """Two teachers at most. Client 0 counts whole: there is nothing to blend in yet. Of client 1's update half is
    distilled, from 0 and 1; client 2's update is rejected; client 3's model may not teach, and beta 0.8 of its update
    is distilled from 0 and 1 again; client 2's second upload is replaced by what 1 and 2 teach."""
    revived = {"revived": True, "distilled_norm": 1.0}
    table = arrivals(
        {"client": 0, "beta": 0.9},
        {"client": 1, "beta": 0.5, **revived},
        {"client": 2, "beta": 0.5, "rejected": "client update not finite"},
        {"client": 3, "beta": 0.8, **revived, "not_teaching": "too long"},
        {"client": 2, "beta": 1.0, **revived},
    )
    own, taught = intake(table, config(**{"revival.num_teachers": 2}))
    assert own == pytest.approx([1.0, 0.5, 0.0, 0.2])
    assert taught == pytest.approx([0.65, 1.15, 0.5, 0.0])
    assert update_counts(table, 4).tolist() == [1, 1, 1, 1]


def test_without_a_reviver_the_weight_is_lost() -> None:
    table = arrivals({"client": 1, "beta": 0.25}, {"client": 1, "beta": 1.0})
    own, taught = intake(table, config("afl-dw"))
    assert own.tolist() == [0, 0.75, 0, 0]
    assert not taught.any()


def test_a_distilled_update_that_was_rejected_leaves_the_clients_own() -> None:
    table = arrivals({"client": 2, "beta": 0.75, "rejected": "distilled update not finite"})
    own, taught = intake(table, config())
    assert own.tolist() == [0, 0, 1, 0]
    assert not taught.any()


def test_a_blend_of_zero_teaches_nothing() -> None:
    """The authors' first code blended zero before distillation."""
    own, taught = intake(arrivals({"client": 2, "beta": 0.75, "revived": True, "distilled_norm": 0.0}), config())
    assert own.tolist() == [0, 0, 0.25, 0]
    assert not taught.any()


def test_a_client_that_there_is_not_is_refused() -> None:
    for client in (4, -1, 10**17):
        with pytest.raises(ValueError, match="a client is none of 0 to 3"):
            update_counts(arrivals({"client": client}), 4)


@pytest.mark.parametrize("faults", [{}, {"federation__faults__non_finite": 0.2, "revival__teacher_agreement": 0.3}])
def test_the_distilled_part_is_what_the_server_distilled(faults: dict[str, Any]) -> None:
    """Beside the server's own teachers: the class proportions that each distillation got, weighted by beta."""
    simulation = Simulation(small("fedrevive", revival__proportions="true", federation__max_versions=30, **faults))
    assert simulation.reviver is not None
    distilled, inner = [], simulation.reviver.distiller.distil_from

    def spied(state, states, pool, shares, rng):
        distilled.append((simulation.num_processed, shares.mean(axis=0)))
        return inner(state, states, pool, shares, rng)

    simulation.reviver.distiller.distil_from = spied
    record = simulation.run(progress=False)
    rows = record.arrivals
    expected = sum(rows["beta"][number] * shares for number, shares in distilled if rows["revived"][number])
    assert len(distilled) > 10
    assert bool(faults) == ("not_teaching" in rows) == (rows["rejected"] != "").any()
    own, taught = intake(rows, record.config)
    assert taught @ simulation.data.class_proportions == pytest.approx(expected)
    total = own.sum() + taught.sum()
    assert record.classes["distilled"].to_numpy() == pytest.approx(expected / total)
    assert record.classes[["own", "distilled"]].to_numpy().sum() == pytest.approx(1)


def test_a_table_of_two_classes_by_hand() -> None:
    """Client 2 is slow: it holds 6 of 8 samples of class b, and its one update of four is 1/4 of what is taken in."""
    counts = np.array([[4, 0], [4, 2], [0, 6]])
    groups = {"fast": np.array([0]), "medium": np.array([1]), "slow": np.array([2])}
    evaluations = {"sim_time": [0.0, 4.0, 10.0], "class_accuracy": [[0.0, 0.0], [0.5, 0.0], [1.0, 0.5]]}
    table = class_table(["a", "b"], counts, groups, (np.array([2.0, 0, 1]), np.array([0, 0, 1.0])), evaluations, 10.0)
    assert table["held"].tolist() == [0.5, 0.5]
    assert table["slow"].tolist() == [0, 0.75]
    assert table["own"].tolist() == [0.5, 0.25]
    assert table["distilled"].tolist() == [0, 0.25]
    assert table["final_accuracy"].tolist() == [1.0, 0.5]
    assert table["mean_accuracy"].tolist() == pytest.approx([0.3, 0.0])
    assert slow_classes(table) == {
        "names": "b", "number": 1, "held": 0.5, "own": 0.25, "distilled": 0.25,
        "final_accuracy": 0.5, "mean_accuracy": 0.0,
    }  # fmt: skip
    assert slow_classes(table.assign(slow=0.5))["final_accuracy"] is None


def test_the_figure_says_what_the_record_says() -> None:
    record = Simulation(small("fedrevive", data__speed_skew=1.0)).run(progress=False)
    words = in_words(plot_participation(record))
    for said in (f"Gini {record.summary['gini']:.2f}", "Who was heard: FedRevive", "taken in: distilled"):
        assert said in words
    first = record.classes.sort_values("slow", ascending=False, kind="stable").iloc[0]
    assert f"held by clients: {first['class']} {first['slow']:.0%}: {100 * first['held']:.1f}%" in words
    updates = record.summary["speed_group_updates"]
    assert ", ".join(f"{name}: {updates[name]:.3g}" for name in ("fast", "medium", "slow")) in words


def test_an_older_record_has_no_such_table(tmp_path) -> None:
    record = Simulation(small("afl-dw")).run(progress=False)
    older = Record(**{**vars(record), "classes": pd.DataFrame()})
    older.save(tmp_path / "older")
    loaded = Record.load(tmp_path / "older")
    assert loaded.classes.empty
    with pytest.raises(ValueError, match="older version"):
        plot_participation(loaded)


def test_two_clients_have_no_slowest_third() -> None:
    """Warnings of empty means are errors here."""
    config = small("fedbuff", federation__num_clients=2, federation__concurrency=2, federation__max_versions=2)
    record = Simulation(config).run(progress=False)
    assert list(record.summary["speed_group_updates"]) == ["fast", "medium"]
    plot_participation(record)
