"""The comparison with peers as a table and as a figure."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from fedrevive_core.plots import METHOD_COLOURS, STYLE, Plot
from reproduce.benchmark.peers.compare import OURS, PEERS, summary

TITLES = {"async": "asynchronous (FedBuff)", "sync": "synchronous (FedAvg)"}


def table(found: dict[str, Any]) -> str:
    """Markdown: a row for each mode and peer, then what the notes say and what failed."""
    rows = summary(found)
    ours = {row["mode"]: row["rate"] for row in rows if row["peer"] == OURS}
    lines = [
        "| what | peer | jobs per CPU second (range) | this package is | jobs per second | accuracy | start-up, CPU s "
        "| memory, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        is_peer = row["peer"] != OURS
        cells = [
            TITLES[row["mode"]],
            PEERS[row["peer"]].title + (f" {row['version']}" if is_peer else ""),
            f"{row['rate']:.1f} ({row['least']:.1f} to {row['most']:.1f})",
            f"{ours[row['mode']] / row['rate']:.2f}x" if is_peer and row["mode"] in ours else "",
            f"{row['wall_rate']:.1f}",
            f"{row['accuracy']:.2f}",
            f"{row['startup_cpu_seconds']:.1f}",
            f"{row['peak_mib']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    shown = {row["peer"] for row in rows}
    notes = [f"- {peer.title}: {peer.note}." for name, peer in PEERS.items() if name in shown and peer.note]
    for key, error in found["failed"].items():
        name, _, mode = key.partition(" ")
        did = f"did not run, {TITLES[mode]}" if mode else "did not install or import"
        notes.append(f"- {PEERS[name].title} {did}: `{error}`")
    return "\n".join([*lines, "", *notes])


@mpl.rc_context(STYLE)
def plot_peers(found: dict[str, Any]) -> Figure:
    """Jobs per CPU second of every peer, with the range of its runs."""
    rows = summary(found)
    modes = [mode for mode in TITLES if any(row["mode"] == mode for row in rows)]
    figure = Plot(figsize=(9, 1.0 + 0.42 * len(rows) + 0.5 * len(modes)), layout="constrained")
    sizes = [sum(row["mode"] == mode for row in rows) for mode in modes]
    panels = figure.subplots(len(modes), sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
    for axes, mode in zip(panels, modes, strict=True):
        shown = [row for row in rows if row["mode"] == mode][::-1]
        for height, row in enumerate(shown):
            colour = METHOD_COLOURS["fedrevive"] if row["peer"] == OURS else "#9a9a9a"
            axes.barh(height, row["rate"], color=colour, height=0.6)
            axes.plot([row["least"], row["most"]], [height, height], color="black", linewidth=1)
            axes.annotate(f"{row['rate']:.1f}", (row["most"], height), (6, -4), textcoords="offset points")
        axes.set(yticks=range(len(shown)), yticklabels=[PEERS[row["peer"]].title for row in shown])
        axes.set_title(TITLES[mode])
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.1)
    panels[-1].set_xlabel("jobs of a client per CPU second, one thread (line: range of the runs)")
    return figure
