"""Going on after an interruption: the same bits, whatever was running; damage is found; nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import SMALL, compared, run_until, small

from fedrevive_core.config.methods import METHODS
from fedrevive_core.errors import ConfigError, Interrupted
from fedrevive_core.files import UNFINISHED, lock
from fedrevive_core.records.record import Record
from fedrevive_core.server import Receipt, Server, Upload
from fedrevive_core.simulation import checkpoint
from fedrevive_core.simulation.simulation import Simulation, run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_has_the_same_bits(method, tmp_path):
    """Stopped after 5 and again after 11 arrivals (FedAvg: rounds of 8), each time taken up by a fresh simulation."""
    config = small(method, **({"federation__max_versions": 3} if method == "fedavg" else {}))
    whole = run(config, progress=False)
    for stop in (5, 11):
        simulation = Simulation(config)
        checkpoint.restore(simulation, tmp_path)
        run_until(simulation, stop)
        checkpoint.write(simulation, tmp_path)
    resumed = run(config, progress=False, checkpoints=tmp_path)
    assert resumed.provenance["num_resumed"] == 2
    assert compared(resumed) == compared(whole)


def test_a_resumed_run_on_noise_has_the_same_bits(tmp_path):
    """The pool of noise is no part of a checkpoint: it is drawn again."""
    config = small("fedrevive", revival__source="noise", synthesis__pool_size=64)
    whole = run(config, progress=False)
    simulation = Simulation(config)
    run_until(simulation, 7)
    checkpoint.write(simulation, tmp_path)
    assert compared(run(config, progress=False, checkpoints=tmp_path)) == compared(whole)


def test_a_resumed_run_with_faults_has_the_same_bits(tmp_path):
    """Stopped wherever the first of a duplicated upload has arrived and its copy has not."""
    probabilities = {"crash": 0.1, "duplicate": 0.2, "non_finite": 0.1, "wrong_size": 0.1, "scaled": 0.1}
    faults = {f"federation__faults__{name}": value for name, value in probabilities.items()}
    config = small("fedrevive", server__clip_norm=1.0, **faults)
    whole = run(config, progress=False)
    stops = np.flatnonzero(Simulation(config).timeline.is_copy)
    assert len(stops) > 1
    for stop in stops:
        simulation = Simulation(config)
        checkpoint.restore(simulation, tmp_path)
        run_until(simulation, stop)
        checkpoint.write(simulation, tmp_path)
    resumed = run(config, progress=False, checkpoints=tmp_path)
    assert compared(resumed) == compared(whole)
    assert whole.summary["rejected"]["duplicate upload"] == len(stops)


def command(out: Path, *more: str) -> list[str]:
    values = SMALL | {"federation.max_versions": 60, "evaluation.every": 2}
    settings = [f"--set={name}={json.dumps(value)}" for name, value in values.items()]
    return [sys.executable, "-m", "reproduce", "run", "--method", "fedrevive", "--out", str(out), *settings, *more]


def start_and_signal(out: Path, number: int, *more: str) -> tuple[int, str]:
    """Start a run that writes checkpoints, wait for a new one, send a signal; (exit code, standard error)."""
    process = subprocess.Popen(command(out, *more), stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)
    partial = out.with_name(out.name + ".partial")
    before = set(partial.glob("0*"))
    deadline = time.monotonic() + 60
    while set(partial.glob("0*")) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    return process.returncode, error


@pytest.mark.processes
def test_signals_to_a_real_process_and_its_resumes(tmp_path):
    """Killed, then resumed and stopped by SIGTERM, then resumed to the end: as if nothing had happened."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run(command(whole), check=True, capture_output=True)
    assert start_and_signal(out, signal.SIGKILL, "--checkpoint-every", "5")[0] == -9
    refused = subprocess.run(command(out), capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "holds an interrupted run: add --resume" in refused.stderr
    code, error = start_and_signal(out, signal.SIGTERM, "--checkpoint-every", "5", "--resume")
    assert code == 143
    assert "resume with:" in error
    assert not out.exists()
    subprocess.run(command(out, "--resume"), check=True, capture_output=True)
    record = Record.load(out)
    assert record.provenance["num_resumed"] == 2
    assert compared(record) == compared(Record.load(whole))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    simulation = Simulation(small("fedrevive"))
    for stop in (4, 8, 12):
        run_until(simulation, stop)
        checkpoint.write(simulation, directory)
    return directory


def test_the_two_newest_are_kept(two_checkpoints):
    assert [int(path.name[:9]) for path in checkpoint.list_checkpoints(two_checkpoints)] == [12, 8]


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "swap"])
def test_damage_is_found_and_the_older_checkpoint_is_used(two_checkpoints, tmp_path, file, damage):
    directory = tmp_path / "copy"
    shutil.copytree(two_checkpoints, directory)
    newest, older = checkpoint.list_checkpoints(directory)
    content = bytearray((newest / file).read_bytes())
    if damage == "flip":
        content[np.random.default_rng(0).integers(len(content))] ^= 1
    elif damage == "truncate":
        content = content[:-1]
    elif damage == "swap":
        content = bytearray((older / file).read_bytes())
    (newest / file).unlink()
    if damage != "delete":
        (newest / file).write_bytes(content)
    simulation = Simulation(small("fedrevive"))
    with pytest.warns(UserWarning, match=r"is damaged .*: trying an older one"):
        assert checkpoint.restore(simulation, directory)
    assert simulation.num_processed == 8


