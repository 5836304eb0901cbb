"""A hundred versions as the authors' code computes them: replayed, ours must end at the same global models.

`golden/run_*.npz` holds the global model of the authors' first research code after 25, 50, 75 and 100 versions on
lab-digits. It was fed with this package's own draws (timeline, first model, batches, noise, labels, pool samples), so a
replay needs the configuration alone. These files hold the whole pipeline to theirs, and its draws as they are.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedrevive_core import Simulation
from fedrevive_core.config import RunConfig

VERSIONS = (25, 50, 75, 100)
# Of the distance travelled since version 1. Measured: at most 4e-7 (FedRevive), 1.5e-6 (FedBuff), 5e-7 (AFL-DW).
TOLERANCE = 1e-4


@pytest.mark.parametrize("method", ["fedrevive", "fedbuff", "afl-dw"])
def test_a_run_stays_with_the_authors_code(method: str, one_thread: None) -> None:
    with np.load(Path(__file__).parent / "golden" / f"run_{method}.npz") as archive:
        golden = dict(archive)
    simulation = Simulation(RunConfig.from_dict(json.loads(str(golden["config"]))))
    assert golden["names"].tolist() == simulation.layout.names  # the order of the parameters in a vector
    for is_new in simulation.steps():
        version = simulation.server.version
        if is_new and version in VERSIONS:
            ours = simulation.layout.parameters(simulation.server.state).numpy()
            theirs = golden[f"version_{version}"]
            travelled = np.linalg.norm(theirs - golden["version_1"])
            assert np.linalg.norm(ours - theirs) <= TOLERANCE * travelled, version
        if version == VERSIONS[-1]:
            break
    assert simulation.server.version == VERSIONS[-1]
