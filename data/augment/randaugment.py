"""RandAugment for batches on the device; the operations of a sample depend on (seed, epoch, sample id).

Source: Cubuk et al., RandAugment (2020), section 3; operations, ranges and rounding are those of torchvision's
RandAugment, except that images are sheared around their centre. Every operation is computed for all samples, and each
sample keeps the result of its operation: selecting samples would make the host wait for the device.
"""

import math
from enum import IntEnum, auto

import torch
from torch import Tensor
from torch.nn import functional as F

from data.rng import EpochNumber, Purpose, integers

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


def randaugment(images: Tensor, ids: Tensor, seed: int, epoch: EpochNumber, count: int, magnitude: int) -> Tensor:
    """Applies `count` operations of a magnitude (0 to 30) in sequence: uint8 (N, H, W, 3) -> the same."""
    for position in range(count):
        keys = ids * count + position
        operations = integers(seed, epoch, Purpose.randaugment_operation, keys, len(Operation))
        negative = integers(seed, epoch, Purpose.randaugment_sign, keys, 2).bool()
        images = apply(images, operations, torch.where(negative, -1.0, 1.0), magnitude)
    return images


def apply(images: Tensor, operations: Tensor, signs: Tensor, magnitude: int) -> Tensor:
    """Applies one operation per sample.

    Args:
        images: uint8 (N, H, W, 3).
        operations: int64 (N,).
        signs: float32 (N,), -1 or 1: the direction of operations that have two.

    Returns:
        uint8 (N, H, W, 3).
    """
    planes = images.permute(0, 3, 1, 2).float()
    strength = magnitude / MAX_MAGNITUDE
    per_sample = (-1, 1, 1, 1)
    blended = _blend(planes, operations.view(per_sample), (1 + 0.9 * strength * signs).view(per_sample))
    threshold = 255 * (1 - strength)
    step = 1 << round(4 * strength)  # between the levels that posterize keeps
    results = (
        (Operation.shear_x, Operation.rotate, _affine(planes, operations, strength * signs)),
        (Operation.brightness, Operation.sharpness, blended),
        (Operation.posterize, Operation.posterize, (planes / step).floor() * step),
        (Operation.solarize, Operation.solarize, torch.where(planes >= threshold, 255 - planes, planes)),
        (Operation.autocontrast, Operation.autocontrast, _autocontrast(planes)),
        (Operation.equalize, Operation.equalize, _equalize(planes)),
    )
    chosen = operations.view(per_sample)
    for first, last, result in results:
        planes = torch.where((chosen >= first) & (chosen <= last), result, planes)
    return planes.to(torch.uint8).permute(0, 2, 3, 1)


def _affine(planes: Tensor, operations: Tensor, strength: Tensor) -> Tensor:
    """Shears, translates or rotates around the centre by nearest neighbours; uncovered pixels are black."""
    side = planes.shape[-1]

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
    grid = F.affine_grid(matrix, list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, mode="nearest", align_corners=False)


def _blend(planes: Tensor, operations: Tensor, factors: Tensor) -> Tensor:
    """Blends with black (brightness), grey (colour), the mean grey (contrast) or a blurred image (sharpness)."""
    grey = _grey(planes)
    other = torch.zeros_like(planes)
    other = torch.where(operations == Operation.colour, grey, other)
    other = torch.where(operations == Operation.contrast, grey.mean((1, 2, 3), keepdim=True), other)
    other = torch.where(operations == Operation.sharpness, _blurred(planes), other)
    # The small constant keeps pixels that are equal in both, although the factors may not add up to exactly 1.
    return (factors * planes + (1 - factors) * other + 1e-3).clamp(0, 255).floor()


def _grey(planes: Tensor) -> Tensor:
    red, green, blue = planes.split(1, 1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue).floor()


def _blurred(planes: Tensor) -> Tensor:
    """A 3x3 blur with weight 5 in the centre; border pixels stay as they are."""
    if planes.shape[-1] < 3:
        return planes
    blurred = planes.clone()
    sums = 9 * F.avg_pool2d(planes, 3, stride=1) + 4 * planes[..., 1:-1, 1:-1]
    blurred[..., 1:-1, 1:-1] = (sums / 13).round()
    return blurred


def _autocontrast(planes: Tensor) -> Tensor:
    """Stretches each channel to 0..255; constant channels stay as they are."""
    low, high = planes.amin((2, 3), keepdim=True), planes.amax((2, 3), keepdim=True)
    stretched = ((planes - low) * (255 / (high - low))).clamp(0, 255).floor()
    return torch.where(high > low, stretched, planes)


def _equalize(planes: Tensor) -> Tensor:
    """Equalises the histogram of each channel."""
    count, channels = planes.shape[:2]
    values = planes.long().reshape(count * channels, -1)
    histogram = torch.zeros((len(values), 256), dtype=torch.int64, device=planes.device)
    histogram.scatter_add_(1, values, torch.ones_like(values))
    highest = values.amax(1, keepdim=True)
    step = (values.shape[1] - histogram.gather(1, highest)) // 255
    below = F.pad(histogram.cumsum(1)[:, :-1], (1, 0))
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    equalized = torch.where(step > 0, table.gather(1, values), values)
    return equalized.view(planes.shape).float()
