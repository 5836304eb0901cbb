"""Asynchronous learning with two parameters, where every update is an arrow on a map: two clients, one bent valley.

Each client's loss is a bent valley whose floor slopes gently to an optimum. The clients differ in where the optimum
lies and in where the floor runs; the global loss is their mean.
"""

from __future__ import annotations

from functools import cache

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedrevive_core.plots import STYLE, Plot

FRESH, STALE, PATH = "#0072B2", "#D55E00", "#333333"
OPTIMUM, FLOOR = (1.0, 2.2), (0.35, -0.35)  # of each client: along the valley, and the height of its floor
SLOPE, WALL, BEND = 0.25, 3.0, 0.35  # how steep it is along the valley and across it, and how much it bends
START = (-2.6, 2.8)
STEPS, LR = 10, 0.08  # of local training
VIEW = ((-3.3, 3.3), (-1.5, 3.2))


def loss(x: np.ndarray, y: np.ndarray, client: int) -> np.ndarray:
    """Return the loss of `client` (0 or 1) at parameters (x, y)."""
    return SLOPE / 2 * (x - OPTIMUM[client]) ** 2 + WALL / 2 * (y - BEND * x**2 - FLOOR[client]) ** 2


def global_loss(path: np.ndarray) -> np.ndarray:
    """Return the mean loss of both clients at points (..., 2)."""
    return (loss(path[..., 0], path[..., 1], 0) + loss(path[..., 0], path[..., 1], 1)) / 2


def local_update(start: np.ndarray, client: int) -> np.ndarray:
    """Return the update of `client` from `start` (2,): returned minus downloaded, after STEPS gradient steps."""
    x, y = start
    for _ in range(STEPS):
        above = y - BEND * x**2 - FLOOR[client]
        slope_x = SLOPE * (x - OPTIMUM[client]) - 2 * BEND * WALL * x * above
        x, y = x - LR * slope_x, y - LR * WALL * above
    return np.array([x, y]) - start


def descend(staleness: int, lr: float, versions: int = 60, weight: float = 1.0) -> np.ndarray:
    """Return the versions (versions + 1, 2) of the global model if every update is `staleness` versions old.

    The clients take turns. lr: server rate. weight: 1 - beta, what the server keeps of an update.
    """
    path = [np.array(START)]
    for version in range(versions):
        path.append(path[-1] + lr * weight * local_update(path[max(0, version - staleness)], version % 2))
    return np.array(path)


def updates_at(path: np.ndarray, staleness: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the fresh and the stale updates (versions, 2) of the client whose turn it is at each version of `path`."""
    turns = range(len(path) - 1)
    fresh = np.array([local_update(path[version], version % 2) for version in turns])
    stale = np.array([local_update(path[max(0, version - staleness)], version % 2) for version in turns])
    return fresh, stale


def angles(path: np.ndarray, staleness: int) -> np.ndarray:
    """Return the angle (versions,) in degrees between stale and fresh update of the same client; 180 is backwards."""
    fresh, stale = updates_at(path, staleness)
    cosine = (fresh * stale).sum(axis=1) / np.linalg.norm(fresh, axis=1) / np.linalg.norm(stale, axis=1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


@cache
def _picture() -> np.ndarray:
    """Return the valley as bytes (rows from below, columns, 4), in bands of equal root loss to show floor and walls."""
    x, y = np.meshgrid(np.linspace(*VIEW[0], 660), np.linspace(*VIEW[1], 470))
    root = np.sqrt(global_loss(np.stack([x, y], axis=-1)))
    return mpl.colormaps["Greys"].resampled(24)(root / root.max(), alpha=0.6, bytes=True)


def _ground(axes: Axes) -> None:
    """Plot the loss surface, seen from above, with the clients' optima."""
    axes.imshow(_picture(), extent=(*VIEW[0], *VIEW[1]), origin="lower", interpolation="nearest")
    for client, name in enumerate("AB"):
        at = (OPTIMUM[client], BEND * OPTIMUM[client] ** 2 + FLOOR[client])
        axes.plot(*at, "X", color="white", mec="black", ms=9, zorder=4)
        axes.annotate(name, at, (7, 2), textcoords="offset points", fontsize=11, weight="bold")
    axes.set(xlim=VIEW[0], ylim=VIEW[1], xlabel="parameter 1", aspect="equal")
    axes.grid(visible=False)


def _arrow(axes: Axes, at: np.ndarray, update: np.ndarray, colour: str) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 2.2, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 13}
    axes.annotate("", at + update, at, arrowprops=style, zorder=5)


