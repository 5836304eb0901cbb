"""How good the images of a pool are, and the tables and the figure that say it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small

from fedrevive_core.data import Images
from fedrevive_core.errors import ConfigError
from fedrevive_core.simulation import run
from reproduce.evidence import images
from reproduce.sweeps.experiment import load_experiment


def pictures(values: list[float]) -> torch.Tensor:
    """An image of 2x2 equal pixels for each value: two of them are twice as far apart as their values."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_quality_of_four_images_by_hand() -> None:
    """The judge calls three of them class 0; two of its verdicts are the wanted ones."""
    said = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    judge: Any = SimpleNamespace(
        probabilities=lambda _: said,
        seen=Images(pictures([0.0, 1.0]), torch.tensor([0, 1])),
        unseen=Images(pictures([0.1, 0.2, 0.9]), torch.tensor([0, 0, 1])),  # 0.1 apart; 0.1, 0.2, 0.1 from the nearest
    )
    found = images.quality(judge, pictures([0.0, 0.5, 0.2, 0.6]), np.array([0, 0, 1, 0]))
    assert found == pytest.approx(
        {
            "agreement": 0.5,
            "confidence": (0.9 + 0.8 + 0.6 + 0.7) / 4,
            "entropy": -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25)),
            "diversity": ((0.5 + 0.6 + 0.1) / 3) / 0.1,  # 0, 0.5 and 0.6 should show class 0
            "distance": 0.2 / 0.1,  # to the nearest: 0, 0.5, 0.2, 0.4; PyTorch's median is the lower of the middle two
        },
        rel=1e-4,
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of four short runs on digits, as a sweep leaves them."""
    directory = tmp_path_factory.mktemp("sweep")
    for arm, settings in {
        "afl-dw": {},
        "fedrevive": {},
        "noise": {"revival__source": "noise"},
        "held-back": {"revival__source": "held_back"},
    }.items():
        method = "afl-dw" if arm == "afl-dw" else "fedrevive"
        record = run(small(method, evaluation__every=2, **settings), progress=False)
        record.save(directory / "runs" / arm)
    return directory


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arms that `collect` finds, which may be changed."""
    arms = ["afl-dw", "fedrevive", "noise", "held-back"]

    def collect(_: Path) -> Any:
        runs = pd.DataFrame({"run": arms, "arm": arms, "seed": 0})
        return SimpleNamespace(records=SimpleNamespace(runs=runs), experiment=SimpleNamespace(name="an-experiment"))

    monkeypatch.setattr(images, "collect", collect)
    return arms


def test_a_classifier_of_real_images_knows_held_back_ones_and_not_noise(sweep: Path, collected: list[str]) -> None:
    name, rows = images.measure_pools(sweep, steps=500)
    assert name == "an-experiment"
    table = pd.DataFrame(rows).set_index("arm")
    assert list(table.index) == ["fedrevive", "noise", "held-back"]
    assert table["judge"].min() > 0.8
    assert table.loc["held-back", "agreement"] > 0.8
    assert table.loc["noise", "agreement"] < 0.3
    assert table.loc["held-back", "distance"] == pytest.approx(1, abs=0.1)
    assert table.loc["held-back", "diversity"] == pytest.approx(1, abs=0.1)
    assert table.loc["noise", "distance"] > 1.5
    assert table.loc["fedrevive", "images"] == 4 * 32  # 32 at versions 10, 12, 14 and 16, the second half


def test_what_is_kept_of_a_synthesised_pool_is_what_the_record_holds(sweep: Path) -> None:
    from fedrevive_core.records import Record

    shown, labels = images.pool_of(sweep / "runs" / "fedrevive")
    kept = Record.load(sweep / "runs" / "fedrevive").samples
    assert torch.equal(shown[-32:].mul(255).round().byte(), torch.from_numpy(kept["images"][-1]))
    assert labels[-32:].tolist() == kept["labels"][-1].tolist()


def test_sweeps_without_images_are_refused(sweep: Path, collected: list[str], tmp_path: Path) -> None:
    collected[:] = ["afl-dw"]
    with pytest.raises(ConfigError, match="distils on images: give a sweep of an experiment about pools"):
        images.measure_pools(sweep)
    (tmp_path / "runs.parquet").touch()
    with pytest.raises(ConfigError, match="is packed and holds no images: give the directory that the sweep wrote"):
        images.measure_pools(tmp_path)


