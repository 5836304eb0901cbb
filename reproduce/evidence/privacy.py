"""Tables and figure of what the server learns about clients, from what `privacy` has measured."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from fedrevive_core.config import method_title
from fedrevive_core.plots import STYLE, TITLE_COLOURS, Plot
from fedrevive_core.records import confidence_interval
from reproduce.reports.text import interval

MEASURED = Path(__file__).parents[1] / "results" / "privacy.json"
COMMAND = "python -m reproduce privacy --out runs/privacy --seeds 0,1,2,3,4"
ATTACKS = {
    "updates, certainty": "on an update: certainty",
    "updates, gradient": "on an update: gradients",
    "updates, shadows": "on an update: gradients, shadow jobs",
    "pool, nearness": "on the pool: nearness",
    "pool, shadows": "on the pool: nearness, shadow pools",
}
METHODS = ("fedrevive", "afl-dw")
BELIEFS = {
    "one upload": "the server, after one upload",
    "two uploads": "the server, after two uploads",
    "equal shares": "a guess: equal shares",
    "all clients": "the mean over all clients",
}


def committed() -> dict[str, Any]:
    """What was measured for docs/RESULTS.md."""
    return dict(json.loads(MEASURED.read_text(encoding="utf-8")))


def _said(values: Sequence[float], digits: int = 2) -> str:
    """'0.79 ± 0.03': mean and 95% interval over seeds; the mean alone of one seed."""
    mean, half = confidence_interval(values)
    return f"{mean:.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def attack_table(measured: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row per attack with the area under its ROC curve, and the share of members that the strongest one finds."""
    rows = {key: said for key, said in ATTACKS.items() if key in measured["protections"]["nothing"]}
    rows["updates, found"] = "members found at 5% false alarms"
    found = measured["protections"]
    return [
        {"attack": said} | {name: _said(values[key]) for name, values in found.items()} for key, said in rows.items()
    ]


def label_table(measured: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row per belief about a client's classes: how far it is from the truth, total variation and KL divergence."""
    rows = []
    for belief, said in BELIEFS.items():
        if f"labels tv, {belief}" not in measured["protections"]["nothing"]:
            continue
        row = {"belief": said}
        for name, values in measured["protections"].items():
            if belief.endswith("uploads") or belief.endswith("upload") or name == "nothing":
                row[name] = f"{_said(values[f'labels tv, {belief}'])}; {_said(values[f'labels kl, {belief}'])}"
            else:
                row[name] = "the same"
        rows.append(row)
    return rows


def accuracy_change(measured: Mapping[str, Any], key: str, protection: str) -> tuple[float, float]:
    """Mean and half width of what `protection` adds to an accuracy, in points, paired by seed."""
    found = measured["protections"]
    return confidence_interval(100 * (np.array(found[protection][key]) - np.array(found["nothing"][key])))


def accuracy_table(measured: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row per method and time: accuracy in percent, and what each protection adds to it in points."""
    rows = []
    for method in METHODS:
        for when, said in (("end", "at the end"), ("run", "over the run")):
            row, key = {"accuracy": f"{method_title(method)}, {said}"}, f"accuracy {method}, {when}"
            for name, values in measured["protections"].items():
                if name == "nothing":
                    row[name] = _said([100 * value for value in values[key]], 1) + " %"
                else:
                    row[name] = interval(*accuracy_change(measured, key, name), lead=True)
            rows.append(row)
    return rows


@mpl.rc_context(STYLE)
def plot_privacy(measured: Mapping[str, Any]) -> Figure:
    """Plot what each protection does to the attacks, to the server's belief about classes, and to accuracy."""
    found = measured["protections"]
    places = np.arange(len(found))
    figure = Plot(figsize=(13, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    attacks = {key: said for key, said in ATTACKS.items() if key in found["nothing"]}
    beliefs = {k: said for key, said in BELIEFS.items() if (k := f"labels tv, {key}") in found["nothing"]}
    methods = {f"accuracy {method}, run": method_title(method) for method in METHODS}

    def plain(key: str, name: str) -> tuple[float, float]:
        return confidence_interval(found[name][key])

    panels: tuple[tuple[Any, dict[str, str], Callable[[str, str], tuple[float, float]], str], ...] = (
        (left, attacks, plain, "Is this image a member? Area (0.5: a guess)"),
        (middle, beliefs, plain, "Class shares believed wrongly (0 to 1)"),
        (right, methods, functools.partial(accuracy_change, measured), "Accuracy over the run: points above nothing"),
    )
    for axes, shown, value, title in panels:
        for number, ((key, said), colour) in enumerate(zip(shown.items(), TITLE_COLOURS * 2, strict=False)):
            means, halves = np.array([value(key, name) for name in found]).T
            shift = 0.07 * (number - (len(shown) - 1) / 2)
            axes.errorbar(places + shift, means, np.nan_to_num(halves), fmt="o-", color=colour, capsize=3, label=said)
        axes.set_xticks(places, [name.replace(", ", ",\n") for name in found])
        axes.set_title(title, fontsize=11)
        axes.legend(fontsize=8, loc="best")
    left.axhline(0.5, color="#888888", lw=1, ls="--")
    left.set_ylim(0.4, 1)
    middle.set_ylim(0, 1)
    right.axhline(0, color="#888888", lw=1, ls="--")
    figure.suptitle("What the server learns, and what clipping and noise change", fontsize=13, x=0.01, ha="left")
    return figure