def test_if_all_are_damaged_it_is_an_error(two_checkpoints, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(two_checkpoints, directory)
    for path in checkpoint.list_checkpoints(directory):
        (path / checkpoint.TENSORS).unlink()
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ConfigError, match=r"every checkpoint in .* is damaged"),
    ):
        checkpoint.restore(Simulation(small("fedrevive")), directory)


def test_another_configuration_is_refused_by_name(two_checkpoints):
    with pytest.raises(ConfigError, match=r"differs in server\.lr: 0\.2 / 0\.1"):
        checkpoint.restore(Simulation(small("fedrevive", server__lr=0.2)), two_checkpoints)


def test_other_data_is_refused(two_checkpoints):
    simulation = Simulation(small("fedrevive"))
    simulation.data.clients.images[0, 0, 0, 0] += 0.5
    with pytest.raises(ConfigError, match="differs in the data itself"):
        checkpoint.restore(simulation, two_checkpoints)
    simulation.data.clients.images[0, 0, 0, 0] -= 0.5  # the data is shared by all simulations of a process


def test_nothing_to_restore(tmp_path):
    assert checkpoint.restore(Simulation(small("fedbuff")), tmp_path) is False


def test_a_full_disk_is_one_sentence_and_older_checkpoints_stay(two_checkpoints, tmp_path, monkeypatch):
    directory = tmp_path / "copy"
    shutil.copytree(two_checkpoints, directory)
    before = checkpoint.list_checkpoints(directory)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ConfigError, match=r"no checkpoint could be written to .*No space left"):
        checkpoint.write(Simulation(small("fedrevive")), directory)
    assert checkpoint.list_checkpoints(directory) == before
    assert not list(directory.glob(f"{UNFINISHED}*"))


def test_a_second_process_is_refused(tmp_path):
    with lock(tmp_path):
        code = (
            f"from pathlib import Path\nfrom fedrevive_core.files import lock\nwith lock(Path({str(tmp_path)!r})): pass"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "is in use by another process" in other.stderr
    with lock(tmp_path):
        pass


def test_interrupting_in_process_writes_a_checkpoint(tmp_path, monkeypatch):
    """As an interrupted notebook cell: the signal comes while an arrival is processed."""
    config = small("fedbuff")
    process = Simulation.process

    def interrupted(self, number):
        process(self, number)
        if number == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Simulation, "process", interrupted)
    with pytest.raises(Interrupted, match="stopped by signal 2; the same call resumes from"):
        run(config, progress=False, checkpoints=tmp_path)
    monkeypatch.undo()
    resumed = run(config, progress=False, checkpoints=tmp_path)
    assert compared(resumed) == compared(run(config, progress=False))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"code": "0" * 64}, r"code [0-9a-f]{12} then, 000000000000 here"),
        ({"versions": {"torch": "1.0"}}, r"torch \S+ then, 1\.0 here, numpy \S+ then, unknown here"),
        ({"num_threads": 7}, "number of threads 1 then, 7 here"),
        ({"device": "GPU"}, "device cpu then, cuda here"),
    ],
)
def test_other_code_is_refused_by_name(two_checkpoints, monkeypatch, changed, words):
    simulation = Simulation(small("fedrevive"))
    made = simulation.made_by() | changed
    monkeypatch.setattr(simulation, "made_by", lambda: made)
    with pytest.raises(ConfigError, match=f"was made by other code: {words}; .* or add --allow-other-code"):
        checkpoint.restore(simulation, two_checkpoints)


def test_what_other_code_began_is_listed_in_parts(tmp_path, monkeypatch):
    """Begun by this code, branched and stopped by another; the bits are the same here because the code is."""
    config = small("fedrevive")
    simulation = run_until(Simulation(config), 5)
    checkpoint.write(simulation, tmp_path)
    code = simulation.made_by()["code"]
    monkeypatch.setattr("fedrevive_core.records.maker.code_hash", lambda: "0" * 64)
    with pytest.raises(ConfigError, match="was made by other code"):
        run(config, progress=False, checkpoints=tmp_path)
    resumed = Simulation(config)
    checkpoint.restore(resumed, tmp_path, allow_other_code=True)
    run_until(resumed, 8)
    for record in (resumed.branched(config).run(progress=False), resumed.run(progress=False)):
        assert compared(record) == compared(run(config, progress=False))
        parts = [(part["first_arrival"], part["code"][:4]) for part in record.provenance["segments"]]
        assert parts == [(0, code[:4]), (5, "0000")]
        assert record.provenance["code"] == "0" * 64


