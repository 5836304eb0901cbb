"""The ground of all explorers: labelled controls, a line that says what goes on, and one figure that follows them."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ipw
from matplotlib.figure import Figure

from fedrevive_core.plots import png_bytes

WIDE = {"description_width": "12em"}  # room for a name and its unit, without cutting either
LAYOUT = {"width": "min(46em, 98%)"}


def slider(description: str, values: range | tuple[float, float, float], value: float) -> ipw.Widget:
    """A slider that reports a value when it is released or moved by key: whole numbers from a range, or floats.

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

    Not a drop-down list: in JupyterLab the arrow keys, pressed on one, move to another cell of the notebook.
    """
    return ipw.SelectionSlider(
        description=description, options=options, value=value, style=WIDE, layout=LAYOUT, continuous_update=False
    )


class Panel(ipw.VBox):
    """Controls above the figure that `draw` makes of their values.

    Args:
        draw: called with the controls' values by name; returns a Figure, a new one or always the same. A ValueError (so
            a ConfigError too) is shown in the panel, and the last good figure stays; so does anything else that is
            raised, which is a mistake of the code and therefore raised as well. controls: by name of the argument of
            `draw`. title: shown on top.

    The figure is replaced in place, so it does not flicker. A key held down asks for no more drawings than can be made:
    the browser sends a control's newest value when the one before has been answered. `seconds` is how long the last
    drawing took.
    """

    def __init__(self, draw: Callable[..., Figure], controls: Mapping[str, ipw.Widget], *, title: str) -> None:
        self.draw, self.controls = draw, dict(controls)
        self.status = ipw.HTML()
        self.image = ipw.Image(format="png", layout={"max_width": "min(1000px, 100%)", "object_fit": "contain"})
        self.seconds = 0.0
        super().__init__([ipw.HTML(f"<b>{html.escape(title)}</b>"), *self.controls.values(), self.status, self.image])
        self.add_class("fedrevive-panel")
        for control in self.controls.values():
            control.observe(lambda _: self.redraw(), names="value")
        self.redraw()

    def redraw(self) -> None:
        """Draw anew from the controls as they stand."""
        self.say("drawing ...")
        started = time.perf_counter()
        try:
            figure = self.draw(**{name: control.value for name, control in self.controls.items()})
            self.image.value = png_bytes(figure, scale=1.25, compression=1)
        except ValueError as error:
            self.say(f"Not drawn: {error}", error=True)
        except Exception as error:  # raised from a control's event it would end in a log that nobody reads
            self.say(f"Not drawn, {type(error).__name__}: {error}", error=True)
            raise
        else:
            self.seconds = time.perf_counter() - started
            self.say("")

    def say(self, message: str, *, error: bool = False) -> None:
        """Show `message` above the figure; an error stands out by its sign and weight, not by colour alone."""
        text = html.escape(message)
        self.status.value = f"<b>&#9888; {text}</b>" if error else f"<i>{text}</i>&nbsp;"