@mpl.rc_context(STYLE)
def plot_paths(staleness: tuple[int, ...], lr: float, versions: int = 60, weights: tuple[float, ...] = ()) -> Figure:
    """Plot the valley, a panel per staleness: the path of the global model with fresh and stale updates along it.

    weights: 1 - beta in each panel; 1 if unset. The titles give the mean loss of the last ten versions.
    """
    weights = weights or (1.0,) * len(staleness)
    figure = Plot(figsize=(4.3 * len(staleness), 4.3), layout="constrained")
    row = figure.subplots(1, len(staleness), sharey=True, squeeze=False)[0]
    for axes, tau, weight in zip(row, staleness, weights, strict=True):
        path = descend(tau, lr, versions, weight)
        fresh, stale = updates_at(path, tau)
        _ground(axes)
        axes.plot(*path.T, "o-", color=PATH, ms=3, lw=1.2, zorder=3)
        for version in range(tau + 1, versions, max(1, versions // 7)):
            _arrow(axes, path[version], fresh[version], FRESH)
            _arrow(axes, path[version], stale[version], STALE)
        share = f", weight {weight:.2g}" if weight != 1 else ""
        axes.set_title(f"staleness {tau}{share}: loss {global_loss(path[-10:]).mean():.2f}")
    row[0].set_ylabel("parameter 2")
    _legend(figure)
    return figure


@mpl.rc_context(STYLE)
def plot_arrival(staleness: int, version: int, lr: float, versions: int = 60) -> Figure:
    """Plot one arrival: where its job started, where it is applied, the arriving and the fresh update."""
    path = descend(staleness, lr, versions)
    fresh, stale = updates_at(path, staleness)
    angle = angles(path, staleness)
    version = min(version, versions - 1)
    start, here = path[max(0, version - staleness)], path[version]
    figure = Plot(figsize=(11, 4.2))  # fixed margins: a layout engine takes longer than the whole figure
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.22, top=0.91, wspace=0.16)
    _ground(left)
    left.plot(*path[: version + 1].T, "o-", color=PATH, ms=3, lw=1.2, zorder=3)
    left.plot(*start, "o", mfc="none", mec=STALE, ms=13, mew=2, zorder=5)
    _arrow(left, here, fresh[version], FRESH)
    _arrow(left, here, stale[version], STALE)
    left.set_ylabel("parameter 2")
    left.set_title(f"Version {version}: client {'AB'[version % 2]} arrives from the circle")
    right.plot(angle, color=STALE)
    right.plot(version, angle[version], "o", color="black", ms=9)
    right.axhline(90, color="black", ls="--", lw=1)
    right.text(1, 93, "above: it points backwards", fontsize=9)
    right.set(xlim=(0, versions), ylim=(0, 185), yticks=(0, 45, 90, 135, 180), xlabel="version of the global model")
    right.set_ylabel("angle, stale to fresh (degrees)")
    right.set_title(f"Angle {angle[version]:.0f}° at staleness {staleness}")
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    stale, fresh = (Line2D([], [], color=colour, lw=3) for colour in (STALE, FRESH))
    crosses = Line2D([], [], color="white", marker="X", mec="black", ms=9, ls="")
    names = ["update that arrives", "fresh update of the same client", "optima of clients A and B"]
    outside = "outside " if figure.get_layout_engine() else ""
    figure.legend([stale, fresh, crosses], names, loc=f"{outside}lower center", ncols=3)
