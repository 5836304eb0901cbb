"""Verdicts on hand-made tables of runs whose answer is known, and the report of a small sweep."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damage
import nbformat
import numpy as np
import pandas as pd
import pytest
import typer
from helpers import small
from nbformat.v4 import new_code_cell, new_notebook

from fedrevive_core import run
from fedrevive_core.errors import ConfigError
from fedrevive_core.plots import plot_curves
from fedrevive_core.records import Altered
from fedrevive_core.records.record import Record
from reproduce.cli import sweeps
from reproduce.cli.sweeps import publish
from reproduce.reports.claims import heard_table, judge_claims, times_table
from reproduce.reports.report import read_report, write_report
from reproduce.sweeps.experiment import Experiment
from reproduce.sweeps.explorer import EVERY, sweep_explorer
from reproduce.sweeps.figures import lead, plot_lead, plot_settings
from reproduce.sweeps.results import pack
from reproduce.sweeps.sweep import run_hash

BOTH = {"lab": True, "paper": True}


def experiment(claims: list[dict[str, Any]], **more: Any) -> Experiment:
    """Arms a, b and c on lab-digits."""
    values = {
        "name": "hand-made",
        "question": "Who wins?",
        "notebook": "08_reproduce",
        "scales": {"lab": {"preset": "lab-digits", "seeds": [0, 1, 2]}},
        "arms": {"a": {"method": "fedrevive"}, "b": {"method": "fedbuff"}, "c": {"method": "afl-dw"}},
        "claims": claims,
    }
    return Experiment.model_validate(values | more)


def lead_claim(**changes: Any) -> dict[str, Any]:
    claim = {"text": "a leads", "source": "v2", "metric": "final_accuracy", "arm": "a", "baselines": ["b", "c"]}
    claim |= {"paper_value": 10, "unit": "accuracy points", "direction": "higher", "tolerance": 2, "comparable": BOTH}
    return claim | changes


def time_claim(**changes: Any) -> dict[str, Any]:
    return lead_claim(metric="time_to 0.6", unit="percent faster", baselines=["b"], paper_value=50, **changes)


def runs(metric: str, **arms: dict[int, float]) -> pd.DataFrame:
    """A row per arm and seed; NaN is a time that was never reached. Runs end at time 20."""
    rows = [
        {"arm": arm, "seed": seed, metric: value, "sim_time": 20.0}
        for arm, values in arms.items()
        for seed, value in values.items()
    ]
    return pd.DataFrame(rows)


def judged(claim: dict[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    (row,) = judge_claims(experiment([claim]), "lab", table).to_dict("records")
    return row


# Seeds differ by 0.2, leads within a seed are 9, 10 and 11 points over b, and b is better than c on average.
PAIRED = runs(
    "final_accuracy",
    a={0: 0.59, 1: 0.70, 2: 0.81},
    b={0: 0.50, 1: 0.60, 2: 0.70},
    c={0: 0.55, 1: 0.40, 2: 0.40},
)


def test_leads_are_taken_within_a_seed_over_the_best_baseline() -> None:
    """Mean 10, standard deviation 1, so 4.303 / sqrt(3) = 2.484; unpaired the interval would be about 24 wide."""
    row = judged(lead_claim(), PAIRED)
    assert (row["against"], row["num_seeds"], row["paired"]) == ("b", 3, True)
    assert row["ours"] == pytest.approx(10)
    assert row["high"] - row["ours"] == pytest.approx(4.30265 / math.sqrt(3), rel=1e-4)
    assert (row["direction"], row["within"], row["verdict"]) == ("yes", "yes", "reproduced")


def test_only_shared_seeds_count() -> None:
    table = PAIRED[~((PAIRED["arm"] == "a") & (PAIRED["seed"] == 0))]
    assert judged(lead_claim(), table)["ours"] == pytest.approx(10.5)
    assert judged(lead_claim(), table)["num_seeds"] == 2


def test_without_shared_seeds_the_interval_is_welchs() -> None:
    """Means 2 and 0 points apart, variances 1 and 1, so the error is sqrt(2/3) with 4 degrees of freedom: 2.776."""
    table = runs("final_accuracy", a={0: 0.51, 1: 0.52, 2: 0.53}, b={3: 0.49, 4: 0.50, 5: 0.51})
    row = judged(lead_claim(baselines=["b"]), table)
    assert not row["paired"]
    assert row["high"] - row["ours"] == pytest.approx(2.77645 * math.sqrt(2 / 3), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"paper_value": 30}, "same direction, other size"),
        ({"direction": "lower", "paper_value": -10}, "contradicted"),
        ({"direction": "equal", "paper_value": None, "tolerance": 20}, "same direction"),
        ({"direction": "equal", "paper_value": None, "tolerance": 1}, "contradicted"),
        ({"direction": "equal", "paper_value": None, "tolerance": 9}, "direction unclear"),
        ({"comparable": {"lab": False}}, "not comparable (other data); same direction"),
        ({"comparable": {"lab": False}, "direction": "lower"}, "not comparable (other data); opposite direction"),
    ],
)
def test_verdicts_in_words(changes: dict[str, Any], words: str) -> None:
    assert judged(lead_claim(**changes), PAIRED)["verdict"] == words


def test_an_interval_that_holds_zero_decides_nothing() -> None:
    table = runs("final_accuracy", a={0: 0.5, 1: 0.7, 2: 0.9}, b={0: 0.6, 1: 0.6, 2: 0.6})
    row = judged(lead_claim(baselines=["b"], paper_value=11), table)
    assert (row["direction"], row["verdict"]) == ("unclear", "within tolerance; direction unclear")


def test_one_seed_has_no_interval_and_no_direction() -> None:
    row = judged(lead_claim(), PAIRED[PAIRED["seed"] == 1])
    assert row["num_seeds"] == 1
    assert math.isnan(row["high"])
    assert row["direction"] == "unclear"


def test_what_was_not_run_is_said() -> None:
    assert judged(lead_claim(), PAIRED[PAIRED["arm"] != "a"])["verdict"] == "not run"
    assert judged(lead_claim(), PAIRED[PAIRED["arm"] == "a"])["verdict"] == "not run"
    assert judged(lead_claim(), PAIRED[PAIRED["arm"] != "c"])["against"] == "b (not run: c)"


def test_a_claim_about_a_value() -> None:
    """Mean 70 points over seeds 59, 70 and 81; direction is no question."""
    claim = lead_claim(baselines=[], direction=None, paper_value=71)
    row = judged(claim, PAIRED)
    assert row["ours"] == pytest.approx(70)
    assert (row["direction"], row["verdict"]) == ("", "reproduced")
    assert judged(claim | {"paper_value": 50}, PAIRED)["verdict"] == "another value"


def test_times_that_all_runs_reach() -> None:
    """Half, half and 40% of the base's time."""
    table = runs("time_to 0.6", a={0: 5.0, 1: 4.0, 2: 6.0}, b={0: 10.0, 1: 8.0, 2: 10.0})
    row = judged(time_claim(), table)
    assert row["ours"] == pytest.approx((50 + 50 + 40) / 3)
    assert (row["reached"], row["bound"]) == ("3 of 3 against 3 of 3", "")


