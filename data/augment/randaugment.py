"""RandAugment for batches on the device; the operations of a sample are random numbers of data.rng.

Source: Cubuk et al., RandAugment (2020), section 3; operations, ranges and rounding are those of torchvision's
RandAugment, except that images are sheared around their centre. Every operation is computed for all samples, and each
sample keeps the result of its operation: selecting samples would make the host wait for the device.
"""

import math
from enum import IntEnum, auto

import torch
from torch import Tensor
from torch.nn import functional as F

from data.rng import Column, Purpose

MAX_MAGNITUDE = 30
_GREY = (0.2989, 0.587, 0.114)


class Operation(IntEnum):
    identity = 0
    shear_x = auto()
    shear_y = auto()
    translate_x = auto()
    translate_y = auto()
    rotate = auto()
    brightness = auto()
    colour = auto()
    contrast = auto()
    sharpness = auto()
    posterize = auto()
    solarize = auto()
    autocontrast = auto()
    equalize = auto()


class RandAugment:
    """Applies `count` random operations of a magnitude (0 to 30) in sequence.

    Args:
        side: side of the images in pixels.
    """

    def __init__(self, count: int, magnitude: int, side: int, device: torch.device) -> None:
        self.columns = [
            column
            for position in range(count)
            for column in (
                Column(Purpose.randaugment_operation, len(Operation), count, position),
                Column(Purpose.randaugment_sign, 2, count, position),
            )
        ]
        self._strength = magnitude / MAX_MAGNITUDE
        self._operations = torch.arange(len(Operation), device=device).unsqueeze(1)
        # What depends on the operation and its direction alone is computed here, and looked up in every step.
        strengths = self._strength * torch.tensor([1.0, -1.0])
        factors = 1 + 0.9 * strengths
        self._factors = torch.stack([factors, 1 - factors], 1).to(device)
        # Computed on the CPU: a GPU may round positions to TF32.
        self._grids = _affine_grids(strengths, side).to(device)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        columns = numbers.unbind(1)
        for operations, negative in zip(columns[::2], columns[1::2], strict=True):
            images = self.apply(images, operations, negative)
        return images

    def apply(self, images: Tensor, operations: Tensor, negative: Tensor) -> Tensor:
        """Applies one operation per sample.

        Args:
            images: uint8 (N, side, side, 3).
            operations: int64 (N,).
            negative: int64 (N,), 0 or 1: the direction of operations that have two.

        Returns:
            uint8 (N, side, side, 3).
        """
        chosen = (operations == self._operations).view(len(Operation), -1, 1, 1, 1)
        planes = images.permute(0, 3, 1, 2).float()
        low, high = planes.amin((2, 3), keepdim=True), planes.amax((2, 3), keepdim=True)
        # First the operations that compute in floats, then those that can be done in bytes.
        result = torch.where(_any_of(chosen, _AFFINE), self._affine(planes, operations, negative), planes)
        result = torch.where(_any_of(chosen, _BLENDED), self._blend(planes, chosen, negative), result)
        result = torch.where(chosen[Operation.autocontrast] & (high > low), _stretch(planes, low, high), result)
        changed = result.to(torch.uint8).permute(0, 2, 3, 1)
        levels = 256 - (1 << round(4 * self._strength))  # the bits that posterize keeps
        changed = torch.where(chosen[Operation.posterize], images & levels, changed)
        is_bright = images >= 255 * (1 - self._strength)
        changed = torch.where(chosen[Operation.solarize] & is_bright, images.bitwise_not(), changed)
        equalized, can_be_equalized = _equalize(images, high)
        return torch.where(chosen[Operation.equalize] & can_be_equalized, equalized, changed)

    def _affine(self, planes: Tensor, operations: Tensor, negative: Tensor) -> Tensor:
        """Shears, translates or rotates around the centre by nearest neighbours; uncovered pixels are black."""
        grids = self._grids.index_select(0, torch.add(negative, operations.clamp(max=_AFFINE[-1]), alpha=2))
        return F.grid_sample(planes, grids, mode="nearest", align_corners=False)

    def _blend(self, planes: Tensor, chosen: Tensor, negative: Tensor) -> Tensor:
        """Blends with black (brightness), grey (colour), the mean grey (contrast) or a blurred image (sharpness)."""
        own_factors, other_factors = self._factors[negative].view(-1, 2, 1, 1, 1).unbind(1)
        grey = _grey(planes)
        other = grey * chosen[Operation.colour]
        other = torch.where(chosen[Operation.contrast], grey.mean((1, 2, 3), keepdim=True), other)
        other = torch.where(chosen[Operation.sharpness], _blurred(planes), other)
        # The small constant keeps pixels that are equal in both, although the factors may not add up to exactly 1.
        return (own_factors * planes + other_factors * other + 1e-3).clamp(0, 255).floor()