def test_a_checkpoint_that_names_no_code_needs_leave(two_checkpoints, monkeypatch):
    read = checkpoint._read

    def old(path: Path) -> Any:
        manifest, tensors = read(path)
        del manifest["made_by"], manifest["state"]["segments"]
        return manifest, tensors

    monkeypatch.setattr(checkpoint, "_read", old)
    simulation = Simulation(small("fedrevive"))
    with pytest.raises(ConfigError, match="was made by other code: code unknown then"):
        checkpoint.restore(simulation, two_checkpoints)
    checkpoint.restore(simulation, two_checkpoints, allow_other_code=True)
    assert [part["first_arrival"] for part in simulation.segments()] == [0, 12]


CELL = """
import time
from pathlib import Path
from fedrevive_core.simulation import Simulation, run
from helpers import small
process = Simulation.process
def slow(self, number):
    process(self, number)
    if number == 6:
        print("now", flush=True)
        while not Path({checkpoints!r}, "interrupted").exists():
            time.sleep(0.05)
Simulation.process = slow
run(small("fedbuff"), checkpoints=Path({checkpoints!r}))
"""


def reply_to(client: Any, request: str) -> dict[str, Any]:
    while True:
        message = client.get_shell_msg(timeout=60)
        if message["parent_header"].get("msg_id") == request:
            return message["content"]


def test_interrupting_a_notebook_cell(tmp_path):
    """In a real kernel: the checkpoint is there, the error says how to go on, and the same cell then does."""
    from jupyter_client.manager import start_new_kernel

    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    manager, client = start_new_kernel(kernel_name="python3", env=os.environ | {"PYTHONPATH": path})
    try:
        cell = client.execute(CELL.format(checkpoints=str(tmp_path)), stop_on_error=False)
        while client.get_iopub_msg(timeout=60)["content"].get("text", "").strip() != "now":
            pass
        manager.interrupt_kernel()
        (tmp_path / "interrupted").touch()
        reply = reply_to(client, cell)
        assert reply["ename"] == "Interrupted"
        (written,) = checkpoint.list_checkpoints(tmp_path)
        assert reply["evalue"] == f"stopped by signal 2; the same call resumes from {written}"
        again = client.execute(
            "Simulation.process = process\nrecord = " + CELL.splitlines()[-1].format(checkpoints=str(tmp_path))
        )
        assert reply_to(client, again)["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    record = run(small("fedbuff"), progress=False, checkpoints=tmp_path)
    assert compared(record) == compared(run(small("fedbuff"), progress=False))


def test_an_interval_in_seconds(tmp_path):
    """With hardly any time between them there is one at every version, of which the two newest stay."""
    clock = iter(range(0, 10_000, 20))
    written = []
    simulation = Simulation(small("fedbuff"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        patch.setattr(checkpoint, "write", lambda s, *_, **__: written.append(s.server.version))
        with checkpoint.kept(simulation, tmp_path, "60s", 0) as keep:
            for is_new in simulation.steps():
                keep(is_new)
    # The clock is read at every version and after every checkpoint; the last one is that of the end.
    assert written == [3, 6, 9, 12, 15, 16]


@pytest.mark.parametrize("every", ["0", 0, -1, "0s", "s", "1.5", "five", "10m"])
def test_an_interval_that_is_none(tmp_path, every):
    with pytest.raises(ConfigError, match=rf"checkpoint_every = {every} must be versions, such as 100, or seconds"):
        run(small("fedbuff"), progress=False, checkpoints=tmp_path, checkpoint_every=every)


class CountingServer(Server):
    """A contributor's addition to the server: one attribute, said once for saving and once for restoring."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.norms = torch.zeros(3)

    def receive(self, upload: Upload) -> Receipt:
        self.norms = self.norms.roll(1) + upload.returned.norm()
        return super().receive(upload)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"norms": self.norms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.norms = state["norms"]


def test_what_is_added_to_the_server_is_saved_resumed_and_branched(tmp_path, monkeypatch):
    monkeypatch.setattr("fedrevive_core.simulation.build.Server", CountingServer)
    original = run_until(Simulation(small("fedrevive")), 9)
    checkpoint.write(original, tmp_path)
    resumed = Simulation(small("fedrevive"))
    assert checkpoint.restore(resumed, tmp_path)
    branch = original.branched(small("afl-dw"))
    assert original.server.norms.all()
    for other in (resumed, branch):
        assert torch.equal(other.server.norms, original.server.norms)
