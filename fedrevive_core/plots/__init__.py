"""Figures from timelines and records. No PyTorch."""

from __future__ import annotations

from fedrevive_core.plots.arrival import plot_arrival, plot_branches
from fedrevive_core.plots.runs import X_LABELS, plot_accuracy, plot_curves, plot_staleness, plot_staleness_weights
from fedrevive_core.plots.samples import newest_of_each_class, plot_samples, plot_text_samples, show_mosaic
from fedrevive_core.plots.style import METHOD_COLOURS, STYLE, TITLE_COLOURS, Plot, colours, png_bytes
from fedrevive_core.plots.synthesis import plot_image_votes, plot_trace
from fedrevive_core.plots.timeline import (
    SIM_TIME,
    choose_lanes,
    draw_lanes,
    draw_timeline,
    empty_figure,
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
    "colours",
    "draw_lanes",
    "draw_timeline",
    "empty_figure",
    "newest_of_each_class",
    "plot_accuracy",
    "plot_arrival",
    "plot_branches",
    "plot_curves",
    "plot_image_votes",
    "plot_samples",
    "plot_staleness",
    "plot_staleness_weights",
    "plot_text_samples",
    "plot_timeline",
    "plot_trace",
    "png_bytes",
    "show_mosaic",
    "staleness_bins",
    "still_timeline",
    "times_of_versions",
]
