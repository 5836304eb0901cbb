"""Figures from timelines and records. No PyTorch, no pyplot; global styles stay as they are."""

from __future__ import annotations

from fedrevive_core.plots.arrival import lead_of_branch, plot_arrival, plot_branches, since_branch
from fedrevive_core.plots.participation import plot_arriving_classes, plot_participation
from fedrevive_core.plots.runs import plot_accuracy, plot_curves, plot_staleness, plot_staleness_weights
from fedrevive_core.plots.samples import newest_of_each_class, plot_samples, plot_text_samples, show_mosaic
from fedrevive_core.plots.style import METHOD_COLOURS, STYLE, TITLE_COLOURS, Plot, colours, png_bytes
from fedrevive_core.plots.synthesis import plot_image_votes, plot_trace
from fedrevive_core.plots.timeline import draw_timeline, empty_figure, plot_timeline, still_timeline, times_of_versions
from fedrevive_core.plots.words import in_words

__all__ = [
    "METHOD_COLOURS",
    "STYLE",
    "TITLE_COLOURS",
    "Plot",
    "colours",
    "draw_timeline",
    "empty_figure",
    "in_words",
    "lead_of_branch",
    "newest_of_each_class",
    "plot_accuracy",
    "plot_arrival",
    "plot_arriving_classes",
    "plot_branches",
    "plot_curves",
    "plot_image_votes",
    "plot_participation",
    "plot_samples",
    "plot_staleness",
    "plot_staleness_weights",
    "plot_text_samples",
    "plot_timeline",
    "plot_trace",
    "png_bytes",
    "show_mosaic",
    "since_branch",
    "still_timeline",
    "times_of_versions",
]