def test_runs_that_never_reach_the_target_are_bounds_and_not_dropped() -> None:
    """Seed 2 of b counts with the end of the run, 20: at least 75% there."""
    table = runs("time_to 0.6", a={0: 5.0, 1: 4.0, 2: 5.0}, b={0: 10.0, 1: 8.0, 2: math.nan})
    row = judged(time_claim(), table)
    assert row["ours"] == pytest.approx((50 + 50 + 75) / 3)
    assert (row["reached"], row["bound"], row["within"]) == ("3 of 3 against 2 of 3", "at least", "")
    assert "some runs never reach it" in row["verdict"]
    other_way = judged(time_claim() | {"arm": "b", "baselines": ["a"]}, table)
    assert other_way["bound"] == "at most"
    never = runs("time_to 0.6", a={0: math.nan}, b={0: math.nan})
    assert judged(time_claim(), never)["verdict"] == "never reached"


def test_a_run_that_went_on_for_longer_has_no_advantage() -> None:
    """b ends at 10, so what a reaches at 15 is not reached within what both had."""
    table = runs("time_to 0.6", a={0: 15.0, 1: 5.0}, b={0: 8.0, 1: 8.0})
    table.loc[table["arm"] == "b", "sim_time"] = 10.0
    assert judged(time_claim(), table)["reached"] == "1 of 2 against 2 of 2"


