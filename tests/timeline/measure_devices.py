"""What an arrival costs with devices that come and go, against random delays: python tests/timeline/measure_devices.py

Each pair simulates the same number of arrivals with both, in turn, in CPU time; the first pair warms up.
"""

from __future__ import annotations

import statistics
import sys
import time

from fedrevive_core.config import build
from fedrevive_core.timeline import simulate_timeline


def seconds(schedule: str, clients: int, concurrency: int, arrivals: int, seed: int, **devices: str) -> float:
    """CPU seconds of one simulation."""
    overrides = {f"federation.devices.{name}": value for name, value in devices.items()}
    overrides |= {"federation.num_clients": clients, "federation.concurrency": concurrency}
    overrides |= {"federation.max_sim_time": None, "federation.max_versions": arrivals}
    federation = build("lab-digits", "fedrevive", schedule=schedule, overrides=overrides).federation
    started = time.process_time()
    assert len(simulate_timeline(federation, seed).arrivals) == arrivals
    return time.process_time() - started


def main(arrivals: int, pairs: int) -> None:
    """Print medians and ranges of the seconds and of the ratios."""
    for sizes in ((150, 80), (700, 500), (700, 80), (700, 10)):
        for unfinished in ("paused", "lost"):
            both = [
                (
                    seconds("default", *sizes, arrivals, seed),
                    seconds("devices", *sizes, arrivals, seed, unfinished=unfinished),
                )
                for seed in range(pairs + 1)
            ][1:]
            columns = [*zip(*both, strict=True), [devices / default for default, devices in both]]
            words = (f"{statistics.median(column):.2f} ({min(column):.2f} to {max(column):.2f})" for column in columns)
            print(f"N, K = {sizes}, {unfinished:6}: default, devices, ratio:", ", ".join(words), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ("1000000", "5")))
