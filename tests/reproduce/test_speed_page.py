"""docs/SPEED.md says what was measured: its tables are those that `reproduce.benchmark.tables` makes of the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reproduce.benchmark.tables import BLOCKS, DOCUMENT, RESULTS, bench_table, made


def test_the_page_is_what_was_measured() -> None:
    """After a measurement: `python -m reproduce.benchmark.tables`."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert all(text.count(f"<!-- made: {name} -->") == 1 for name in BLOCKS)
    assert made(text) == text


@pytest.mark.parametrize("name", [file for file, _ in BLOCKS.values()])
def test_a_figure_lies_beside_what_was_measured(name: str) -> None:
    assert name == "accuracy.json" or (RESULTS / name).with_suffix(".png").is_file()


def test_a_block_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    row = {"seed": 0, "final": [0.8, 0.7], "mean": [0.5, 0.5]}
    found = {"runs": [row, row | {"seed": 1, "final": [0.9, 0.6]}]}
    (tmp_path / "accuracy.json").write_text(json.dumps(found), encoding="utf-8")
    text = made("before\n<!-- made: accuracy -->\nold\n<!-- end -->\nafter\n", tmp_path)
    assert text.startswith("before\n<!-- made: accuracy -->\n\n| seed | here | reference path |\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "| 1 | 0.900 (0.500) | 0.600 (0.500) |" in text
    # Differences of 10 and 30 points: mean 20, half width 12.706 * 10.
    assert "+20.0 ± 127.1 points at the end, +0.0 ± 0.0 points over the run" in text
    assert "old" not in text


@pytest.mark.parametrize(("load", "said"), [([0.2, 1.2], "did nothing else"), ([2.0, 3.0], "may have done other work")])
def test_a_busy_machine_is_named(load: list[float], said: str) -> None:
    values = {"ours": 1234.5, "reference": 61.75, "ratio": 2.0, "ratio_min": 1.9, "ratio_max": 2.1, "ratio_wall": 2.04}
    measured = {
        "results": {"client steps/s": {"LabNet": values}, "timeline arrivals/s": {"N = 1,000": 5000.0}},
        "clock": "CPU time", "load": load, "cores": 2, "quick": False,
        "arithmetic_flops_per_second": {"matrix product": 97e9, "convolution": 210e9}, "peak_memory_mib": 1536.0,
    }  # fmt: skip
    text = bench_table(measured)
    assert "| client steps | LabNet | 1,234 | 61.8 | 2.00 (1.90 to 2.10) | 2.04 |  |" in text
    assert said in text
    assert "a matrix product reached 97 and a convolution reached 210 GFLOP/s" in text
    assert "1.5 GiB" in text
    assert "5,000 with N = 1,000" in text
