"""Random changes of images: matrix products against pixel-by-pixel work, gradients, and the range of the draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedrevive_core.config.data import DataConfig
from fedrevive_core.transforms import Preparation, channels_last

CPU = torch.device("cpu")
PLAIN = {"mean": (0.0,), "std": (1.0,)}


def preparation(*, synthetic: bool = False, mean: Any = (0.0,), std: Any = (1.0,), **options: Any) -> Preparation:
    data = DataConfig(name="digits", mean=mean, std=std, augmentation=options)
    return Preparation(data, CPU, synthetic=synthetic)


def some_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def draws(prepare: Preparation, *shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(prepare.draw(np.random.default_rng(seed), *shape))


def slow_crop_and_flip(image: Tensor, down: int, right: int, flip: bool, padding: int, mode: str) -> Tensor:
    """Pad, cut out a window moved by (down, right) from the middle, mirror it."""
    side = image.shape[-1]
    padded = F.pad(image.unsqueeze(0), [padding] * 4, mode=mode)[0]
    window = padded[:, padding + down : padding + down + side, padding + right : padding + right + side]
    return window.flip(-1) if flip else window


@pytest.mark.parametrize(("synthetic", "mode"), [(False, "constant"), (True, "reflect")])
@pytest.mark.parametrize("shape", [(64, 3, 9, 9), (64, 1, 8, 8)])
def test_crop_and_flip_are_those_of_a_padded_image(synthetic: bool, mode: str, shape: tuple[int, ...]) -> None:
    prepare = preparation(synthetic=synthetic, crop_padding=4, flip=True)
    images, changes = some_images(*shape), draws(prepare, shape[0])
    assert len({tuple(change) for change in changes[:, :3].tolist()}) > 30
    slow = [
        slow_crop_and_flip(image, int(down), int(right), bool(flip), 4, mode)
        for image, (down, right, flip, _) in zip(images, changes.tolist(), strict=True)
    ]
    assert torch.equal(prepare(images, changes), torch.stack(slow))


@pytest.mark.parametrize(("synthetic", "mode"), [(False, "constant"), (True, "reflect")])
def test_every_corner_of_the_padding(synthetic: bool, mode: str) -> None:
    prepare = preparation(synthetic=synthetic, crop_padding=3, flip=True)
    changes = [(d, r, f) for d in range(-3, 4) for r in range(-3, 4) for f in (0, 1)]
    image = some_images(1, 2, 5, 5)
    fast = prepare(image.expand(len(changes), -1, -1, -1), torch.tensor([[*change, 0] for change in changes]).float())
    slow = [slow_crop_and_flip(image[0], d, r, bool(f), 3, mode) for d, r, f in changes]
    assert torch.equal(fast, torch.stack(slow))


@pytest.mark.parametrize("synthetic", [False, True])
def test_rotation_by_nothing_changes_nothing(synthetic: bool) -> None:
    images = some_images(4, 3, 8, 8)
    rotated = preparation(synthetic=synthetic, rotation=15.0)(images, torch.zeros(4, 4))
    torch.testing.assert_close(rotated, images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [8, 9])
def test_rotation_by_quarters_turns_the_square(side: int) -> None:
    images = some_images(2, 3, side, side)
    prepare = preparation(rotation=180.0)

    def rotated(quarters: int) -> Tensor:
        return prepare(images, torch.tensor([[0, 0, 0, quarters * math.pi / 2]]).float().expand(2, -1))

    way = 1 if torch.allclose(rotated(1), images.rot90(1, (2, 3)), atol=1e-4) else -1
    for quarters in (-1, 1, 2):
        turned = images.rot90(way * quarters, (2, 3))
        torch.testing.assert_close(rotated(quarters), turned, rtol=0, atol=1e-4)


def test_a_rotated_real_image_has_black_corners_and_a_synthetic_one_does_not() -> None:
    white, eighth = torch.ones(1, 1, 16, 16), torch.tensor([[0, 0, 0, math.pi / 4]])
    real, synthetic = (preparation(synthetic=kind, rotation=45.0)(white, eighth) for kind in (False, True))
    assert real[0, 0, 0, 0] == 0
    assert real[0, 0, 8, 8] == 1
    torch.testing.assert_close(synthetic, white)


def test_normalisation_comes_last_and_is_per_channel() -> None:
    """So padding is black, not mean grey: (0 - mean) / std."""
    prepare = preparation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.1, 0.5), crop_padding=2)
    images = some_images(1, 3, 6, 6)
    moved = prepare(images, torch.tensor([[-2.0, 0, 0, 0]]))
    border = torch.tensor([-0.5 / 0.2, -0.4 / 0.1, -0.3 / 0.5])
    torch.testing.assert_close(moved[0, :, :2, :], border.view(3, 1, 1).expand(3, 2, 6))
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.1, 0.5]).view(3, 1, 1)
    torch.testing.assert_close(moved[0, :, 2:, :], (images[0, :, :4, :] - mean) / std)


def test_all_changes_in_their_order() -> None:
    """Crop, flip, rotate, normalise: the whole equals its parts one after the other."""
    options = {"crop_padding": 2, "flip": True, "rotation": 30.0}
    whole = preparation(mean=(0.3,), std=(0.7,), **options)
    images, changes = some_images(8, 1, 8, 8), draws(whole, 8)
    cropped = preparation(crop_padding=2, flip=True)(images, changes)
    rotated = preparation(rotation=30.0)(cropped, changes * torch.tensor([0, 0, 0, 1]))
    torch.testing.assert_close(whole(images, changes), (rotated - 0.3) / 0.7)


def test_without_draws_images_are_only_normalised() -> None:
    prepare = preparation(mean=(0.5,), std=(0.25,), crop_padding=4, flip=True, rotation=15.0)
    images = some_images(3, 1, 8, 8)
    torch.testing.assert_close(prepare(images), (images - 0.5) / 0.25)


@pytest.mark.parametrize("synthetic", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_inputs_stay_as_they_are_and_outputs_are_new(synthetic: bool, channels: int) -> None:
    images = some_images(4, channels, 8, 8)
    for options in ({}, {"crop_padding": 2, "flip": True, "rotation": 15.0}):
        prepare = preparation(synthetic=synthetic, **options)
        changes = draws(prepare, 4)
        kept, kept_changes = images.clone(), changes.clone()
        prepared = prepare(images, changes)
        prepared.mul_(2)
        assert torch.equal(images, kept)
        assert torch.equal(changes, kept_changes)
        assert prepared.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_changes_the_memory_and_not_the_values() -> None:
    for channels in (1, 3):
        images = some_images(2, channels, 5, 5)
        moved = channels_last(images)
        assert torch.equal(moved, images)
        assert moved.stride() == (25 * channels, 1, 5 * channels, channels)


@pytest.mark.parametrize("synthetic", [False, True])
def test_each_image_gets_its_own_draw_whatever_else_is_in_the_batch(synthetic: bool) -> None:
    prepare = preparation(synthetic=synthetic, crop_padding=2, flip=True, rotation=15.0)
    images, changes = some_images(12, 3, 8, 8), draws(prepare, 12)
    whole = prepare(images, changes)
    for part in (slice(0, 1), slice(3, 5), slice(11, 12)):
        torch.testing.assert_close(prepare(images[part], changes[part]), whole[part], rtol=0, atol=1e-6)
    backwards = torch.arange(11, -1, -1)
    torch.testing.assert_close(prepare(images[backwards], changes[backwards]), whole[backwards], rtol=0, atol=1e-6)
    assert len(torch.unique(prepare(images[:1].expand(12, -1, -1, -1), changes), dim=0)) == 12


# ------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("synthetic", [False, True])
def test_the_gradient_of_crop_and_flip_counts_how_often_a_pixel_is_used(synthetic: bool) -> None:
    """Each pixel of the result is one of the image, so the gradient of their sum is 0, 1, 2 or 4 (mirrored twice)."""
    prepare = preparation(synthetic=synthetic, crop_padding=2, flip=True)
    images = some_images(16, 1, 6, 6).requires_grad_()
    changes = draws(prepare, 16)
    prepare(images, changes).sum().backward()
    used = torch.zeros(16, 36)
    mode = "reflect" if synthetic else "constant"
    places = torch.arange(1.0, 37).view(1, 6, 6)  # 0 is padding
    for image, (down, right, flip, _) in enumerate(changes.tolist()):
        source = slow_crop_and_flip(places, int(down), int(right), bool(flip), 2, mode).long().flatten()
        used[image] = torch.bincount(source, minlength=37)[1:]
    assert torch.equal(images.grad.flatten(1), used)


def test_the_gradient_flows_through_everything() -> None:
    prepare = preparation(synthetic=True, mean=(0.5,), std=(0.25,), crop_padding=2, flip=True, rotation=15.0)
    images = some_images(16, 1, 8, 8).requires_grad_()
    changes = draws(prepare, 16)
    prepare(images, changes).square().sum().backward()
    assert images.grad.isfinite().all()
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all()
    # All of it is linear: a step along one pixel changes the result by step x gradient.
    step = torch.zeros_like(images)
    step[:, :, 4, 4] = 0.5
    with torch.no_grad():
        difference = prepare(images + step, changes).sum(dim=(1, 2, 3)) - prepare(images, changes).sum(dim=(1, 2, 3))
    images.grad = None
    prepare(images, changes).sum().backward()
    torch.testing.assert_close(difference, 0.5 * images.grad[:, 0, 4, 4], rtol=0, atol=1e-3)


# ----------------------------------------------------------------------------------------------------------- draws


def test_draws_have_their_ranges_and_odds() -> None:
    changes = preparation(crop_padding=4, flip=True, rotation=15.0).draw(np.random.default_rng(0), 9000)
    assert changes.shape == (9000, 4)
    assert changes.dtype == np.float32
    for shift in (changes[:, 0], changes[:, 1]):
        values, counts = np.unique(shift, return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert np.abs(counts - 1000).max() < 150
    assert abs(np.corrcoef(changes[:, 0], changes[:, 1])[0, 1]) < 0.05
    assert set(changes[:, 2].tolist()) == {0, 1}
    assert changes[:, 2].mean() == pytest.approx(0.5, abs=0.03)
    angle = changes[:, 3]
    assert -math.radians(15) <= angle.min() < -0.99 * math.radians(15)
    assert 0.99 * math.radians(15) < angle.max() <= math.radians(15) + 1e-6
    assert (angle == 0).mean() < 0.01


def test_half_of_the_synthetic_images_are_not_rotated() -> None:
    angle = preparation(synthetic=True, rotation=15.0).draw(np.random.default_rng(0), 5000)[:, 3]
    assert (angle == 0).mean() == pytest.approx(0.5, abs=0.03)
    assert angle.std() == pytest.approx(math.radians(15) / math.sqrt(6), rel=0.05)


def test_what_is_switched_off_is_not_drawn() -> None:
    assert not preparation().draw(np.random.default_rng(0), 100).any()
    flipped = preparation(flip=True).draw(np.random.default_rng(0), 100)
    assert not flipped[:, [0, 1, 3]].any()
    assert flipped[:, 2].any()


def test_draws_may_have_any_shape_and_depend_on_the_generator_alone() -> None:
    prepare = preparation(synthetic=True, crop_padding=2, flip=True, rotation=15.0)
    one, again = (prepare.draw(np.random.default_rng(3), 2, 5, 7) for _ in range(2))
    assert one.shape == (2, 5, 7, 4)
    np.testing.assert_array_equal(one, again)
