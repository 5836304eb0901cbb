"""For 09_your_own: a figure of images, and checks of the exercises."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from fedrevive_core import ConfigError, Images, StatisticProbe
from fedrevive_core.models import check_model
from fedrevive_core.plots import STYLE, Plot
from fedrevive_core.staleness import tabulate
from fedrevive_notebooks.lessons.exercise import NOT_FINITE, Verdict, a_function, check, right, wrong

LONGEST = 2000  # a rule is tried up to this staleness


@mpl.rc_context(STYLE)
def plot_images(images: Images, names: tuple[str, ...], count: int = 8) -> Figure:
    """Plot the first `count` images of each class."""
    figure = Plot(figsize=(10, 0.4 + 1.0 * len(names)), layout="constrained")
    for axes, label in zip(figure.subplots(len(names), 1), range(len(names)), strict=True):
        chosen = images.images[images.labels == label][:count, 0].numpy()
        strip = np.concatenate([np.pad(image, 1, constant_values=1) for image in chosen], axis=1)
        axes.imshow(strip, cmap="gray", vmin=0, vmax=1)
        axes.set_title(names[label], fontsize=11)
        axes.set_axis_off()
    return figure


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


@check(a_function)
def check_rule(answer: Callable[[int], float]) -> Verdict:
    """Judge `answer(staleness)`, a staleness rule."""
    try:
        weights = np.array(tabulate(answer, LONGEST))
    except ConfigError as error:
        first = next(value for value in map(answer, range(LONGEST + 1)) if not _is_weight(value))
        if not isinstance(first, int | float):
            return wrong(f"Your rule returns a {type(first).__name__}; return a Python number instead: float(...).")
        return wrong(f"{error}. " + ("min(1, ...) or max(0, ...) keeps it in range." if first == first else NOT_FINITE))
    if any(answer(tau) != weight for tau, weight in enumerate(weights)):
        return wrong("Your rule gives two different numbers for one staleness: leave out what is random or remembered.")
    if np.ptp(weights) == 0:
        return wrong(f"beta is {weights[0]:g} whatever the staleness: your rule treats late updates like fresh ones.")
    if weights[0] > weights[-1]:
        return wrong("beta falls as staleness grows: did you return what the client keeps, 1 - beta?")
    if weights[0] > 0.05:
        return wrong(
            f"beta(0) = {weights[0]:.2f}: even an update that is not stale at all would lose some of its weight."
        )
    if (np.diff(weights) < 0).any():
        worse = int(np.argmax(np.diff(weights) < 0))
        return wrong(
            f"beta falls from staleness {worse} to {worse + 1}: a later update would count more than an earlier one."
        )
    half = int(np.argmax(weights >= 0.5)) if (weights >= 0.5).any() else None
    reached = (
        f"it reaches one half at staleness {half}" if half is not None else f"it stays below one half up to {LONGEST}"
    )
    return right(f"From 0 to 1 and never falling; {reached}.")


@check(a_function)
def check_own_model(answer: Callable[[], nn.Module], image_shape: tuple[int, ...], num_classes: int) -> Verdict:
    """Judge `answer()`, which returns a new model with probes."""
    if isinstance(answer, nn.Module):
        return wrong("This is a model. Write a function that makes and returns one: every run begins with a new model.")
    model = answer()
    if not isinstance(model, nn.Module):
        return wrong(f"Return a torch.nn.Module, not a {type(model).__name__}.")
    if answer() is model:
        return wrong("Your function returns the same model each time: make a new one in it.")
    try:
        check_model(model, image_shape, num_classes, synthesises=True)
    except ConfigError as error:
        return wrong(f"{error}.")
    modules = list(model.modules())
    with torch.no_grad():
        out = model.eval()(torch.rand(4, *image_shape))
    if torch.allclose(out.sum(dim=1), torch.ones(4), atol=1e-5) and bool((out >= 0).all()):
        return wrong(
            "The outputs are probabilities. Leave the softmax out: cross-entropy and distillation need logits."
        )
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules):
        return wrong(
            "BatchNorm mixes the samples of a batch, and its statistics are averaged over clients. Use StatisticProbe."
        )
    if not any(isinstance(module, StatisticProbe) for module in modules):
        return wrong("It runs, but it has no StatisticProbe: synthesis would have no feature loss. Add one.")
    count = sum(parameter.numel() for parameter in model.parameters())
    probes = sum(isinstance(module, StatisticProbe) for module in modules)
    return right(f"{count:,} parameters, {probes} probe{'s' * (probes > 1)}: ready to run.")