_AFFINE = range(Operation.shear_x, Operation.rotate + 1)
_BLENDED = range(Operation.brightness, Operation.sharpness + 1)


def _any_of(chosen: Tensor, operations: range) -> Tensor:
    return chosen[operations.start : operations.stop].any(0)


def _affine_grids(strengths: Tensor, side: int) -> Tensor:
    """Where pixels come from in identity and the affine operations, each with both strengths.

    Args:
        strengths: float32 (2,).

    Returns:
        F.grid_sample's grids, float32 (12, side, side, 2); operation o with strength s is number 2 * o + s.
    """
    operations = torch.arange(_AFFINE.stop).repeat_interleave(2)
    strength = strengths.repeat(_AFFINE.stop)

    def only_for(operation: Operation, value: Tensor) -> Tensor:
        return torch.where(operations == operation, value, 0.0)

    angle = only_for(Operation.rotate, strength * math.radians(30))
    translation = (strength * 150 / 331 * side).trunc() * 2 / side
    rows = (
        torch.stack((angle.cos(), -angle.sin() + only_for(Operation.shear_x, strength * 0.3)), 1),
        torch.stack((angle.sin() + only_for(Operation.shear_y, strength * 0.3), angle.cos()), 1),
    )
    shifts = (only_for(Operation.translate_x, -translation), only_for(Operation.translate_y, -translation))
    matrix = torch.stack([torch.cat((row, shift.unsqueeze(1)), 1) for row, shift in zip(rows, shifts, strict=True)], 1)
    return F.affine_grid(matrix, [len(matrix), 1, side, side], align_corners=False)


def _grey(planes: Tensor) -> Tensor:
    red, green, blue = planes.split(1, 1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue).floor()


def _blurred(planes: Tensor) -> Tensor:
    """A 3x3 blur with weight 5 in the centre; border pixels stay as they are."""
    if planes.shape[-1] < 3:
        return planes
    blurred = planes.clone()
    sums = F.avg_pool2d(planes, 3, stride=1, divisor_override=1).add_(planes[..., 1:-1, 1:-1], alpha=4)
    blurred[..., 1:-1, 1:-1] = sums.div_(13).round_()
    return blurred


def _stretch(planes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Stretches each channel from low..high to 0..255; not a number where they are equal."""
    return ((planes - low) * (255 / (high - low))).floor()


def _equalize(images: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """Equalises the histogram of each channel.

    Args:
        images: uint8 (N, H, W, 3).
        highest: the highest value of each channel: float32 (N, 3, 1, 1).

    Returns:
        uint8 (N, H, W, 3), and which channels have enough other pixels to be equalised: bool (N, 1, 1, 3).
    """
    count = len(images)
    values = images.view(count, -1, 3).long()
    histogram = torch.zeros((count, 256, 3), dtype=torch.int64, device=images.device)
    histogram.scatter_add_(1, values, torch.ones_like(values))
    step = (values.shape[1] - histogram.gather(1, highest.view(count, 1, 3).long())) // 255
    below = histogram.cumsum(1) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    equalized = table.gather(1, values).to(torch.uint8)
    return equalized.view(images.shape), (step > 0).unsqueeze(1)
