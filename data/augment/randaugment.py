"""RandAugment for a batch on the device: each sample has operations of its own, drawn from (seed, epoch, sample id).

Source: Cubuk et al., RandAugment (2020), section 3; operations, ranges and rounding are those of torchvision's
RandAugment, but that images are sheared around their centre. All samples go through every kind of operation, and each
keeps what it drew: to pick samples out would make the host wait for the device.
"""

import math
from enum import IntEnum, auto

import torch
from torch import Tensor
from torch.nn import functional as F

from data.rng import Epoch, Purpose, integers

LEVELS = 30  # of magnitude
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


def randaugment(images: Tensor, ids: Tensor, seed: int, epoch: Epoch, count: int, magnitude: int) -> Tensor:
    """`count` operations of a magnitude, 0 to 30, one after another: uint8 (N, H, W, 3) to the same."""
    for turn in range(count):
        keys = ids * count + turn
        operations = integers(seed, epoch, Purpose.operation, keys, len(Operation))
        negative = integers(seed, epoch, Purpose.operation_sign, keys, 2).bool()
        images = apply(images, operations, torch.where(negative, -1.0, 1.0), magnitude)
    return images


def apply(images: Tensor, operations: Tensor, signs: Tensor, magnitude: int) -> Tensor:
    """One operation for each sample: uint8 (N, H, W, 3), int64 (N,), and -1 or 1 for those that have two directions."""
    planes = images.permute(0, 3, 1, 2).float()
    strength = magnitude / LEVELS
    per_sample = (-1, 1, 1, 1)
    blended = _blend(planes, operations.view(per_sample), (1 + 0.9 * strength * signs).view(per_sample))
    threshold = 255 * (1 - strength)
    bits = 1 << round(4 * strength)  # as many of the lowest are cut off
    results = (
        (Operation.shear_x, Operation.rotate, _moved(planes, operations, strength * signs)),
        (Operation.brightness, Operation.sharpness, blended),
        (Operation.posterize, Operation.posterize, (planes / bits).floor() * bits),
        (Operation.solarize, Operation.solarize, torch.where(planes >= threshold, 255 - planes, planes)),
        (Operation.autocontrast, Operation.autocontrast, _autocontrast(planes)),
        (Operation.equalize, Operation.equalize, _equalize(planes)),
    )
    chosen = operations.view(per_sample)
    for first, last, result in results:
        planes = torch.where((chosen >= first) & (chosen <= last), result, planes)
    return planes.to(torch.uint8).permute(0, 2, 3, 1)


def _moved(planes: Tensor, operations: Tensor, strength: Tensor) -> Tensor:
    """Sheared, shifted or turned around the centre by the nearest pixels; black where nothing was."""
    side = planes.shape[-1]

    def of(operation: Operation, value: Tensor) -> Tensor:
        return torch.where(operations == operation, value, 0.0)

    angle = of(Operation.rotate, strength * math.radians(30))
    shift = (strength * 150 / 331 * side).trunc() * 2 / side
    rows = (
        torch.stack((angle.cos(), -angle.sin() + of(Operation.shear_x, strength * 0.3)), 1),
        torch.stack((angle.sin() + of(Operation.shear_y, strength * 0.3), angle.cos()), 1),
    )
    shifts = (of(Operation.translate_x, -shift), of(Operation.translate_y, -shift))
    matrix = torch.stack([torch.cat((row, end.unsqueeze(1)), 1) for row, end in zip(rows, shifts, strict=True)], 1)
    grid = F.affine_grid(matrix, list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, mode="nearest", align_corners=False)


def _blend(planes: Tensor, operations: Tensor, factors: Tensor) -> Tensor:
    """Away from, or towards: black, their own grey, the mean grey, a blurred image."""
    grey = _grey(planes)
    against = torch.zeros_like(planes)
    against = torch.where(operations == Operation.colour, grey, against)
    against = torch.where(operations == Operation.contrast, grey.mean((1, 2, 3), keepdim=True), against)
    against = torch.where(operations == Operation.sharpness, _blurred(planes), against)
    # What is the same in both stays, whatever the factors add up to in the last bit.
    return (factors * planes + (1 - factors) * against + 1e-3).clamp(0, 255).floor()


def _grey(planes: Tensor) -> Tensor:
    red, green, blue = planes.split(1, 1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue).floor()


def _blurred(planes: Tensor) -> Tensor:
    """Each pixel with its neighbours, itself five times; the outermost pixels have too few, and stay."""
    if planes.shape[-1] < 3:
        return planes
    blurred = planes.clone()
    sums = 9 * F.avg_pool2d(planes, 3, stride=1) + 4 * planes[..., 1:-1, 1:-1]
    blurred[..., 1:-1, 1:-1] = (sums / 13).round()
    return blurred


def _autocontrast(planes: Tensor) -> Tensor:
    """Each channel stretched to 0..255; one of a single value stays."""
    low, high = planes.amin((2, 3), keepdim=True), planes.amax((2, 3), keepdim=True)
    stretched = ((planes - low) * (255 / (high - low))).clamp(0, 255).floor()
    return torch.where(high > low, stretched, planes)


def _equalize(planes: Tensor) -> Tensor:
    """Each channel with its values spread so that all are about as frequent."""
    count, channels = planes.shape[:2]
    values = planes.long().reshape(count * channels, -1)
    histogram = torch.zeros((len(values), 256), dtype=torch.int64, device=planes.device)
    histogram.scatter_add_(1, values, torch.ones_like(values))
    most = values.amax(1, keepdim=True)
    step = (values.shape[1] - histogram.gather(1, most)) // 255
    below = F.pad(histogram.cumsum(1)[:, :-1], (1, 0))
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    spread = torch.where(step > 0, table.gather(1, values), values)
    return spread.view(planes.shape).float()
