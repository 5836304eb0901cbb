"""For 12_real_clients: real processes behind a button, their recording, and models of how long jobs last."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as ipw
import matplotlib as mpl
import numpy as np

from fedrevive_core import Record, Timeline, run
from fedrevive_core.config import method_title
from fedrevive_core.files import check_free
from fedrevive_core.plots import STYLE, TITLE_COLOURS, Plot, draw_timeline, empty_figure
from fedrevive_core.records import first_difference
from fedrevive_core.seeding import stream
from fedrevive_core.timeline.event_loop import play
from fedrevive_core.widgets.panel import Panel, choice, slider
from fedrevive_notebooks.lessons.exercise import Verdict, a_function, check, diagnose, elsewhere, one_number, wrong
from reproduce.live.processes import Processes
from reproduce.live.run import LiveRun
from reproduce.live.settings import live_config
from reproduce.runs.timelines import config_on

RECORDING = Path(__file__).parents[1] / "records" / "live"  # made by `live(RECORDING)`
SLOWDOWNS = (10.0, 10.0, 15.0, 20.0, 30.0, 60.0)
SETTINGS = {
    "data.alpha": 0.2,
    "server.lr": 0.1,
    "staleness.s_max": 6.0,
    "distillation.batch_size": 16,
    "evaluation.every": 5,
}
BLUE, ORANGE = TITLE_COLOURS[:2]
KINDS = ("as measured", "exponential", "constant")  # how jobs last, around the mean of their client
REPEATS = 20  # simulations that are put together, as one run is short


def folder_of(folder: str) -> Path:
    """Return the directory of a live run that the parameter names, or that of the recording of the course."""
    return Path(folder).expanduser() if folder else RECORDING


def live(
    out: Path,
    num_arrivals: int = 150,
    slowdowns: Sequence[float] = SLOWDOWNS,
    seed: int = 0,
    show: Callable[[str, int], None] = lambda words, arrivals: None,
) -> Record:
    """Run FedRevive with a process for each of `slowdowns`, and save its record in the new directory `out`.

    show: called several times a second with what happens and the number of arrivals.
    """
    check_free(out)
    config = live_config("lab-digits", "fedrevive", seed, len(slowdowns), num_arrivals, Path(out.name), SETTINGS)
    server = LiveRun(config, timeout=300.0)
    transport = Processes(config, server.data.fingerprint, list(slowdowns), server.layout.size)

    def tell(server: LiveRun) -> None:
        here, last = len(server.present), server.recorder.evaluations[-1]["accuracy"]
        starting = f"the processes start: {here} of {len(slowdowns)} are there ..."
        at_work = f"{server.num_processed} of {num_arrivals} updates have arrived, accuracy {last:.2f} ..."
        show(at_work if server.log.client else starting, server.num_processed)

    try:
        record = server.serve(transport, show=tell)
    finally:
        transport.close()
    # It may be read on other computers: do not name the kernel of this one.
    here = {"platform": platform.system()}
    segments = [segment | here for segment in record.provenance["segments"]]
    record = replace(record, provenance=record.provenance | here | {"segments": segments})
    record.save(out, with_model=False)
    return record


class RealClients(Panel):
    """The timeline of the live run in `folder`, and a button that starts the processes of a new one.

    `folder` is then the directory of the new run, which is kept as long as this panel, and `timeline` its timeline.
    """

    children: tuple[ipw.Widget, ...]

    def __init__(self, folder: Path, num_arrivals: int, slowdowns: Sequence[float], seed: int) -> None:
        self.folder, self.timeline = folder, Timeline.load(folder)
        self.asked = num_arrivals, slowdowns, seed
        self.kept = tempfile.TemporaryDirectory(prefix="fedrevive-live-")
        self.button = ipw.Button(
            description=f"Start {len(slowdowns)} processes",
            button_style="primary",
            icon="play",
            layout={"width": "16em"},
        )
        self.bar = ipw.IntProgress(min=0, max=num_arrivals, layout={"width": "20em", "visibility": "hidden"})
        self.drawn = empty_figure()
        sizes = range(1, self.timeline.federation.num_clients + 1)
        super().__init__(
            self._figure, {"buffer_size": slider("updates per version B", sizes, 1)}, title="Real clients at work"
        )
        self.children = (*self.children[:-3], ipw.HBox([self.button, self.bar]), *self.children[-3:])
        self.button.on_click(lambda _: self.start())

    def start(self) -> None:
        """Run the processes to the end and draw what they did; an error is shown in the panel."""
        self.button.disabled = True
        self.bar.value, self.bar.layout.visibility = 0, "visible"
        out = Path(tempfile.mkdtemp(dir=self.kept.name)) / "live"
        try:
            live(out, *self.asked, show=self._show)
        except Exception as error:  # the reader looks at the panel, not at the kernel's log
            self.say(f"Not finished: {type(error).__name__}: {error}", error=True)
        else:
            self.folder, self.timeline = out, Timeline.load(out)
            self.redraw("Finished: this is your own run. Run the cells below again.")
        finally:
            self.button.disabled = False
            self.bar.layout.visibility = "hidden"

    def _show(self, words: str, arrivals: int) -> None:
        self.bar.value = arrivals
        self.say(words)

    def _figure(self, buffer_size: int) -> Plot:
        draw_timeline(self.drawn, with_buffer(self.timeline, buffer_size))
        return self.drawn


def explore_live(folder: Path, num_arrivals: int, slowdowns: Sequence[float], seed: int) -> RealClients:
    """Show the live run in `folder`, with a button that starts a new one; arguments as in `live`."""
    return RealClients(folder, num_arrivals, slowdowns, seed)


def with_buffer(timeline: Timeline, buffer_size: int) -> Timeline:
    """Return the same arrivals with another number of updates per version."""
    federation = timeline.federation.model_copy(update={"buffer_size": buffer_size})
    return replace(timeline, federation=federation)


def again(folder: Path, method: str | None = None, versions: int | None = None) -> Record:
    """Repeat the arrivals of the live run in `folder`, with its own or another `method`; `versions` may end it."""
    settings = {} if versions is None else {"federation.max_versions": versions}
    return run(config_on(folder, {} if method is None else {"method": method}, settings), progress=False)


def compared(record: Record, other: Record) -> str:
    """Say in Markdown whether `other`, which may be shorter, has the bits of `record`, or where they part."""
    count = len(other.arrivals)
    both = record.arrivals.columns.intersection(other.arrivals.columns).tolist()  # a later version may keep more
    same = record.arrivals[both][:count].equals(other.arrivals[both])
    if same:
        return f"**Identical**: all numbers of {count} arrivals agree to the last bit."
    where = first_difference(record, other)
    here = record.provenance["versions"] == other.provenance["versions"]
    why = "Is it another processor?" if here else "The versions of the packages differ, so the last bits may."
    return f"**Different** {where}. {why} Who arrived when is the same."


def methods_table(records: Sequence[Record]) -> str:
    """Return Markdown: versions, staleness and accuracy of runs on the same arrivals."""
    head = "| method | B | versions | mean staleness | accuracy, mean over the run | at the end |"
    head += "\n|---|---|---|---|---|---|"
    rows = [
        f"| {method_title(record.config.method)} | {record.config.federation.buffer_size} "
        f"| {record.summary['num_versions']} | {record.summary['mean_staleness']:.2f} "
        f"| {record.summary['mean_accuracy']:.1%} | {record.summary['final_accuracy']:.1%} |"
        for record in records
    ]
    return "\n".join([head, *rows])


def arrived(timeline: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """Return of each arrival its client, and the seconds from dispatch to arrival."""
    jobs = timeline.arrivals
    return timeline.client[jobs], timeline.arrival_time[jobs] - timeline.dispatch_time[jobs]


def relative_durations(timeline: Timeline) -> np.ndarray:
    """Return of each arrival how long its job lasted, relative to the mean of its client."""
    client, duration = arrived(timeline)
    count = np.maximum(1, np.bincount(client))
    return duration / (np.bincount(client, duration) / count)[client]


def modelled(timeline: Timeline, kind: str, seed: int, buffer_size: int = 1) -> np.ndarray:
    """Simulate the federation of `timeline` with the same mean duration of each client; return the staleness.

    kind: of KINDS, how jobs last around these means. Each of REPEATS simulations has as many arrivals as `timeline`.
    """
    relative, means = relative_durations(timeline), timeline.mean_duration
    federation = timeline.federation.model_copy(
        update={
            "timeline": None,
            "buffer_size": buffer_size,
            "max_versions": max(1, len(timeline.arrivals) // buffer_size),
        }
    )
    staleness = []
    for repeat in range(REPEATS):
        random = stream(seed, "selection", repeat)
        draw = {
            "as measured": lambda random=random: random.choice(relative),
            "exponential": random.standard_exponential,
            "constant": lambda: 1.0,
        }[kind]
        played = play(federation, lambda client, draw=draw: means[client] * draw(), random.random, means)
        staleness.append(played.arrival_staleness)
    return np.concatenate(staleness)


def explore_models(timeline: Timeline, seed: int = 0) -> Panel:
    """Sliders for the model of durations and the buffer size, above live and simulated staleness."""

    def draw(kind: str, buffer_size: int, seed: int) -> Plot:
        return _plot_models(timeline, kind, buffer_size, seed)

    controls = {
        "kind": choice("durations of the model", list(KINDS), "exponential"),
        "buffer_size": slider("updates per version B", range(1, timeline.federation.num_clients + 1), 1),
        "seed": slider("seed", range(max(100, seed + 1)), seed),
    }
    return Panel(draw, controls, title="Measured against modelled: durations and staleness")


def plot_models(timeline: Timeline, seed: int = 0) -> Plot:
    """Plot durations and staleness of a live run beside those of the exponential model with the same means."""
    return _plot_models(timeline, "exponential", 1, seed)


@mpl.rc_context(STYLE)
def _plot_models(timeline: Timeline, kind: str, buffer_size: int, seed: int) -> Plot:
    relative = relative_durations(timeline)
    real = with_buffer(timeline, buffer_size).arrival_staleness
    model = modelled(timeline, kind, seed, buffer_size)
    figure = Plot(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = np.linspace(0, max(3.0, float(relative.max())), 25)
    left.hist(relative, edges, density=True, color=BLUE, alpha=0.75, label="measured")
    if kind == "exponential":
        left.plot(edges, np.exp(-edges), color=ORANGE, label="exponential model")
    elif kind == "constant":
        left.axvline(1, color=ORANGE, label="constant model")
    left.set(xlabel="duration of a job / mean of its client", ylabel="density")
    left.set_title(f"How long jobs last: spread {relative.std():.2f}")
    left.legend()
    longest = int(np.quantile(np.concatenate([real, model]), 0.99))
    values = np.arange(longest + 1)
    for offset, staleness, colour, name in ((-0.2, real, BLUE, "measured"), (0.2, model, ORANGE, f"{kind} model")):
        label = f"{name}: mean {staleness.mean():.2f}, at most {staleness.max()}"
        share = np.bincount(staleness, minlength=longest + 1)[: longest + 1] / len(staleness)
        right.bar(values + offset, share, 0.4, color=colour, alpha=0.85, label=label)
    right.set(xlabel=f"staleness (versions), up to the 99th percentile, {longest}", ylabel="share of arrivals")
    right.set(ylim=(0, 1.3 * right.get_ylim()[1]))  # room for the legend
    right.set_title("How stale updates are")
    right.legend()
    return figure


@mpl.rc_context(STYLE)
def plot_heard(timeline: Timeline) -> Plot:
    """Plot the updates of each client that arrived, fastest client first, and where equal shares would be."""
    client, _ = arrived(timeline)
    count = np.bincount(client, minlength=timeline.federation.num_clients)
    order = np.argsort(timeline.mean_duration, kind="stable")
    figure = Plot(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(order)), count[order], color=BLUE, alpha=0.85)
    axes.axhline(count.mean(), color="black", lw=1, ls="--", label=f"equal shares: {count.mean():.0f} each")
    labels = [f"{number}\n{timeline.mean_duration[number]:.2f} s" for number in order]
    axes.set_xticks(range(len(order)), labels)
    axes.set(xlabel="client, with the mean duration of its jobs; fastest first", ylabel="updates that arrived")
    axes.set_title(
        f"Who is heard: client {order[0]} {count[order[0]]} times, client {order[-1]} {count[order[-1]]} times"
    )
    axes.legend()
    return figure


# ---------------------------------------------------------------------------------------------------------- exercises


@check(a_function)
def check_mean(answer: Callable[[int, int], Any], timeline: Timeline) -> Verdict:
    """Judge `answer(num_processes, buffer_size)`: the mean staleness that the law predicts."""
    sizes = [(6, 1), (6, 2), (8, 4)]

    def values(of: Callable[[int, int], Any]) -> np.ndarray:
        return np.array([one_number(of(*size)) for size in sizes])

    def correct(num_processes: int, buffer_size: int) -> float:
        return (num_processes - 1) / buffer_size

    mistakes: Mapping[str, Any] = {
        "Nearly. While a process works, the others upload. How many others are there?": values(lambda k, b: k / b),
        "This counts uploads; staleness counts versions, and one version takes buffer_size uploads.": [
            values(lambda k, b: k - 1),
            values(lambda k, b: k),
        ],
        "A larger buffer makes fewer versions: divide by it.": [
            values(lambda k, b: (k - 1) * b),
            values(lambda k, b: k * b),
        ],
        "This is half of it. A job misses all uploads of the others, on average one from each.": values(
            lambda k, b: (k - 1) / (2 * b)
        ),
        "This is the other way round: more processes make updates staler.": values(lambda k, b: b / (k - 1)),
    }
    count, buffer_size = timeline.federation.concurrency, timeline.federation.buffer_size
    praise = (
        f"For the live run it says {correct(count, buffer_size):.2f}; its {len(timeline.arrivals)} arrivals have "
        f"{timeline.arrival_staleness.mean():.2f} on average."
    )
    verdict = diagnose(
        values(answer),
        values(correct),
        mistakes,
        praise,
        otherwise=f"For 6 processes and B = 1 yours says {values(answer)[0]:.3g}. How many uploads of others arrive "
        "while one process works, and how many of them make a version?",
    )
    return elsewhere(verdict, answer, correct, {"11 processes and B = 5": (11, 5)})


# Invented: two clients, one three times as slow, whose jobs vary by a quarter around their means.
DURATIONS = np.array([1.0, 3.0, 1.5, 4.5, 0.5, 1.5, 1.0, 3.0])
CLIENTS = np.array([0, 1, 0, 1, 0, 1, 0, 1])
MORE_DURATIONS = np.array([2.0, 5.0, 4.0, 0.5, 7.0, 1.5])
MORE_CLIENTS = np.array([0, 1, 0, 2, 1, 2])


def spread(duration: np.ndarray, client: np.ndarray) -> float:
    """Return the standard deviation of durations relative to the mean of their client."""
    mean = np.bincount(client, duration) / np.bincount(client)
    return float(np.std(duration / mean[client]))


@check(a_function)
def check_spread(answer: Callable[[np.ndarray, np.ndarray], Any], timeline: Timeline) -> Verdict:
    """Judge `answer(duration, client)`: the spread of durations around the mean of their client."""
    own = [DURATIONS[number == CLIENTS] for number in (0, 1)]
    relative = np.concatenate([part / part.mean() for part in own])
    mistakes: Mapping[str, Any] = {
        "This divides by the mean over all clients, so it also measures that some are slower than others. Divide each "
        "duration by the mean of its own client.": np.std(DURATIONS) / DURATIONS.mean(),
        "These are seconds: divide each duration by the mean of its client first.": [
            np.std(DURATIONS),
            np.mean([part.std() for part in own]),
            np.std(np.concatenate([part - part.mean() for part in own])),
        ],
        "This is the variance; take its square root.": np.var(relative),
        "This divides by n - 1; np.std divides by n.": np.std(relative, ddof=1),
        "The mean of relative durations is always 1: take their standard deviation.": 1.0,
        "Divide by the mean of the client, not by its median or its largest duration.": [
            np.std(np.concatenate([part / part.max() for part in own]))
        ],
    }
    measured = spread(*reversed(arrived(timeline)))
    praise = f"In the live run the spread is {measured:.2f}; exponential durations have 1, equal ones 0."
    given = one_number(answer(DURATIONS.copy(), CLIENTS.copy()))
    verdict = diagnose(
        given,
        spread(DURATIONS, CLIENTS),
        mistakes,
        praise,
        tolerance=1e-4,
        otherwise=f"For durations 1, 1.5, 0.5, 1 of client 0 and 3, 4.5, 1.5, 3 of client 1 yours gives {given:.3g}. "
        "Relative to their means both clients have 1, 1.5, 0.5, 1.",
    )
    return elsewhere(verdict, answer, spread, {"three clients": (MORE_DURATIONS, MORE_CLIENTS)})


HEARD, NUM_HEARD = np.array([0, 2, 0, 1, 0, 2, 0, 1, 0, 0]), 4  # invented: client 3 is never heard


def shares(client: np.ndarray, num_clients: int) -> np.ndarray:
    """Return the share of each client (num_clients,) in the arrivals."""
    return np.bincount(client, minlength=num_clients) / len(client)


@check(a_function)
def check_shares(answer: Callable[[np.ndarray, int], Any], timeline: Timeline) -> Verdict:
    """Judge `answer(client, num_clients)`: the share of each client in the arrivals."""
    counts, result = np.bincount(HEARD, minlength=NUM_HEARD), answer(HEARD.copy(), NUM_HEARD)
    silent = "Client 3 is never heard here: its share is 0, and it must not be left out (see minlength of np.bincount)."
    if np.shape(result) == (3,):
        return wrong(silent)
    mistakes: Mapping[str, Any] = {
        "These are counts: divide by the number of arrivals.": counts,
        "These are percentages; a share lies between 0 and 1.": 100 * counts / len(HEARD),
        "This divides by the number of clients: divide by the number of arrivals.": counts / NUM_HEARD,
        "This is relative to the client that is heard most; divide by all arrivals.": counts / counts.max(),
        "These are equal shares. Count who arrived.": np.full(NUM_HEARD, 1 / NUM_HEARD),
    }
    given = shares(arrived(timeline)[0], timeline.federation.num_clients)
    praise = f"In the live run the shares go from {given.min():.1%} to {given.max():.1%}; equal ones would be "
    praise += f"{1 / len(given):.1%}."
    otherwise = "Of ten arrivals six are from client 0, two from 1, two from 2 and none from 3: 0.6, 0.2, 0.2, 0."
    verdict = diagnose(result, shares(HEARD, NUM_HEARD), mistakes, praise, otherwise=otherwise)
    cases = {"five clients of which two are heard": (np.array([4, 1, 4]), 5)}
    return elsewhere(verdict, answer, shares, cases)
