"""Named, independent random streams.

Every random draw comes from `stream(seed, purpose, *index)`. Streams of different names or indices are independent,
so that switching one part of a run on or off never changes the draws of another, and nothing has to be saved to
resume: the stream of job 17 is found again from the seed and the number 17. Draws are made by NumPy on the host and
copied to the device, so a run makes the same draws on a CPU and on a GPU.
"""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np

Purpose = Literal[
    "split",  # which sample goes to which client; seeded by data.split_seed
    "speed skew",  # which classes the slow clients own; seeded by data.split_seed
    "clients",  # persistent mean delays of the clients, or which devices of a trace they are
    "delays",  # durations of jobs, in order of dispatch
    "faults",  # which job has a fault (index 0) and when a client crashes (index 1), in order of dispatch
    "selection",  # which client gets the next job, in order of dispatch
    "initialisation",  # first global model (index 0) and generator (index 1)
    "batches",  # sample order and augmentation of one job
    "teachers",  # which returned model teaches one job
    "corrections",  # sample order and augmentation of the steps by which one job's model is corrected
    "probing",  # Gaussian inputs of the class-proportion proxy, one stream an arrival
    "noise pool",  # samples and labels of revival.source = "noise" or "other"
    "synthesis",  # labels, noise and augmentation, one stream an arrival
    "distillation",  # pool draws and augmentation, one stream an arrival
    "dropout",  # of one job (index 0, job), one distillation (index 1, arrival) and one correction (index 2, job)
]


def stream(seed: int, purpose: Purpose, *index: int) -> np.random.Generator:
    """Random generator for one `purpose`; equal arguments give equal draws. `seed` and `index` are >= 0."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *index)))
