"""RandomResizedCrop for training images, and the centre crop of validation images.

Only the boxes are computed here; data.reading.crop_decoder crops and resizes while it decodes.
Source: Szegedy et al., Going Deeper with Convolutions (2015), section 6; ten attempts per image, as in torchvision and
FFCV.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.rng import Purpose, integers, uniforms

_MAX_ASPECT_RATIO = 4 / 3  # of width to height, and of height to width
_ATTEMPTS = 10


class CropBoxes(NamedTuple):
    """The crop of every sample of a split.

    Attributes:
        boxes: int64 (samples, 4): top, left, height and width in pixels of the stored image.
        side: side that crops are resized to, in pixels.
    """

    boxes: Tensor
    side: int


@dataclass(frozen=True)
class RandomResizedCrop:
    """Random boxes for all samples of a split, in the order of their ids.

    Attributes:
        min_scale: smallest area of a crop, as a fraction of the image.
        seed: seed of the random numbers.
    """

    min_scale: float
    seed: int

    def boxes(self, sizes: Tensor, epoch: int, side: int) -> CropBoxes:
        """Boxes of uniform area, log-uniform aspect ratio and uniform position.

        Args:
            sizes: int64 (samples, 2): height and width of the stored images in pixels.
            side: side that crops are resized to, in pixels.
        """
        boxes = _largest_boxes(sizes)
        unplaced = torch.arange(len(sizes))
        for attempt in range(_ATTEMPTS):
            keys = unplaced * _ATTEMPTS + attempt
            crops, fits = self._random_crops(sizes[unplaced], keys, epoch)
            ids, keys, crops = unplaced[fits], keys[fits], crops[fits]
            positions = sizes[ids] - crops + 1
            top = integers(self.seed, epoch, Purpose.rrc_row, keys, positions[:, 0])
            left = integers(self.seed, epoch, Purpose.rrc_column, keys, positions[:, 1])
            boxes[ids] = torch.cat([torch.stack([top, left], 1), crops], 1)
            unplaced = unplaced[~fits]
        return CropBoxes(boxes, side)

    def _random_crops(self, sizes: Tensor, keys: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Heights and widths, int64 (n, 2), and whether they fit into their images, bool (n,)."""
        uniform_area = uniforms(self.seed, epoch, Purpose.rrc_area, keys).double()
        area = (self.min_scale + (1 - self.min_scale) * uniform_area) * sizes.prod(1)
        uniform_ratio = uniforms(self.seed, epoch, Purpose.rrc_aspect_ratio, keys).double()
        ratio = ((2 * uniform_ratio - 1) * math.log(_MAX_ASPECT_RATIO)).exp()
        crops = torch.stack([(area * factor).sqrt().round().long() for factor in (1 / ratio, ratio)], 1)
        return crops, ((crops > 0) & (crops <= sizes)).all(1)


def center_crop(sizes: Tensor, ratio: float, side: int) -> CropBoxes:
    """Square boxes in the centre.

    Args:
        sizes: int64 (samples, 2): height and width of the stored images in pixels.
        ratio: side of the box divided by the image's shorter side.
        side: side that crops are resized to, in pixels.
    """
    square = (ratio * sizes.min(1).values.double()).long().clamp(min=1)
    return CropBoxes(_centred(sizes, torch.stack([square, square], 1)), side)


def _largest_boxes(sizes: Tensor) -> Tensor:
    """Centred boxes, as large as the aspect ratio allows, for images in which no attempt fits."""
    return _centred(sizes, torch.minimum(sizes, (sizes.flip(1) * _MAX_ASPECT_RATIO).round().long()))


def _centred(sizes: Tensor, crops: Tensor) -> Tensor:
    return torch.cat([(sizes - crops) // 2, crops], 1)
