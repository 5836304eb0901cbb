"""What docs/RESULTS.md says is what the committed runs say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedrevive_core.config import flatten
from fedrevive_core.records import summarise
from reproduce.evidence import endings, images, studies
from reproduce.evidence import tables as evidence
from reproduce.evidence.common import MAP, RECORDS, TRIALS, TUNED, best_settings
from reproduce.evidence.figures import plot_compute, plot_leads, plot_slow_owners, plot_winners
from reproduce.evidence.measured import PLUS, proxy_quality
from reproduce.evidence.tables import HEADLINE, PAGE, SLOW, SLOW_TUNING, TUNING
from reproduce.reports.claims import label
from reproduce.reports.report import read_report
from reproduce.sweeps.experiment import load_experiment
from reproduce.sweeps.results import collect

STUDIES = (
    "rivals", "paper-rates", "jobs-in-flight", "teachers-without-end", "weights", "ablation-second", evidence.STORE,
    *images.EXPERIMENTS,
)  # fmt: skip


def test_the_tables_are_those_of_the_committed_runs() -> None:
    assert evidence.filled(PAGE.read_text(encoding="utf-8")) == PAGE.read_text(encoding="utf-8")


def test_every_table_has_its_place() -> None:
    page = PAGE.read_text(encoding="utf-8")
    places = re.findall(r"<!-- begin (\S+) -->", page)
    assert places == re.findall(r"<!-- end (\S+) -->", page)
    assert set(places) == set(evidence.TABLES)


@pytest.mark.parametrize(
    ("tuned", "name"),
    [
        (TUNING, MAP),
        (SLOW_TUNING, SLOW),
        ("rivals-tuning", "rivals"),
        ("rivals-taught-tuning", "rivals"),
        ("jobs-in-flight-tuning", "jobs-in-flight"),
        ("slow-owners-store-tuning", evidence.STORE),
        ("image-pools-28-tuning", "image-pools-28"),
        ("image-pools-styles-tuning", "image-pools-styles"),
        ("fashion-tuning", "image-pools-fashion"),
    ],
)
def test_results_use_what_tuning_found(tuned: str, name: str) -> None:
    """Each method has the settings that scored best in each cell, of as many tried as every other method's."""
    tuning = read_report(TRIALS / tuned)
    assert tuning.missing == []
    tried = tuning.records.runs.groupby(["method", *tuning.experiment.grid], observed=True).size()
    assert tried.nunique() == 1
    arms = load_experiment(name).arms_at("lab")
    for point, method, best in best_settings(tuning):
        same = [arm for arm in arms.values() if arm.method == method]  # several where pools differ
        settings = {name: best[name] for name in TUNED if name in best}
        assert all(settings.items() <= arm.at(point).items() for arm in same)
        assert same or name.startswith("image-pools")  # some have fewer baselines than were tuned


def test_every_rule_has_the_parameter_that_tuning_found() -> None:
    tuning = read_report(TRIALS / "weights-tuning")
    assert tuning.missing == []
    assert set(tuning.records.runs.groupby([*tuning.experiment.grid, "staleness.rule"], observed=True).size()) == {9}
    arms = load_experiment("weights").arms_at("lab")
    found = best_settings(tuning, "staleness.rule")
    assert len(found) == 2 * len(arms)
    for point, rule, best in found:
        assert {name: best[name] for name in TUNED if name in best}.items() <= arms[rule].at(point).items()


@pytest.mark.parametrize("name", [MAP, "sceptic", PLUS, HEADLINE, "lab-fashion", SLOW, *STUDIES, *evidence.ABLATIONS])
def test_results_are_of_seeds_that_did_not_tune(name: str) -> None:
    if not (RECORDS / name).exists():
        assert f"`{name}`" in PAGE.read_text(encoding="utf-8").partition("## Does not hold, not tested")[2]
        return
    found = collect(RECORDS / name)
    assert found.missing == []
    assert found.failures == {}
    assert set(found.records.runs["seed"]) == {0, 1, 2, 3, 4}
    shipped = load_experiment(name)
    assert (found.experiment.arms_at(found.scale), found.grid) == (shipped.arms_at("lab"), shipped.grid_at("lab"))


