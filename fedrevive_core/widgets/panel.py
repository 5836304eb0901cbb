"""The base of all explorers: labelled controls, a status line, and one figure that follows the controls."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ipw
import traitlets
from matplotlib.figure import Figure

from fedrevive_core.plots import in_words, png_bytes

WIDE = {"description_width": "12em"}  # room for a name and its unit, without cutting either
LAYOUT = {"width": "min(46em, 98%)"}
HIDDEN = "position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)"  # but read aloud
MOST_ROWS = 4  # of controls; more stand in two columns where there is room, so that the figure stays in sight
HALF = "min(29em, 98%)"


def slider(description: str, values: range | tuple[float, float, float], value: float) -> ipw.Widget:
    """A slider that reports its value when released or moved by key: whole numbers from a range, or floats.

    Args:
        description: name and unit, such as "clients in flight K". values: a range, or (lowest, highest, step).
    """
    common = {"description": description, "style": WIDE, "layout": LAYOUT, "continuous_update": False, "value": value}
    if isinstance(values, range):
        return ipw.IntSlider(min=values.start, max=values[-1], step=values.step, **common)
    lowest, highest, step = values
    return ipw.FloatSlider(min=lowest, max=highest, step=step, readout_format=".3g", **common)


def choice(description: str, options: Any, value: Any) -> ipw.SelectionSlider:
    """A slider over `options` as ipywidgets takes them: values, or (label, value) pairs.

    Not a drop-down list: on one, JupyterLab's arrow keys move to another cell of the notebook.
    """
    return ipw.SelectionSlider(
        description=description, options=options, value=value, style=WIDE, layout=LAYOUT, continuous_update=False
    )


class Picture(ipw.Image):
    """An image with a name, which the browser shows as `tooltip`: its view asks for a `description`, too."""

    description = traitlets.Unicode().tag(sync=True)


class Panel(ipw.VBox):
    """Controls above the figure that `draw` makes of their values.

    Args:
        draw: called with the controls' values by name; returns a Figure, a new one or always the same. If it raises
            ValueError (a ConfigError is one), the panel shows the message and keeps the last figure. Any other error
            is a bug: the panel shows it, too, and raises it again.
        controls: by name of the argument of `draw`. title: shown on top.

    The figure is replaced in place, so it does not flicker. Holding a key does not queue redraws: the browser sends
    only the latest value, once the previous one is done. `seconds` is how long the last drawing took. `words` is the
    figure in words, which a screen reader says after each drawing.
    """

    def __init__(self, draw: Callable[..., Figure], controls: Mapping[str, ipw.Widget], *, title: str) -> None:
        self.draw, self.controls = draw, dict(controls)
        self.status = ipw.HTML()
        layout = {"max_width": "min(1000px, 100%)", "object_fit": "contain"}
        self.image = Picture(format="png", layout=layout, tooltip=title)
        self.words = ipw.HTML(layout={"height": "0", "margin": "0"})
        self.seconds = 0.0
        shown = list(self.controls.values())
        if len(shown) > MOST_ROWS:
            for control in shown:
                control.layout.width = HALF
            shown = [ipw.Box(shown, layout={"flex_flow": "row wrap"})]
        shown = [ipw.HTML(f"<b>{html.escape(title)}</b>"), *shown]
        super().__init__([*shown, self.status, self.image, self.words])
        self.add_class("fedrevive-panel")
        for control in self.controls.values():
            control.observe(lambda _: self.redraw(), names="value")
        self.redraw()

    def redraw(self, done: str = "") -> None:
        """Draw the figure for the present values of the controls, then say `done`."""
        self.say("drawing ...")
        started = time.perf_counter()
        try:
            figure = self.draw(**{name: control.value for name, control in self.controls.items()})
            self.image.value = png_bytes(figure, scale=1.25, compression=1)
            self.words.value = f'<span role="status" style="{HIDDEN}">{html.escape(in_words(figure))}</span>'
        except ValueError as error:
            self.say(f"Not drawn: {error}", error=True)
        except Exception as error:  # shown here, because errors of a control's event go to a log that nobody reads
            self.say(f"Not drawn, {type(error).__name__}: {error}", error=True)
            raise
        else:
            self.seconds = time.perf_counter() - started
            self.say(done)

    def say(self, message: str, *, error: bool = False) -> None:
        """Show `message` above the figure; an error is marked by a sign and bold type, not by colour alone."""
        text = html.escape(message)
        self.status.value = f"<b>&#9888; {text}</b>" if error else f"<i>{text}</i>&nbsp;"
