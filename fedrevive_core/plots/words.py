"""A figure in words, for those who cannot see it: what it is called, its axes, and the numbers that it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, ScalarFormatter

MOST = 24  # items of a list that are read out
LENGTH = 1500  # characters


def in_words(figure: Figure) -> str:
    """Return titles, axes with their ranges, numbers and legends of `figure`, in at most LENGTH characters."""
    shown = [axes for axes in figure.axes if axes.get_visible()]
    parts = [_plain(text.get_text()) for text in figure.texts]
    parts += [part for axes in shown for part in _axes(axes)]
    drawn: list[Any] = [each for axes in shown for each in (*_curves(axes), *axes.containers)]
    named = {_plain(str(each.get_label())) for each in drawn}
    legends = [*figure.legends, *(legend for axes in shown if (legend := axes.get_legend()))]
    entries = [_plain(text.get_text()) for legend in legends for text in legend.get_texts()]
    parts += [f"Legend: {'; '.join(rest)}" for rest in [[entry for entry in entries if entry not in named]] if rest]
    said = " ".join(part if part.endswith((".", ":", "?")) else f"{part}." for part in parts if part)
    return said if len(said) <= LENGTH else said[: LENGTH - 4].rsplit(" ", 1)[0] + " ..."


def _axes(axes: Axes) -> Iterator[str]:
    yield _plain(axes.get_title("left") or axes.get_title("center"))
    if axes.axison:
        for name, axis in (("Across", axes.xaxis), ("Up", axes.yaxis)):
            yield f"{name}: {_range(axis)}" if _range(axis) else ""
    for line in _curves(axes)[:MOST]:
        yield _curve(axes, line)
    for shown in axes.containers[:MOST]:
        if isinstance(shown, ErrorbarContainer):
            yield _errorbar(axes, shown)
        elif isinstance(shown, BarContainer) and len(shown) <= MOST:
            name = "Bars" if str(shown.get_label()).startswith("_") else _plain(str(shown.get_label()))
            yield f"{name}: " + ", ".join(_bar(axes, bar) for bar in shown)
    scattered = [shown for shown in axes.collections if isinstance(shown, PathCollection)]
    dots = int(np.sum([np.shape(shown.get_offsets())[0] for shown in scattered]))
    yield f"{dots} dots" if dots > 1 else ""
    yield "; ".join(filter(None, (_text(axes, text) for text in axes.texts[: 4 * MOST])))


def _range(axis: Axis) -> str:
    """Return what an axis shows, and from where to where; its labels if they are words."""
    label, (low, high) = _plain(axis.get_label_text()), sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_majorticklocs() if low <= tick <= high] if axis.get_visible() else []
    if not len(ticks):
        return label
    if isinstance(axis.get_major_locator(), FixedLocator):
        shown = ", ".join(filter(None, (_value(axis, tick) for tick in ticks[:MOST])))
    else:
        shown = f"{_value(axis, low)} to {_value(axis, high)}"
    return f"{label}, {shown}" if label else shown


def _value(axis: Axis, value: float) -> str:
    formatter = axis.get_major_formatter()
    shown = "" if isinstance(formatter, ScalarFormatter) else _plain(str(formatter(value, 0)))
    return shown or f"{value:.3g}"


def _curves(axes: Axes) -> list[Line2D]:
    """Lines of more than two points, without those that have no name beside others that have one.

    Shorter lines mark a place, which the legend names.
    """
    errorbars = [shown.lines for shown in axes.containers if isinstance(shown, ErrorbarContainer)]
    in_errorbars = {id(line) for dots, caps, _ in errorbars for line in (dots, *caps)}
    curves = [line for line in axes.lines if np.size(line.get_xdata()) > 2 and id(line) not in in_errorbars]
    return [line for line in curves if not str(line.get_label()).startswith("_")] or curves


def _curve(axes: Axes, line: Line2D) -> str:
    heights = np.asarray(line.get_ydata(orig=False), float)
    name = "" if str(line.get_label()).startswith("_") else f"{_plain(str(line.get_label()))}: "
    if line.get_linestyle() == "None":
        return f"{name}{len(heights)} dots"
    return f"{name}a curve from {_value(axes.yaxis, heights[0])} to {_value(axes.yaxis, heights[-1])}"


def _errorbar(axes: Axes, shown: ErrorbarContainer) -> str:
    line, _, bars = shown.lines
    said = []
    for number, (x, y) in enumerate(np.column_stack([line.get_xdata(orig=False), line.get_ydata(orig=False)])):
        ends = [np.sort(bar.get_segments()[number], axis=0) for bar in bars]  # along x, or along y
        axis = axes.xaxis if ends and np.ptp(ends[0][:, 0]) > 0 else axes.yaxis
        column, value, at = (0, x, _at(axes.yaxis, y)) if axis is axes.xaxis else (1, y, _at(axes.xaxis, x))
        spread = [f" ({_value(axis, end[0, column])} to {_value(axis, end[1, column])})" for end in ends]
        said.append(f"{at}: {_value(axis, value)}{''.join(spread[:1])}")
    name = "" if str(shown.get_label()).startswith("_") else f"{_plain(str(shown.get_label()))}: "
    return name + ", ".join(said)


def _at(axis: Axis, place: float) -> str:
    """What stands at `place`: what is drawn side by side stands around a tick with a word."""
    if isinstance(axis.get_major_locator(), FixedLocator):
        place = min(axis.get_majorticklocs(), key=lambda tick: abs(tick - place))
    return _value(axis, round(place, 6))


def _bar(axes: Axes, bar: Any) -> str:
    middle = bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height() / 2
    if bar.get_x() == 0 and isinstance(axes.yaxis.get_major_locator(), FixedLocator):  # horizontal
        return f"{_value(axes.yaxis, middle[1])}: {_value(axes.xaxis, bar.get_width())}"
    return f"{_at(axes.xaxis, middle[0])}: {_value(axes.yaxis, bar.get_height())}"


def _text(axes: Axes, text: Any) -> str:
    """Return a text, and over a picture of cells also the column and the row that it stands in."""
    words, (x, y) = _plain(text.get_text()), text.get_position()
    cells = axes.images and axes.axison and len(axes.get_xticks()) and len(axes.get_yticks())
    return f"{_value(axes.xaxis, x)}, {_value(axes.yaxis, y)}: {words}" if cells and words else words


def _plain(text: str) -> str:
    """`text` in one line, its formulas without marks: $\\beta(\\tau)$ is beta(tau)."""
    text = re.sub(r"\\(mathrm|text|mathbf)(?![a-z])", "", text)
    return " ".join(re.sub(r"[\\{}$^]", "", text.replace("\\_", " ").replace("_{", " ")).split())
