"""Build a model by its name, and check a user's model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from fedrevive_core.errors import ConfigError
from fedrevive_core.models.convnets import ConvNet, LabNet, resnet18
from fedrevive_core.models.encoder import EncoderText, load_encoder
from fedrevive_core.models.probes import observe
from fedrevive_core.models.stacking import call_stacked
from fedrevive_core.models.state import StateLayout
from fedrevive_core.models.text import LabText

ARCHITECTURES: dict[str, Callable[[int, int, int], nn.Module]] = {
    "labnet": LabNet,
    "convnet": ConvNet,
    "resnet18": resnet18,
}
VECTORISED = (
    "model cannot be trained for several clients at once, as small models are (recurrent layers, .item() and `if` on "
    "values are not possible)"
)


def build_model(name: str, in_channels: int, image_size: int, num_classes: int) -> nn.Module:
    """One of ARCHITECTURES for images (in_channels, image_size, image_size), with PyTorch's default initialisation.

    Raises ConfigError if the images are too small for the architecture.
    """
    try:
        return ARCHITECTURES[name](in_channels, image_size, num_classes)
    except ValueError as error:
        raise ConfigError(f"model = '{name}' does not take images of side {image_size}: {error}") from None


def build_text_model(
    name: str, vocabulary_size: int, length: int, pad: int, prefix: int | None, num_classes: int, path: str
) -> nn.Module:
    """`labtext`, or the `encoder` at `path` with a head, for texts of at most `length` tokens.

    Raises ConfigError if the encoder is not available or does not accept embeddings.
    """
    if name == "labtext":
        return LabText(vocabulary_size, length, pad, num_classes)
    try:
        return EncoderText(load_encoder(path), pad, prefix or 0, num_classes)
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(f"data.tokenizer = '{path}' cannot be used as an encoder: {error}") from None


def check_model(
    model: nn.Module,
    shape: tuple[int, ...],
    num_classes: int,
    dtype: torch.dtype = torch.float32,
    *,
    smallest_batch: int = 2,
    synthesises: bool = False,
) -> None:
    """Do with a copy of `model` what a run does: answer, train, train several at once; on blank samples of `shape`.

    Args:
        smallest_batch: of local training. synthesises: whether samples are made through the model, by its gradient.
    Raises ConfigError with the reason if it cannot.
    """
    kind = "images" if dtype.is_floating_point else "texts"
    _check_tensors(model)
    with torch.random.fork_rng(devices=[]):
        with _explained("model cannot be copied"):
            layout = StateLayout(model)
            state = layout.pack(model)
        blank = torch.zeros(2, *shape, dtype=dtype)
        if len(shape) == 3:  # channels last in memory, as images come to a model in training: .view() may fail
            blank = torch.zeros(2, *shape[1:], shape[0], dtype=dtype).permute(0, 3, 1, 2)
        for count in (2, 1):
            with _explained(f"model does not take {kind} of shape {shape}"):
                _check_answer(layout, state, blank[:count], num_classes)
        count = min(2, smallest_batch)
        one = layout.parameters(state).clone().requires_grad_(), layout.buffers(state)
        with _explained(f"model cannot be trained on a batch of {count} {kind}"):
            loss = _loss(layout, one[0], one[1], blank[:count])
            if not loss.requires_grad:
                raise ConfigError("model has outputs without a gradient: leave out .detach() and torch.no_grad()")
            torch.autograd.grad(loss, one[0])
        if layout.stacks:
            two = torch.stack([state, state])
            with _explained(VECTORISED):
                batches = torch.stack([blank[:count]] * 2)
                tensors = layout.parameter_views(layout.parameters(two)) | layout.buffers(two)
                call_stacked(partial(layout.call, training=True), tensors, batches)
    if synthesises and dtype.is_floating_point:
        x = blank[:2].clone().requires_grad_()
        logits = layout.call(layout.views(state), x)
        if not logits.requires_grad or torch.autograd.grad(logits.sum(), x, allow_unused=True)[0] is None:
            raise ConfigError("model passes no gradient to its input, and synthesis needs one: do not round or compare")


def _check_tensors(model: nn.Module) -> None:
    """Raise ConfigError unless the state of `model` can be a float32 vector with something to train in it."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise ConfigError(f"model has no shape for '{name}' yet (a lazy module): call it once on a sample before")
        if tensor.is_meta:
            raise ConfigError(f"model has no values for '{name}' (device 'meta')")
        learned = tensor.requires_grad if isinstance(tensor, nn.Parameter) else tensor.is_floating_point()
        if learned and tensor.dtype != torch.float32:
            raise ConfigError(f"model has '{name}' in {tensor.dtype}, not torch.float32: convert it by model.float()")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("model has no parameters to train: at least one must have requires_grad")


def _check_answer(layout: StateLayout, state: Tensor, x: Tensor, num_classes: int) -> None:
    """Raise ConfigError unless the model maps `x` to logits (len(x), num_classes), and its probes fit their inputs."""
    views, wanted, version = layout.views(state), (len(x), num_classes), x._version
    with torch.no_grad(), observe(layout.template, lambda seen: tuple(seen.shape)) as probes:
        logits, again = layout.call(views, x), layout.call(views, x)
    if not isinstance(logits, Tensor):
        raise ConfigError(f"model returns a {type(logits).__name__}, not a tensor of logits {wanted}")
    if tuple(logits.shape) != wanted:
        kind = "images" if x.is_floating_point() else "texts"
        raise ConfigError(
            f"model returns shape {tuple(logits.shape)} for {len(x)} {kind}, not {wanted}: one logit per class"
        )
    if logits.dtype != torch.float32:
        raise ConfigError(f"model returns {logits.dtype}, not torch.float32: return logits, not classes")
    if x._version != version:
        raise ConfigError("model changes its input in place: its first layer must make a new tensor")
    if not torch.allclose(logits, again, equal_nan=True):
        raise ConfigError(
            "model answers at random in evaluation mode: use nn.Dropout, or pass training=self.training to F.dropout"
        )
    for name, seen in probes.items():
        width = len(dict(layout.template.named_buffers())[f"{name}.running_mean"])
        if len(seen) < 2 or seen[1] != width:
            fitting = f": StatisticProbe({seen[1]})" if len(seen) > 1 else ""
            raise ConfigError(
                f"model has StatisticProbe({width}) as '{name}', but what it gets has shape {seen}: a probe needs the "
                f"size of dimension 1{fitting}"
            )


def _loss(layout: StateLayout, parameters: Tensor, buffers: dict[str, Tensor], x: Tensor) -> Tensor:
    logits = layout.call(layout.parameter_views(parameters) | buffers, x, training=True)
    return F.cross_entropy(logits, x.new_zeros(len(x), dtype=torch.int64))


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn an error of the model's code into a ConfigError that begins with `what`."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # code of the user's may raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"{what}: {reason}") from None
