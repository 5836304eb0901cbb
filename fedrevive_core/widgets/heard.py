"""The explorer of who is heard: how speed and data go together, and which classes then arrive. It trains nothing."""

from __future__ import annotations

import numpy as np

from fedrevive_core.config import build
from fedrevive_core.plots import Plot, plot_arriving_classes
from fedrevive_core.timeline import simulate_timeline, speed_groups
from fedrevive_core.widgets.panel import Panel, slider


def explore_heard(preset: str = "lab-digits", *, seed: int = 0, num_arrivals: int = 3000) -> Panel:
    """Sliders for slow clients and for what they hold, above who is heard how often and which classes arrive.

    Args:
        preset: whose data and federation are taken; a third of the clients is slower. seed: of selection and delays.
        num_arrivals: length of the run in uploads, one per version, >= 1.

    Raises ConfigError for an unknown preset; the panel says why values of sliders cannot be simulated.
    """
    import torch  # here and for the data, because the other explorers of timelines need no PyTorch

    from fedrevive_core.data import load_federated, match_to_speed

    usual = build(preset, "fedrevive")
    data = load_federated(usual.data, usual.federation.num_clients, torch.device("cpu"))
    schedule = usual.federation.schedule.model_dump()
    training = {"kind": "exponential", "odds": [2 / 3, 1 / 3]}

    def draw(slowdown: int, skew: float, concurrency: int) -> Plot:
        settings = {
            "federation.schedule": schedule | {"training": {**training, "means": [1.0, float(slowdown)]}},
            "federation.concurrency": concurrency,
            "federation.max_sim_time": None,
            "federation.max_versions": num_arrivals,
            "data.speed_skew": skew,
        }
        config = build(preset, "fedrevive", seed=seed, overrides=settings)
        timeline = simulate_timeline(config.federation, seed)
        counts = np.bincount(timeline.client[timeline.arrivals], minlength=len(data.shards))
        slow = speed_groups(timeline.mean_duration)["slow"]
        held = match_to_speed(data, config.data, timeline.mean_duration).class_counts
        return plot_arriving_classes(data.class_names, counts, held, slow)

    clients = len(data.shards)
    controls = {
        "slowdown": slider("1 client in 3 slower (x)", range(1, 31), 10),
        "skew": slider("speed skew of the data", (0.0, 1.0, 0.1), 1.0),
        "concurrency": slider("jobs in flight K", range(1, clients + 1), usual.federation.concurrency),
    }
    return Panel(draw, controls, title="Who is heard, and what do the slow ones hold?")
