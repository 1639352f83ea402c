"""Augmentation of stored bytes: padded crop, horizontal flip, RandAugment and Cutout, for batches on the device.

A transform computes every image from that image and its random numbers alone (see data.rng), so an augmented image is
bit-identical in any batch.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from data.augment import AugmentOptions
from data.augment.randaugment import RandAugment
from data.rng import Column, Purpose


class ImageTransform(Protocol):
    """A transform of images, uint8 (N, H, W, 3), to the same shape.

    Attributes:
        columns: the random numbers that it needs of each sample; it is called with them, int64 (N, columns).
    """

    @property
    def columns(self) -> Sequence[Column]: ...

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor: ...


class ImageTransforms:
    """The transforms that the options enable, in a fixed order; itself an ImageTransform, with the columns of all.

    Args:
        options: the `augment` section of the configuration.
        mean: mean of each channel, in units of the byte range scaled to 0..1; the colour of Cutout's squares.
        side: side of the images in pixels.
    """

    def __init__(self, options: AugmentOptions, mean: Sequence[float], side: int, device: torch.device) -> None:
        self.transforms: list[ImageTransform] = []
        if options.crop_padding:
            self.transforms.append(PaddedCrop(options.crop_padding))
        if options.flip:
            self.transforms.append(HorizontalFlip())
        if options.randaugment_num_ops:
            self.transforms.append(
                RandAugment(options.randaugment_num_ops, options.randaugment_magnitude, side, device)
            )
        if options.cutout_size:
            self.transforms.append(Cutout(options.cutout_size, mean, side, device))
        self.columns = [column for transform in self.transforms for column in transform.columns]

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """uint8 (N, side, side, 3) and random numbers, int64 (N, columns) -> uint8 (N, side, side, 3)."""
        first = 0
        for transform in self.transforms:
            last = first + len(transform.columns)
            images, first = transform(images, numbers[:, first:last]), last
        return images


class PaddedCrop:
    """Pads every side with `padding` black pixels and crops a random window of the original size."""

    def __init__(self, padding: int) -> None:
        self.padding, self.offsets = padding, 2 * padding + 1
        self.columns = [Column(Purpose.crop_row, self.offsets), Column(Purpose.crop_column, self.offsets)]

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        count, height, width, _ = images.shape
        padded = F.pad(images, (0, 0, *[self.padding] * 4))
        # A view of every window at every offset; indexing it copies one window per sample.
        row, column = padded.stride(1), padded.stride(2)
        shape = (count, self.offsets, self.offsets, height, width, 3)
        windows = padded.as_strided(shape, (padded.stride(0), row, column, row, column, 1))
        return windows[torch.arange(count, device=images.device), *numbers.unbind(1)]


class HorizontalFlip:
    """Flips half of the samples left to right."""

    columns = (Column(Purpose.flip, 2),)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        return torch.where(numbers.bool().view(-1, 1, 1, 1), images.flip(2), images)


class Cutout:
    """Fills a square of side `size` (pixels) around a random centre with the mean colour.

    Source: DeVries and Taylor, Improved Regularization of CNNs with Cutout (2017).
    """

    def __init__(self, size: int, mean: Sequence[float], side: int, device: torch.device) -> None:
        self.size = size
        self.colour = (255 * torch.tensor(mean, device=device)).round().to(torch.uint8)
        self.positions = torch.arange(side, device=device)
        self.columns = [Column(Purpose.cutout_row, side), Column(Purpose.cutout_column, side)]

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        first = (numbers - self.size // 2).unsqueeze(2)
        in_rows, in_columns = ((self.positions >= first) & (self.positions < first + self.size)).unbind(1)
        hole = in_rows.unsqueeze(2) & in_columns.unsqueeze(1)
        return torch.where(hole.unsqueeze(3), self.colour, images)
