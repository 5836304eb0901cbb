"""How figures look: one style, one colour per method, and a Figure that shows itself.

A figure is a light card with round corners: its colours mean the same in a light and in a dark notebook, and pictures
of pixels, which cannot be inverted, stay as they are.
"""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from fedrevive_core.config import method_title
from fedrevive_core.plots.words import in_words

STYLE: Any = {
    "figure.facecolor": "#f7f7f5", "axes.facecolor": "none",
    "font.size": 11, "lines.linewidth": 2.0, "legend.frameon": False,
    "axes.titlesize": 13, "axes.titlelocation": "left", "axes.titlepad": 10, "axes.edgecolor": "#888888",
    "axes.spines.top": False, "axes.spines.right": False, "xtick.color": "#444444", "ytick.color": "#444444",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e2e2e0",
    "figure.constrained_layout.w_pad": 0.14, "figure.constrained_layout.h_pad": 0.12,
}  # fmt: skip
# Okabe and Ito's colours, which stay apart under colour blindness; their yellow is darkened, as it vanishes on white.
METHOD_COLOURS = {
    "fedavg": "#000000", "fedbuff": "#0072B2", "afl-dw": "#009E73", "dd-fedrevive": "#CC79A7", "fedrevive": "#D55E00",
    "fedasync-constant": "#56B4E9", "fedasync-poly": "#E69F00", "fedasync-hinge": "#8A7F00",
    "fedbuff-momentum": "#332288", "fedbuff-adam": "#AA4499", "fadas": "#882255", "ca2fl": "#117733", "mifa": "#6699CC",
    "ace": "#44AA99", "aced": "#999933", "asyncfeded": "#CC6677",
    "fare-dust": "#661100", "feast-msg": "#999999", "fedadt": "#DDAA33",
}  # fmt: skip
# A second cue beside the colour, by how a method's title begins.
_DASHES = {
    "FedAsync": "--",
    "FedBuff +": ":",
    "FADAS": ":",
    "CA2FL": "-.",
    "MIFA": "-.",
    "ACE": "--",
    "AsyncFedED": ":",
    "FARe-DUST": "-.",
    "FeAST": ":",
    "FedADT": "--",
}
UNKNOWN_COLOUR = "#777777"
TITLE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name: its method's if it is one, otherwise the next free one."""
    free = [colour for colour in TITLE_COLOURS if colour not in {METHOD_COLOURS.get(name) for name in names}]
    return {name: METHOD_COLOURS.get(name) or free[number % len(free)] for number, name in enumerate(names)}


def dashes(name: str) -> str:
    """The line style of a method, given its name or title; solid for everything else."""
    title = method_title(name)
    return next((style for start, style in _DASHES.items() if title.startswith(start)), "-")


class Plot(Figure):
    """A Figure that a notebook shows sharply and with its text, even if pyplot, which taught others, is not there."""

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """As HTML, because only there an image has a text; as PNG for what shows no HTML."""
        width, height = (round(size * self.dpi) for size in self.get_size_inches())
        png, words = base64.b64encode(png_bytes(self)).decode("ascii"), in_words(self)
        size = f'width="{width}" height="{height}" style="max-width: 100%; height: auto"'
        image = f'<img src="data:image/png;base64,{png}" {size} alt="{html.escape(words)}">'
        return {"text/html": image, "image/png": png}, {"image/png": {"width": width, "height": height, "alt": words}}


def png_bytes(figure: Figure, scale: float = 2.0, *, compression: int = 6) -> bytes:
    """`figure` as a PNG file with `scale` dots per pixel of its own size; `compression` from 0 (fastest) to 9."""
    canvas, dpi, buffer = FigureCanvasAgg(figure), figure.dpi, io.BytesIO()
    try:
        figure.dpi = dpi * scale
        canvas.draw()  # once, where `savefig` would draw everything twice
        drawn = Image.fromarray(np.asarray(canvas.buffer_rgba()).copy())
    finally:
        figure.dpi = dpi
    drawn.putalpha(_card(drawn.size, round(0.12 * dpi * scale)))
    drawn.save(buffer, "png", compress_level=compression, dpi=(dpi * scale, dpi * scale))
    return buffer.getvalue()


@functools.lru_cache(maxsize=8)
def _card(size: tuple[int, int], radius: int) -> Image.Image:
    """Opacity of a card of `size` pixels, width and height, with round corners."""
    opacity = Image.new("L", size, 0)
    ImageDraw.Draw(opacity).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius, fill=255)
    return opacity
