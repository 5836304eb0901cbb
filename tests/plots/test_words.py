"""Figures in words: the numbers of hand-made figures, and that every figure of a notebook carries its text."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from helpers import federation
from matplotlib.ticker import PercentFormatter
from PIL import Image

from fedrevive_core.plots import STYLE, Plot, in_words, plot_timeline, png_bytes
from fedrevive_core.plots.words import LENGTH
from fedrevive_core.timeline.event_loop import simulate_timeline


def a_figure() -> tuple[Plot, mpl.axes.Axes]:
    with mpl.rc_context(STYLE):
        figure = Plot(figsize=(4, 3), layout="constrained")
        return figure, figure.subplots()


def test_a_curve_goes_from_its_first_to_its_last_value() -> None:
    figure, axes = a_figure()
    axes.plot([0, 1, 2], [0.1, 0.9, 0.725], label="FedBuff\n72.5%")
    axes.axvline(1, label=r"mean $\tau$ = 1")
    axes.set(xlabel=r"staleness $\tau$ (versions)", xlim=(0, 2), ylim=(0, 1), title="Left or centre")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend()
    assert in_words(figure) == (
        "Left or centre. Across: staleness tau (versions), 0 to 2. Up: 0% to 100%. "
        "FedBuff 72.5%: a curve from 10% to 72%. Legend: mean tau = 1."
    )


def test_bars_and_intervals_are_named_by_their_ticks() -> None:
    figure, axes = a_figure()
    axes.bar([0, 1], [3, 4])
    axes.set_xticks([0, 1], ["seen", "new"])
    axes.set(ylim=(0, 5))
    assert in_words(figure) == "Across: seen, new. Up: 0 to 5. Bars: seen: 3, new: 4."
    figure, axes = a_figure()
    axes.errorbar(1, 0.5, 0.25)
    axes.set_xticks([0, 1], ["seen", "new"])
    axes.set(ylim=(0, 1))
    assert in_words(figure) == "Across: seen, new. Up: 0 to 1. new: 0.5 (0.25 to 0.75)."


def test_what_stands_side_by_side_has_its_name_and_the_nearest_tick() -> None:
    figure, axes = a_figure()
    for place, name in ((-0.2, "held"), (0.2, "taken")):
        axes.bar([place, place + 1], [3, 4], width=0.3, label=name)
    axes.set_xticks([0, 1], ["cat", "dog"])
    axes.set(ylim=(0, 5))
    axes.legend()
    assert in_words(figure) == "Across: cat, dog. Up: 0 to 5. held: cat: 3, dog: 4. taken: cat: 3, dog: 4."
    figure, axes = a_figure()
    axes.errorbar([-0.1, 0.9, 1.9], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25], fmt="o-", capsize=3, label="FedBuff")
    axes.set_xticks([0, 1, 2], ["0", "0.5", "1"])
    axes.set(ylim=(0, 1))
    shown = ", ".join(f"{skew}: 0.5 (0.25 to 0.75)" for skew in ("0", "0.5", "1"))
    assert in_words(figure) == f"Across: 0, 0.5, 1. Up: 0 to 1. FedBuff: {shown}."


def test_cells_are_named_by_column_and_row_and_the_rest_is_cut() -> None:
    figure, axes = a_figure()
    axes.imshow(np.zeros((2, 2)))
    axes.set_xticks([0, 1], ["K = 10", "K = 80"])
    axes.set_yticks([0, 1], ["alike", "skewed"])
    axes.text(1, 0, "+1.5")
    figure.suptitle("Lead")
    assert in_words(figure) == "Lead. Across: K = 10, K = 80. Up: alike, skewed. K = 80, alike: +1.5."
    figure.suptitle("very long " * 1000)
    assert len(in_words(figure)) <= LENGTH
    assert in_words(figure).endswith("very ...") or in_words(figure).endswith("long ...")


def test_a_notebook_gets_the_text_with_the_image() -> None:
    figure = plot_timeline(simulate_timeline(federation(6, 3, max_versions=20), 0))
    data, metadata = figure._repr_mimebundle_()
    found: dict[str, str | None] = {}
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.update(attributes)  # type: ignore[method-assign]
    parser.feed(data["text/html"])
    assert found["alt"] == metadata["image/png"]["alt"] == in_words(figure)
    assert "simulated time (unitless), 0 to" in in_words(figure)
    assert found["src"] == f"data:image/png;base64,{data['image/png']}"
    assert "height: auto" in str(found["style"]), "a narrow page must not distort it"


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_figure_is_a_light_card_with_round_corners(scale: float) -> None:
    """Outside its corners the page shows, light or dark; everything else is opaque, and dark text stands on light."""
    figure, axes = a_figure()
    axes.set_title("dark text")
    image = np.asarray(Image.open(io.BytesIO(png_bytes(figure, scale))).convert("RGBA"))
    assert image[[0, 0, -1, -1], [0, -1, 0, -1], 3].tolist() == [0, 0, 0, 0]
    assert (image[..., 3] == 255).mean() > 0.99
    ground = np.median(image[..., :3].reshape(-1, 3), axis=0)
    assert ground.min() > 240
    assert image[..., :3].min() < 60
    assert base64.b64decode(figure._repr_mimebundle_()[0]["image/png"]) == png_bytes(figure)
