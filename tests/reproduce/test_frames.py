"""Frames of panels for pages without a kernel: which are drawn, that equal ones stand there once, and how many fit."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fedrevive_core.widgets import Panel, choice, slider
from reproduce.book import frames


def draw(level: int, kind: str = "plain", noise: int = 0) -> Figure:
    if kind == "wrong":
        raise ValueError("this kind cannot be drawn")
    figure = Figure(figsize=(4, 2))
    axes = figure.add_subplot(title=f"level {min(level, 5)}")
    if noise:
        axes.imshow(np.random.default_rng(level).random((noise, noise)), interpolation="nearest")
    return figure


def panel(**controls: Any) -> Panel:
    return Panel(draw, controls, title="A panel")


def data(text: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json">(.*)</script>', text)[1])


def test_every_place_of_the_sliders_has_its_frame_and_equal_frames_stand_there_once() -> None:
    shown = panel(level=slider("level", range(1, 8), 6), kind=choice("kind", ["plain", "wrong"], "plain"))
    text = frames.frames_html(shown)
    held = data(text)
    assert held["labels"] == [["1", "2", "3", "4", "5", "6", "7"], ["plain", "wrong"]]
    assert len(held["frames"]) == 14
    assert len(held["images"]) == len(held["words"]) == 6  # levels 5, 6 and 7 look the same; and one for the error
    words = [held["words"][frame] for frame in held["frames"]]
    assert words[0::2] == [f"level {level}. Across: 0 to 1. Up: 0 to 1." for level in (1, 2, 3, 4, 5, 5, 5)]
    assert set(words[1::2]) == {"Not drawn: this kind cannot be drawn"}
    assert [held["images"][frame] for frame in held["frames"][1::2]] == [""] * 7
    first = held["frames"][5 * 2]
    assert f'data-first="{first}"' in text
    assert held["images"][first] == ""
    assert f'alt="{held["words"][first]}"' in text
    picture = Image.open(io.BytesIO(base64.b64decode(held["images"][0].partition(",")[2])))
    assert picture.size == (900, 450)


def test_few_values_of_a_long_slider_are_drawn_and_the_first_one_is_among_them() -> None:
    held = data(frames.frames_html(panel(level=slider("level", range(0, 101), 37))))
    assert held["labels"] == [["0", "11", "22", "37", "44", "56", "67", "78", "89", "100"]]


def test_frames_are_left_out_until_the_rest_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = panel(level=slider("level", range(0, 9), 3), noise=slider("noise", range(40, 42), 40))
    whole = len(frames.frames_html(shown))
    monkeypatch.setattr(frames, "LIMIT", whole // 2)
    text = frames.frames_html(shown)
    assert data(text)["labels"] == [["1", "3", "5", "7"], ["40", "41"]]
    assert len(text.encode()) <= frames.LIMIT


def test_a_panel_that_does_more_than_draw_has_none() -> None:
    class Trains(Panel):
        pass

    assert frames.frames_html(Trains(draw, {"level": slider("level", range(3), 1)}, title="t")) is None


def test_what_a_title_names_is_what_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(frames.MOVED, "A panel", {"noise": (40, 44), "level": 2})
    held = data(frames.frames_html(panel(level=slider("level", range(9), 0), noise=slider("noise", range(40, 45), 41))))
    assert held["labels"] == [["40", "41", "44"], ["0", "8"]]