def test_measuring_one_experiment_keeps_the_numbers_of_others(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(images, "QUALITY", tmp_path / "quality.json")
    for number, name in enumerate(("one", "two", "one")):
        monkeypatch.setattr(images, "measure_pools", lambda _, name=name, number=number: (name, [{"seed": number}]))
        assert images.write_quality([tmp_path]) == tmp_path / "quality.json"
    assert json.loads((tmp_path / "quality.json").read_text()) == {"one": [{"seed": 2}], "two": [{"seed": 1}]}


def test_the_command_measures_sweeps_and_refuses_what_it_cannot(call, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(images, "QUALITY", tmp_path / "quality.json")
    assert call("evidence", "--pools", tmp_path / "nowhere")[0] == 2
    code, _, error = call("evidence", "--pools", tmp_path, "--check", tmp_path)
    assert (code, "--check and --pools: give one of them" in error) == (2, True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(images, "measure_pools", lambda _: ("one", []))
    assert call("evidence", "--pools", tmp_path) == (0, f"Written: {tmp_path / 'quality.json'}\n", "")
    monkeypatch.setattr(images, "PAGE", tmp_path / "RESULTS.md")
    assert "run this command in a checkout" in call("evidence", "--pools", tmp_path)[2]


def test_the_figure_and_the_table_show_every_pool(monkeypatch, tmp_path: Path) -> None:
    """Made of numbers by hand: accuracy of arm number a at seed s is 0.1 a + 0.01 s, so that leads have no spread."""
    arms = ["afl-dw", *images.POOLS]
    rows = [
        {"arm": arm, "seed": seed, "mean_accuracy": 0.1 * number + 0.01 * seed, "final_accuracy": 0.2 * number}
        for number, arm in enumerate(arms)
        for seed in range(3)
    ]
    runs = SimpleNamespace(records=SimpleNamespace(runs=pd.DataFrame(rows)))
    monkeypatch.setattr(images, "collect", lambda _: runs)
    measures = dict.fromkeys((*images.MEASURES, "judge"), 0.5)
    judged = [
        measures | {"arm": arm, "agreement": 0.2 * number} for number, arm in enumerate(images.POOLS) for _ in range(3)
    ]
    monkeypatch.setattr(images, "QUALITY", tmp_path / "quality.json")
    images.QUALITY.write_text(json.dumps(dict.fromkeys(images.EXPERIMENTS, judged)))
    table = images.pools_table("image-pools-styles")
    assert [row["pool"] for row in table] == list(images.POOLS.values())
    assert [row["above AFL-DW, over the run"][2:7] for row in table] == ["+10.0", "+20.0", "+30.0", "+40.0"]
    assert [row["wanted class %"] for row in table] == ["0", "20", "40", "60"]
    assert table[0]["above synthesised, over the run"] == ""
    figure = images.plot_pools()
    assert len(figure.axes) == len(images.EXPERIMENTS)
    for axes in figure.axes:
        shown = np.array([[*bars.lines[0].get_xdata(), *bars.lines[0].get_ydata()] for bars in axes.containers])
        assert shown == pytest.approx(np.array([[0.0, 10], [0.2, 20], [0.4, 30], [0.6, 40]]))


def test_pools_of_an_experiment_differ_in_nothing_but_the_pool() -> None:
    for name in images.EXPERIMENTS:
        arms = load_experiment(name).arms_at("lab")
        assert {*images.POOLS, images.AGAINST} - set(arms) == ({"other"} if name == "image-pools-28" else set())
        settings = {arm: dict(arms[arm].settings) for arm in images.POOLS if arm in arms}
        sources = {arm: chosen.pop("revival.source", "synthetic") for arm, chosen in settings.items()}
        known = {"fedrevive": "synthetic", "held-back": "held_back", "other": "other", "noise": "noise"}
        assert sources == {arm: known[arm] for arm in settings}
        assert all(chosen == settings["fedrevive"] for chosen in settings.values())
        assert {arms[arm].method for arm in settings} == {"fedrevive"}
