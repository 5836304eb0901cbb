"""Figures from timelines and records. No PyTorch."""

from __future__ import annotations

from fedrevive_core.plots.arrival import plot_arrival, plot_branches
from fedrevive_core.plots.runs import X_LABELS, plot_accuracy, plot_samples, plot_staleness_weights
from fedrevive_core.plots.style import METHOD_COLOURS, STYLE, TITLE_COLOURS, Plot, png_bytes
from fedrevive_core.plots.synthesis import plot_image_votes, plot_trace
from fedrevive_core.plots.texts import plot_text_samples
from fedrevive_core.plots.timeline import (
    SIM_TIME,
    choose_lanes,
    draw_lanes,
    draw_timeline,
    empty_figure,
    plot_staleness,
    plot_timeline,
    staleness_bins,
    still_timeline,
    times_of_versions,
)

__all__ = [
    "METHOD_COLOURS",
    "SIM_TIME",
    "STYLE",
    "TITLE_COLOURS",
    "X_LABELS",
    "Plot",
    "choose_lanes",
    "draw_lanes",
    "draw_timeline",
    "empty_figure",
    "plot_accuracy",
    "plot_arrival",
    "plot_branches",
    "plot_image_votes",
    "plot_samples",
    "plot_staleness",
    "plot_staleness_weights",
    "plot_text_samples",
    "plot_timeline",
    "plot_trace",
    "png_bytes",
    "staleness_bins",
    "still_timeline",
    "times_of_versions",
]