def test_the_table_of_times_counts_and_restricts() -> None:
    table = runs("time_to 0.6", a={0: 5.0, 1: math.nan}, b={0: math.nan, 1: math.nan})
    first, second = times_table(table, {}).to_dict("records")
    assert (first["reached"], first["num_seeds"], first["time"], first["horizon"]) == (1, 2, 12.5, 20.0)
    assert (second["reached"], second["time"]) == (0, 20.0)


def test_a_claim_is_judged_at_every_point_that_it_is_about() -> None:
    grid = {"data.alpha": [0.1, 1.0]}
    table = pd.concat([PAIRED.assign(**{"data.alpha": 0.1}), PAIRED.assign(**{"data.alpha": 1.0})], ignore_index=True)
    table.loc[(table["data.alpha"] == 1.0) & (table["arm"] == "a"), "final_accuracy"] -= 0.2
    claims = [lead_claim(), lead_claim(where={"data.alpha": 1.0})]
    rows = judge_claims(experiment(claims, grid=grid), "lab", table)
    assert rows["at"].tolist() == ["alpha=0.1", "alpha=1.0", "alpha=1.0"]
    assert rows["verdict"].tolist() == ["reproduced", "contradicted", "contradicted"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a sweep of two arms and two seeds, one run of which is missing; written by hand."""
    import yaml

    out = tmp_path_factory.mktemp("sweeps") / "hand-made"
    arms = {"fedrevive": {"method": "fedrevive"}, "fedbuff": {"method": "fedbuff"}}
    described = experiment([lead_claim(arm="fedrevive", baselines=["fedbuff"], comparable={"lab": False})], arms=arms)
    cells = []
    for arm in arms:
        for seed in (0, 1):
            name = f"{arm}-s{seed}"
            if (arm, seed) != ("fedbuff", 1):
                record = run(small(arm, seed=seed), progress=False)
                name += f"-{run_hash(record.config, record.provenance['data_sha256'], 'of then')}"
                record.save(out / "runs" / name, with_model=False)
            cells.append({"run": name, "arm": arm, "seed": seed, "grid": {}})
    (out / "failures").mkdir()
    (out / "failures" / "fedbuff-s1.txt").write_text("No luck\n\nTraceback ...\n")
    (out / "experiment.yaml").write_text(yaml.safe_dump(described.model_dump(mode="json")))
    header = {"experiment": "hand-made", "scale": "lab", "device": "cpu", "code": "of then", "cells": cells}
    (out / "sweep.json").write_text(json.dumps(header))
    return out


def test_the_report_says_what_is_missing_and_what_it_cost(sweep: Path) -> None:
    report = read_report(sweep)
    assert report.missing == ["fedbuff-s1"]
    costs = report.arms.set_index("arm").loc["fedrevive"]
    config = small("fedrevive")
    size = report.records.runs["num_parameters"].iloc[0] * 4
    assert costs["client_steps"] == 16 * config.training.steps
    assert costs["bytes_up"] == 16 * size
    # Eight jobs at first, and one for each of the 15 uploads after which the run continues, or 16.
    assert costs["bytes_down"] / size - 8 in (15, 16)


def test_the_report_on_disk(sweep: Path) -> None:
    page = write_report(sweep, "python -m reproduce report hand-made").read_text(encoding="utf-8")
    text = (sweep / "report" / "report.md").read_text(encoding="utf-8")
    for said in (
        "Who was heard",
        "not comparable (other data)",
        "Not finished: 1 run, fedbuff-s1",
        "fedbuff-s1: No luck",
    ):
        assert said in page
        assert said in text
    assert "data:image/png" in page
    for name in ("verdicts", "arms", "times", "heard"):
        assert isinstance(pd.read_parquet(sweep / "report" / f"{name}.parquet"), pd.DataFrame)


def test_the_report_says_who_was_heard(sweep: Path) -> None:
    """Means over the seeds of the records. Runs of an older version leave no table, and strange values no number."""
    report = read_report(sweep)
    row = report.heard.set_index("arm").loc["fedrevive"]
    records = [Record.load(path) for path in sorted((sweep / "runs").glob("fedrevive-*"))]
    assert row["gini"] == pytest.approx(np.mean([record.summary["gini"] for record in records]))
    assert row["slow"] == pytest.approx(np.mean([r.summary["speed_group_updates"]["slow"] for r in records]))
    runs = report.records.runs
    assert heard_table(runs.drop(columns="gini"), report.grid).empty
    assert heard_table(runs.assign(gini="many"), report.grid)["gini"].isna().all()


def test_two_sweeps_of_one_experiment_are_not_packed_in_one_place(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"other' and .* are of one experiment"):
        sweeps.pack([sweep, tmp_path / "other"], tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_a_packed_sweep_says_the_same(sweep: Path, tmp_path: Path) -> None:
    pack(sweep, tmp_path)
    packed = tmp_path / "hand-made"
    assert sum(path.stat().st_size for path in packed.rglob("*")) < 60_000
    before, after = read_report(sweep), read_report(packed)
    assert (after.missing, after.failures) == (before.missing, before.failures) == (["fedbuff-s1"], before.failures)
    for name in ("verdicts", "arms", "times", "heard"):
        pd.testing.assert_frame_equal(getattr(before, name), getattr(after, name))
    pages = [write_report(place, "command").read_text(encoding="utf-8") for place in (sweep, packed)]
    assert pages[0] == pages[1]
    pack(sweep, tmp_path)  # again, in its place
    assert [path.name for path in tmp_path.iterdir()] == ["hand-made"]
    with pytest.raises(ConfigError, match="choose another directory"):
        pack(packed, tmp_path)
    assert read_report(packed).missing == before.missing
    (packed / "runs.parquet").write_bytes(b"PAR1....PAR0")
    with pytest.raises(ConfigError, match=r"packed sweep: runs\.parquet"):
        read_report(packed)


def test_a_sweep_is_published_with_its_notebook(sweep: Path, tmp_path: Path) -> None:
    """The notebook is kept if it fails, and the exit code says so."""
    for name, source in (("good", "print(records)"), ("bad", "1 / 0")):
        parameters = new_code_cell("records = ''", metadata={"tags": ["parameters"]})
        nbformat.write(new_notebook(cells=[parameters, new_code_cell(source)]), tmp_path / f"{name}.ipynb")
    publish(sweep, str(tmp_path / "good.ipynb"))
    assert str(sweep) in (sweep / "report" / "good.html").read_text(encoding="utf-8")
    with pytest.raises(typer.Exit):
        publish(sweep, str(tmp_path / "bad.ipynb"))
    assert "ZeroDivisionError" in (sweep / "report" / "bad.html").read_text(encoding="utf-8")
    assert (sweep / "report" / "index.html").exists()


def test_a_directory_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not hold a readable sweep"):
        read_report(tmp_path)


def table_of_settings() -> pd.DataFrame:
    rows = [
        {"arm": arm, "seed": seed, "data.alpha": alpha, "mean_accuracy": 0.5 + 0.1 * (arm == "a") * alpha + 0.2 * seed}
        for arm in "ab"
        for seed in (0, 1)
        for alpha in (0.1, 1.0)
    ]
    return pd.DataFrame(rows)


def test_leads_between_arms_pair_seeds() -> None:
    table = table_of_settings()
    found = lead(table[table["data.alpha"] == 1.0], "mean_accuracy", "a", "b")
    assert np.allclose(found, [0.1, 0.1])


def test_figures_of_sweeps_show_what_they_should(sweep: Path) -> None:
    table = table_of_settings()
    with pytest.raises(ValueError, match="differ in something else"):
        plot_settings(table, "mean_accuracy", "arm")
    axes = plot_settings(table, "mean_accuracy", "data.alpha").axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "1.0"]
    map_ = plot_lead(table, "mean_accuracy", "data.alpha", "seed", "a", "b").axes[0]
    assert [text.get_text() for text in map_.texts][:2] == ["+1.0\none seed", "+1.0\none seed"]
    curves = plot_curves(read_report(sweep).records.evaluations)
    assert [text.get_text() for text in curves.legends[0].get_texts()] == ["fedrevive (2 seeds)", "fedbuff (1 seed)"]


def test_the_explorer_gives_a_colour_to_all_that_differs() -> None:
    panel = sweep_explorer(table_of_settings(), ["data.alpha"])
    for x in ("arm", "data.alpha"):
        for arm in (EVERY, "a", "b"):
            for alpha in (EVERY, 0.1, 1.0):
                for name, value in {"x": x, "arm": arm, "data.alpha": alpha}.items():
                    panel.controls[name].value = value
                assert "Not drawn" not in panel.status.value
    for x, colours in (("arm", ["0.1", "1.0"]), ("data.alpha", ["a", "b"])):
        figure = panel.draw("mean_accuracy", x, **{"arm": EVERY, "data.alpha": EVERY})
        assert [text.get_text() for text in figure.legends[0].get_texts()] == colours


def test_the_explorer_says_so_if_colours_cannot_be_told_apart() -> None:
    table = pd.concat([table_of_settings().assign(arm=f"arm {number}", seed=number) for number in range(9)])
    panel = sweep_explorer(table.drop_duplicates(["arm", "data.alpha"]), ["data.alpha"])
    everything = {"metric": "mean_accuracy", "x": "data.alpha", "arm": EVERY, "data.alpha": EVERY}
    (words,) = panel.draw(**everything).texts
    assert words.get_text() == "9 colours cannot be told apart:\nshow only one value of arm"
    assert panel.draw(**everything | {"arm": "arm 3"}).axes


def changed(sweep: Path, tmp_path: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """A copy of the sweep in which `change` was applied to a JSON file."""
    copy = shutil.copytree(sweep, tmp_path / "copy")
    values = json.loads((copy / name).read_text(encoding="utf-8"))
    change(values)
    (copy / name).write_text(json.dumps(values), encoding="utf-8")
    return copy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h["cells"][0].update(arm="fedbuff"), "holds another run than its name says"),
        (lambda h: h["cells"][0].update(seed=1), "holds another run than its name says"),
        (lambda h: h.update(code="other"), "holds another run than its name says"),
        (lambda h: h["cells"][0].update(run="../../elsewhere"), "cells.0.run = '../../elsewhere'"),
        (lambda h: h["cells"][0].update(run=h["cells"][1]["run"]), "a run stands there twice"),
        (lambda h: h["cells"].clear(), "cells = "),
        (lambda h: h.update(scale=3), "scale = 3"),
        (lambda h: [cell["grid"].update({"server.lr": 9}) for cell in h["cells"]], "is not at the point"),
    ],
)
def test_a_sweep_says_which_run_is_which_and_is_not_believed(sweep, tmp_path, change, words) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        read_report(changed(sweep, tmp_path, "sweep.json", change))


@pytest.mark.parametrize("name", ["final_accuracy", "time_to 0.5", "run"])
def test_a_packed_sweep_is_computed_again(sweep: Path, tmp_path: Path, name: str) -> None:
    packed = pack(sweep, tmp_path)
    table = pd.read_parquet(packed / "runs.parquet")
    table.loc[0, name] = "fedbuff-s7" if name == "run" else 0.99
    table.to_parquet(packed / "runs.parquet", index=False)
    with pytest.raises(Altered, match="no rows of fedbuff-s7" if name == "run" else f"{name} = 0.99, and its"):
        read_report(packed)


def test_damaged_files_of_a_sweep_are_refused_or_read(sweep: Path, tmp_path: Path) -> None:
    places = {"sweep": sweep, "packed": pack(sweep, tmp_path / "whole")}
    found = damage.attempt(tmp_path, 10, places=places)
    assert found["wrong"] == 0, found["examples_of_wrong"]
    assert found["refused"] > 8


@pytest.mark.parametrize(("content", "said"), [(b"", "no reason is given"), (b"\xff\x00", "\ufffd?")])
def test_a_strange_reason_of_a_failure_is_shown_as_it_can_be(sweep, tmp_path, content, said) -> None:
    copy = shutil.copytree(sweep, tmp_path / "copy")
    (copy / "failures" / "fedbuff-s1.txt").write_bytes(content)
    assert read_report(copy).failures == {"fedbuff-s1": said}
