"""Panels that move on a page without a kernel: their frames are drawn ahead, and docs/_static/frames.js shows them."""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
from typing import Any

import ipywidgets as ipw
import numpy as np
from IPython import get_ipython
from PIL import Image

from fedrevive_core.plots import in_words, png_bytes
from fedrevive_core.widgets import Panel

LIMIT = 1_450_000  # bytes of one panel on its page, which has two of them at most
WIDTH, QUALITY = 900, 60  # of a frame: sharp on a phone, and small
MOST = 10  # values of a control that is not named below; only the first two controls of a panel move
# What moves, by the panel's title: how many values of a control, or which. Each of these is alone on its page, and may
# take twice the bytes.
MOVED: dict[str, dict[str, int | tuple[Any, ...]]] = {
    "Timeline explorer": {"concurrency": (1, 2, 5, 10, 15, 20, 30, 40, 50, 60), "slowdown": (1, 2, 5, 10, 20)},
    "Time travel": {"run": 3, "sim_time": 20},
    "Synthesis microscope": {"label": 10, "steps": 8},
}
Moving = dict[str, list[tuple[str, Any]]]  # labels and values of the sliders on the page, by name of the control


def show_frames() -> None:
    """In a notebook: give every panel that is shown from now on its frames, too."""
    get_ipython().display_formatter.formatters["text/html"].for_type(Panel, frames_html)


def frames_html(panel: Panel) -> str | None:
    """Sliders above the first frame, and all frames with their words for the script.

    At most LIMIT bytes, or twice as many: otherwise every second value of the slider with the most values is left out.
    None for a panel that does more than draw.
    """
    if type(panel) is not Panel:
        return None
    moving = _moving(panel)
    still = {name: control.value for name, control in panel.controls.items() if name not in moving}
    drawn = {
        values: _frame(panel, still | dict(zip(moving, values, strict=True)))
        for values in itertools.product(*([value for _, value in shown] for shown in moving.values()))
    }
    start = tuple(panel.controls[name].value for name in moving)
    limit = LIMIT * (2 if _named(panel) else 1)
    while len(text := _html(panel, moving, drawn, start).encode()) > limit:
        name = max(moving, key=lambda name: len(moving[name]))
        first = [value for _, value in moving[name]].index(panel.controls[name].value) % 2
        moving[name] = moving[name][first::2]
    return text.decode()


def _named(panel: Panel) -> dict[str, int | tuple[Any, ...]] | None:
    return next((wanted for title, wanted in MOVED.items() if panel.image.tooltip.startswith(title)), None)


def _moving(panel: Panel) -> Moving:
    """Which sliders stand on the page, with their values; the one at the start is among them."""
    moving = {}
    for name, wanted in (_named(panel) or dict.fromkeys(list(panel.controls)[:2], MOST)).items():
        options, start = _options(panel.controls[name]), panel.controls[name].value
        if isinstance(wanted, int):
            first = [value for _, value in options].index(start)
            even = np.linspace(0, len(options) - 1, min(wanted, len(options))).round().astype(int).tolist()
            even[int(np.abs(np.array(even) - first).argmin())] = first
            moving[name] = [options[number] for number in even]
        else:
            moving[name] = [(label, value) for label, value in options if value in wanted or value == start]
    return moving


def _options(control: Any) -> list[tuple[str, Any]]:
    """Every value of a control, with its label."""
    if isinstance(control, ipw.SelectionSlider):
        return [option if isinstance(option, tuple) else (str(option), option) for option in control.options]
    if isinstance(control, ipw.Checkbox):
        return [("off", False), ("on", True)]
    count = round((control.max - control.min) / control.step) + 1
    values = [control.min + number * control.step for number in range(count)]
    return [(f"{value:.3g}", value) for value in values]


def _frame(panel: Panel, values: dict[str, Any]) -> tuple[str, str]:
    """A picture as a data URI and its words; no picture, and why, for values that cannot be drawn."""
    try:
        figure = panel.draw(**values)
    except ValueError as error:
        return "", f"Not drawn: {error}"
    scale = WIDTH / (figure.get_size_inches()[0] * figure.dpi)
    drawn = Image.open(io.BytesIO(png_bytes(figure, scale=scale, compression=1)))
    buffer = io.BytesIO()
    drawn.save(buffer, "webp", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", in_words(figure)


def _html(panel: Panel, moving: Moving, drawn: dict[tuple, tuple[str, str]], start: tuple) -> str:
    names = list(moving)
    frames = [drawn[values] for values in itertools.product(*([value for _, value in moving[name]] for name in names))]
    different = list(dict.fromkeys(frames))
    data: dict[str, list[Any]] = {
        "labels": [[label for label, _ in moving[name]] for name in names],
        "frames": [different.index(frame) for frame in frames],
        "images": [image for image, _ in different],
        "words": [words for _, words in different],
    }
    first = different.index(drawn[start])
    data["images"][first] = ""  # it stands in the page
    sliders = "".join(
        _slider(panel.controls[name].description, moving[name], place) for name, place in zip(names, start, strict=True)
    )
    image, words = (html.escape(part) for part in drawn[start])
    text = json.dumps(data).replace("</", "<\\/")  # else the page would end the script there
    return (
        f'<div class="frames" data-first="{first}"><p><b>{html.escape(panel.image.tooltip)}</b></p>{sliders}'
        f'<img src="{image}" alt="{words}" width="{WIDTH}"><p class="words" role="status"></p>'
        f'<script type="application/json">{text}</script></div>'
    )


def _slider(description: str, options: list[tuple[str, Any]], start: Any) -> str:
    place, name = [value for _, value in options].index(start), html.escape(description)
    step = '<button type="button" tabindex="-1" aria-label="{}, {}" value="{}">{}</button>'
    return (
        f"<label><span>{name}</span>{step.format(name, 'back', -1, '&minus;')}"
        f'<input type="range" min="0" max="{len(options) - 1}" value="{place}" aria-label="{name}">'
        f"{step.format(name, 'forward', 1, '+')}<output>{html.escape(options[place][0])}</output></label>"
    )
