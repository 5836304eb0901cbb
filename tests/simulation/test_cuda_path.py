"""The way of a run on a GPU, without one: on fake tensors of device `cuda`, which have a shape and a place, no values.

PyTorch raises where tensors of two devices meet. Where the host waits for the device, it is counted; the host is then
given plausible values. The engine of gradients wants a real device, so gradients are empty tensors here.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import small, small_text, tiny_encoder, tiny_texts
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

import fedrevive_core
from fedrevive_core.config.methods import METHODS
from fedrevive_core.config.run import RunConfig
from fedrevive_core.data.federated import KEPT_PARTS, FederatedData, load_federated
from fedrevive_core.data.samples import Images
from fedrevive_core.models.convnets import ConvNet, resnet18
from fedrevive_core.models.device import Captured
from fedrevive_core.simulation import build as building
from fedrevive_core.simulation import checkpoint
from fedrevive_core.simulation.modality import ImageModality
from fedrevive_core.simulation.simulation import Simulation

pytestmark = pytest.mark.usefixtures("one_thread")
fakes = pytest.mark.skipif(
    torch.__version__ < (2, 14), reason="fake tensors of an older PyTorch: this walk was only tried with 2.14"
)
CORE = str(Path(fedrevive_core.__file__).parent)
CPU = torch.device("cpu")
READING = ("cpu", "tolist", "item", "numpy", "__bool__", "__float__", "__int__", "__index__")
EVERY_CHANGE = {"crop_padding": 1, "flip": True, "rotation": 10.0}
COUNT = 4  # uploads
SHORT = {"federation__max_versions": COUNT, "revival__num_teachers": 2, "revival__warmup": 1, "synthesis__every": 1}
# Where the host may wait, and how often for each upload at most.
MAY_WAIT = {
    "server.py:_unusable": 2,  # are the client's update and the distilled one finite?
    "server.py:_clip": 1,  # is it longer than `clip_norm`?
    "revival/reviver.py:_synthesise": 1,  # was any step finite?
    "models/device.py:__call__": 2,  # is a recording, where one is used, like the plain way?
    "revival/teachers.py:_probe": 1,  # the first two uploads of a client
    "server.py:_measured": 1,  # how large is beta, where it does not follow from the staleness?
}


class Waits(ExitStack):
    """While open, counts by place in the core where values are read off tensors; `place` names only what is ours."""

    def __enter__(self) -> Waits:
        super().__enter__()
        self.places: Counter[str] = Counter()
        self.open = True
        for name in READING:
            for kind in (Tensor, FakeTensor):  # which has a `tolist` of its own, number by number
                self.enter_context(patch.object(kind, name, self._counted(getattr(Tensor, name))))
        return self

    def note(self) -> None:
        """Count a wait at the innermost function of the core that is running."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(CORE):
            frame = frame.f_back
        if frame is not None:
            self.places[f"{Path(frame.f_code.co_filename).relative_to(CORE).as_posix()}:{frame.f_code.co_name}"] += 1

    def _counted(self, read: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(read)
        def reading(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            # A number on the host is there already; `read` may call another of READING.
            if self.open and (fake := isinstance(tensor, FakeTensor)) >= FAKE.on and (not fake or tensor.is_cuda):
                self.note()
            self.open, before = False, self.open
            try:
                with unset_fake_temporarily():
                    return read(plausible(tensor) if isinstance(tensor, FakeTensor) else tensor, *arguments, **options)
            finally:
                self.open = before

        return reading


class FAKE:
    """Whether the walk is on: then only fake tensors of a GPU count."""

    on = False


def plausible(tensor: Tensor) -> Tensor:
    """Values in place of a fake tensor's: shares that sum to 1, or True, or 0."""
    value = 1 / max(tensor.shape[-1:] or [1]) if tensor.is_floating_point() else tensor.dtype == torch.bool
    return torch.full(tensor.shape, value, dtype=tensor.dtype)


class Copies(TorchDispatchMode):
    """Counts copies from the host to a GPU for which the host waits: from memory that is not pinned, or blocking."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function: Any, _types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        result = function(*arguments, **options)
        name = function.overloadpacket.__name__
        if name == "_to_copy" and result.is_cuda and not arguments[0].is_cuda and not options.get("non_blocking"):
            self.waits.note()
        if name == "copy_" and arguments[0].is_cuda and not arguments[1].is_cuda and arguments[1].dim() > 0:
            self.waits.note()
        if name in ("index", "index_put", "index_put_") and arguments[0].is_cuda:
            for index in arguments[1]:
                if index is not None and not index.is_cuda:
                    self.waits.note()
        return result


def real(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` outside the fake world."""

    @functools.wraps(function)
    def outside(*arguments: Any, **options: Any) -> Any:
        with unset_fake_temporarily():
            return function(*arguments, **options)

    return outside


def copied(deepcopy: Callable[..., Any]) -> Callable[..., Any]:
    """`Tensor.__deepcopy__` that also copies fake tensors."""

    def copying(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        if not isinstance(tensor, FakeTensor):
            with unset_fake_temporarily():
                return deepcopy(tensor, memo)
        made = tensor.detach().clone()
        if isinstance(tensor, nn.Parameter):
            made = nn.Parameter(made, tensor.requires_grad)
        memo[id(tensor)] = made
        return made

    return copying


def moved(module: nn.Module, device: torch.device) -> nn.Module:
    """`Module.to` for what is not fake yet; PyTorch's own would swap a parameter that stands in two places twice."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not isinstance(parameter, FakeTensor):
                part._parameters[name] = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, FakeTensor):
                part._buffers[name] = buffer.to(device)
    return module


def no_gradients(_output: Tensor, inputs: Tensor | list[Tensor], **_options: Any) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in ([inputs] if isinstance(inputs, Tensor) else inputs)]


def not_recorded(call: Captured, work: Callable[[], None], _device: torch.device) -> None:
    """In place of recording: what is recorded is done, so that whatever it must not do is seen."""
    call.work, call.graph = work, None
    work()


@contextlib.contextmanager
def fake_gpu() -> Iterator[Waits]:
    """While open, a Simulation of device `cuda` is made of fake tensors."""
    with Waits() as waits:
        for owner, name, value in (
            (building, "pick_device", torch.device),
            (building, "_initialised", real(building._initialised)),
            (building, "check_model", real(building.check_model)),
            (ImageModality, "generator", real(ImageModality.generator)),
            (nn.Module, "to", moved),
            (torch.autograd, "grad", no_gradients),
            (torch.random, "fork_rng", lambda devices: contextlib.nullcontext()),
            (torch.cuda, "get_device_name", lambda device=None: "a fake GPU"),
            (torch.cuda, "mem_get_info", lambda device=None: (2**36, 2**36)),
            (Tensor, "pin_memory", lambda tensor: tensor),
            (Tensor, "__deepcopy__", copied(Tensor.__deepcopy__)),
            (nn.Parameter, "__deepcopy__", copied(nn.Parameter.__deepcopy__)),
            (Captured, "__init__", not_recorded),
            (FAKE, "on", True),
        ):
            waits.enter_context(patch.object(owner, name, value))
        waits.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        waits.enter_context(Copies(waits))
        yield waits


def loaded(config: RunConfig) -> FederatedData:
    """The data of `config`, as real tensors."""
    data = load_federated(config.data, config.federation.num_clients, CPU)
    assert data.fingerprint  # computed now, from real values
    return data


def walk(config: RunConfig, directory: Path, model: nn.Module | None = None, data: FederatedData | None = None) -> None:
    """Every part of a run of `config` on a fake GPU; asserts where and how often the host waits."""
    data = loaded(config) if data is None else data
    with fake_gpu() as waits:
        simulation = Simulation(config, model=model, data=data)
        assert simulation.server.state.is_cuda
        waits.places.clear()
        count = min(COUNT, len(simulation.timeline.arrivals))
        for number in range(count):
            simulation.process(number)
        for place, most in MAY_WAIT.items():
            assert waits.places.pop(place, 0) <= count * most, place
        assert not waits.places, "the host waits where it need not"
        simulation.evaluate()
        assert waits.places.pop("evaluation.py:evaluate") == 1
        checkpoint.write(simulation, directory)
        record = simulation.record()
    assert record.summary["num_arrivals"] == count
    assert (checkpoint.list_checkpoints(directory)[0] / checkpoint.TENSORS).stat().st_size > 0


@fakes
@pytest.mark.parametrize("method", METHODS)
def test_every_method_walks_the_path_of_a_gpu(method: str, tmp_path: Path) -> None:
    walk(small(method, device="cuda", **SHORT), tmp_path)


@fakes
@pytest.mark.parametrize(
    ("model", "side"), [(ConvNet(1, 12, 10), 12), (resnet18(1, 8, 10), 8)], ids=["convnet", "resnet18"]
)
def test_every_model_of_images_walks_it(model: nn.Module, side: int, tmp_path: Path) -> None:
    """With every augmentation, too."""
    config = small("fedrevive", device="cuda", **SHORT, data__augmentation=EVERY_CHANGE)
    data = loaded(config)
    parts = {name: larger(getattr(data, name), side) for name in ("clients", *KEPT_PARTS)}
    walk(config, tmp_path, model, replace(data, **parts))


@fakes
def test_texts_walk_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny_texts(monkeypatch)
    walk(small_text("fedrevive", device="cuda", **SHORT), tmp_path)


@fakes
@pytest.mark.processes  # for its time
@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_pretrained_encoders_walk_it(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tiny_texts(monkeypatch)
    encoder = {"model": "encoder", "data__tokenizer": tiny_encoder(tmp_path / kind, kind), "data__prefix_token": 5}
    walk(small_text("fedrevive", device="cuda", **encoder, **SHORT), tmp_path / "checkpoints")


@fakes
def test_what_is_recorded_walks_it(tmp_path: Path) -> None:
    """Its check waits; every other part of the way waits as little as the plain one."""
    walk(small("fedrevive", device="cuda", executor="captured-4", **SHORT), tmp_path)


@fakes
def test_offloaded_states_walk_it(tmp_path: Path) -> None:
    """A state is copied to pinned memory and back; the copy out is waited for, because it may be used at once."""
    walk(small("fedrevive", device="cuda", offload=True, **SHORT), tmp_path)


@pytest.mark.parametrize("method", ["fedbuff", "dd-fedrevive", "fedrevive"])
def test_the_host_waits_nowhere_in_the_loops(method: str) -> None:
    """With real values, on a CPU: every number that is read off a tensor is counted, with the number of steps."""
    counts = []
    for factor in (1, 3):
        steps = {f"{part}__steps": 2 * factor for part in ("training", "synthesis", "distillation")}
        simulation = Simulation(small(method, **SHORT, **steps))
        with Waits() as waits:
            for number in range(COUNT):
                simulation.process(number)
        counts.append(waits.places)
        assert set(waits.places) <= set(MAY_WAIT)
    assert counts[0] == counts[1], "more steps, more waits"
    assert COUNT <= counts[0]["server.py:_unusable"] <= 2 * COUNT


def larger(part: Images, side: int) -> Images:
    """`part` with images of another side."""
    return Images(nn.functional.interpolate(part.images, size=side), part.labels)