def test_a_cell_that_is_not_won_is_not_bold() -> None:
    verdicts = read_report(RECORDS / MAP).verdicts
    rows = {f"concurrency={row['K']}, alpha={row['alpha']}": row for row in evidence.map_table()}
    for verdict in verdicts[verdicts["metric"] == "final_accuracy"].to_dict("records"):
        clear = verdict["low"] > 0 or verdict["high"] < 0
        assert rows[verdict["at"]]["lead at the end"].startswith("**") == clear
        assert f"{verdict['ours']:+.1f}" in rows[verdict["at"]]["lead at the end"]


def test_runs_made_again_are_held_against_the_committed_ones(tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(RECORDS / MAP, again)
    assert {row["as before"] for row in evidence.compare_with_committed(again)} == {"yes"}
    assert {row["identical"] for row in evidence.compare_with_committed(again)} == {"5"}
    runs = pd.read_parquet(again / "runs.parquet")
    cell = (runs["arm"] == "fedrevive") & (runs["federation.concurrency"] == 80) & (runs["data.alpha"] == 0.1)
    evaluations = pd.read_parquet(again / "evaluations.parquet")
    evaluations.loc[evaluations["run"].isin(runs.loc[cell, "run"]), "accuracy"] -= 0.1
    for number, row in runs[cell].iterrows():
        numbers = summarise(evaluations[evaluations["run"] == row["run"]], row["sim_time"])
        for name, value in flatten(numbers, " ").items():
            runs.loc[number, name] = value
    for name, table in (("runs", runs), ("evaluations", evaluations)):
        table.to_parquet(again / f"{name}.parquet")
    wrong = [row for row in evidence.compare_with_committed(again) if row["as before"] == "no"]
    point = {"federation.concurrency": 80, "data.alpha": 0.1}
    assert [(row["arm"], row["at"]) for row in wrong] == [("fedrevive", label(point))]


def test_the_figures_show_every_cell_and_every_arm() -> None:
    figure = plot_winners(read_report(RECORDS / MAP), evidence.SCORES)
    assert [len(axes.texts) for axes in figure.axes] == [9, 9]
    leads = evidence.ablation_leads()
    (axes,) = plot_leads(leads).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(leads["arm"])[::-1]
    flops = {"client_job": 1e9, "fedrevive": 3e9}
    work = plot_compute(collect(RECORDS / MAP).records.evaluations, flops).axes[1]
    ends = {line.get_label(): line.get_xdata()[-1] for line in work.lines}
    assert ends["fedrevive"] == pytest.approx(4 * ends["afl-dw"])


def test_slow_owners_classes_are_the_same_everywhere() -> None:
    """Those that the record calls owned at skew 1; their accuracy there is the record's own."""
    runs = evidence.slow_runs()
    slow = runs[runs["data.speed_skew"] == 1]
    assert slow["slow_classes number"].nunique() == 1
    assert slow["owned"].to_numpy() == pytest.approx(slow["slow_classes mean_accuracy"].to_numpy(float))
    assert len(evidence.slow_leads_table()) == 9
    figure = plot_slow_owners(runs)
    assert [len(axes.containers) for axes in figure.axes] == [4, 4]
    for axes, score in zip(figure.axes, ("owned", "others"), strict=True):
        (shown,) = (bars for bars in axes.containers if bars.get_label() == "FedRevive")
        means = runs[runs["arm"] == "fedrevive"].groupby("data.speed_skew")[score].mean()
        assert shown.lines[0].get_ydata() == pytest.approx(means.to_numpy())


def test_quality_of_a_proxy_of_two_clients() -> None:
    """Truth (1, 0) and (0, 1), estimates (0.8, 0.2) and (0.6, 0.4): distances 0.2 and 0.6, to the other 0.8 and 0.4."""
    found = proxy_quality(np.array([[0.8, 0.2], [0.6, 0.4]]), np.eye(2))
    assert found == pytest.approx({"clients": 2, "distance": 0.4, "to_others": 0.6, "of_uniform": 0.5, "largest": 0.5})


def test_the_second_cell_has_changes_that_the_first_has() -> None:
    """The same settings, except the rate of distillation, which is a third of the cell's own."""
    second = load_experiment("ablation-second").arms_at("lab")
    assert set(second) == {"fedrevive", *studies.FIRST}
    for arm, first in studies.FIRST.items():
        known = load_experiment(first).arms_at("lab")[arm].settings
        if arm == "slower":
            assert (known, second[arm].settings) == ({"distillation.lr": 3e-4}, {"distillation.lr": 1e-3})
        else:
            assert second[arm].settings == known


def test_the_end_is_the_last_tenth_of_each_run() -> None:
    """Versions 3,620 to 4,000 at every 20th; of each method the rate that is higher there, of two."""
    results = collect(RECORDS / "end-of-run")
    assert (results.missing, results.failures) == ([], {})
    assert results.experiment.arms_at(results.scale) == load_experiment("end-of-run").arms_at("lab")
    curves = results.records.evaluations.set_index("version")["accuracy"].groupby(
        results.records.evaluations["run"].array
    )
    cells = list(endings.end_cells())
    assert [list(point.values()) for point, *_ in cells] == [list(cell) for cell in studies.CELLS]
    for point, runs, its in cells:
        assert set(runs.groupby("arm")["seed"].agg(tuple)) == {(0, 1, 2)}
        for row in runs.to_dict("records"):
            curve = curves.get_group(row["run"])
            last, before = curve.loc[3620:4000].to_numpy(), curve.loc[3220:3600].to_numpy()
            assert (len(last), len(before)) == (20, 20)
            assert (row["end"], row["gained"]) == pytest.approx((last.mean(), last.mean() - before.mean()))
            assert row["reached"] == curve.index[curve >= 0.9][0]
        everything = results.records.runs[
            results.records.runs["federation.concurrency"] == point["federation.concurrency"]
        ]
        for arm, kept in runs.groupby("arm"):
            rates = everything[everything["arm"].isin([arm, f"{arm}-half"])].groupby("server.lr")["run"].agg(list)
            assert len(rates) == 2
            means = {
                rate: np.mean([curves.get_group(run).loc[3620:].mean() for run in its]) for rate, its in rates.items()
            }
            assert set(kept["server.lr"]) == {max(means, key=lambda rate: means[rate])}
        assert set(its["arm"]) == set(runs["arm"])
    rows = endings.end_table()
    assert len(rows) == sum(runs["arm"].nunique() for _, runs, _ in cells)
    drawn = [[line.get_ydata()[-1] for line in axes.lines] for axes in endings.plot_end().axes]
    for (_, _, its), ends in zip(cells, drawn, strict=True):
        final = its[its["version"] == 4000].groupby("arm")["accuracy"].mean()
        assert ends == pytest.approx([final[arm] for arm in dict.fromkeys(its["arm"])])


def test_every_rule_is_held_against_the_best_constant() -> None:
    rows, panels = studies.weights_table(), studies.plot_weights().axes
    names = [tick.get_text() for tick in panels[0].get_yticklabels()]  # of both panels
    for axes, staleness in zip(panels, ("80", "40"), strict=True):
        said = {row["rule"]: row["above the best constant, over the run"] for row in rows if row["K"] == staleness}
        assert said.pop("constant") == ""
        assert names == list(said)[::-1]
        drawn = [float(bars.lines[0].get_xdata()[0]) for bars in axes.containers]
        assert drawn[::-1] == pytest.approx([float(lead.strip("*†").split()[0]) for lead in said.values()], abs=0.051)


def test_a_teacher_of_every_client_is_held_against_all_methods_on_the_same_timelines() -> None:
    runs = evidence.slow_runs(evidence.STORE)
    runs = runs[runs["data.speed_skew"] == 1]
    assert runs.groupby("seed")["sim_time"].nunique().max() == 1
    rows = evidence.slow_store_table()
    assert len(rows) == runs["arm"].nunique() == 6
    (own,) = (row for row in rows if not row["lead on all"])
    assert own["method"] == "FedRevive, a teacher of every client"


def test_other_splits_are_paired_by_split() -> None:
    """The lead over AFL-DW where K = 80, from each of the eight splits by hand."""
    results = collect(RECORDS / "other-splits")
    assert (results.missing, results.failures) == ([], {})
    assert results.experiment.arms_at(results.scale) == load_experiment("other-splits").arms_at("lab")
    runs = results.records.runs
    cell = runs[runs["federation.concurrency"] == 80].set_index(["data.split_seed", "arm"])["mean_accuracy"]
    leads = [100 * (cell[split, "fedrevive"] - cell[split, "afl-dw"]) for split in range(1, 9)]
    rows = studies.splits_table()
    assert [(row["K"], row["over"]) for row in rows][1] == ("80", "AFL-DW")
    assert rows[1]["lowest to highest over the run"] == f"{min(leads):+.1f} to {max(leads):+.1f}"
    assert rows[1]["lead over the run, 8 splits"].startswith(f"**{np.mean(leads):+.1f} ± ")
