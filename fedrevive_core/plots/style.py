"""How figures look: one style, one colour per method, and a Figure that shows itself."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from fedrevive_core.config import method_title

STYLE: Any = {
    "figure.facecolor": "white", "font.size": 11, "lines.linewidth": 2.0, "legend.frameon": False,
    "axes.titlesize": 13, "axes.titlelocation": "left", "axes.titlepad": 10, "axes.edgecolor": "#888888",
    "axes.spines.top": False, "axes.spines.right": False, "xtick.color": "#444444", "ytick.color": "#444444",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e6e6",
}  # fmt: skip
# Okabe and Ito's colours, which stay apart under colour blindness; their yellow is darkened, as it vanishes on white.
METHOD_COLOURS = {
    "fedavg": "#000000", "fedbuff": "#0072B2", "afl-dw": "#009E73", "dd-fedrevive": "#CC79A7", "fedrevive": "#D55E00",
    "fedasync-constant": "#56B4E9", "fedasync-poly": "#E69F00", "fedasync-hinge": "#8A7F00",
    "fedbuff-momentum": "#332288", "fedbuff-adam": "#AA4499", "fadas": "#882255", "ca2fl": "#117733", "mifa": "#6699CC",
}  # fmt: skip
# A second cue beside the colour, by how a method's title begins.
_DASHES = {"FedAsync": "--", "FedBuff +": ":", "FADAS": ":", "CA2FL": "-.", "MIFA": "-."}
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
    """A Figure that a notebook shows sharply even if pyplot, which would have taught it how, was never imported."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = self.get_size_inches() * self.dpi
        return png_bytes(self), {"width": round(width), "height": round(height)}


def png_bytes(figure: Figure, scale: float = 2.0, *, compression: int = 6) -> bytes:
    """`figure` as a PNG file with `scale` dots per pixel of its own size; `compression` from 0 (fastest) to 9."""
    canvas, dpi, buffer = FigureCanvasAgg(figure), figure.dpi, io.BytesIO()
    try:
        figure.dpi = dpi * scale
        canvas.draw()  # once, where `savefig` would draw everything twice
        opaque = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    finally:
        figure.dpi = dpi
    opaque.save(buffer, "png", compress_level=compression, dpi=(dpi * scale, dpi * scale))
    return buffer.getvalue()
