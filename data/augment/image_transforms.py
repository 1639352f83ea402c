"""Augmentation of stored bytes: padded crop, horizontal flip, RandAugment and Cutout, for batches on the device.

What happens to a sample depends on (seed, epoch, sample id) alone (see data.rng), and every output pixel is computed
from its own sample, so an augmented image is bit-identical in any batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from data.augment import AugmentOptions
from data.augment.randaugment import randaugment
from data.rng import EpochNumber, Purpose, integers


class ImageTransforms:
    """The transforms that the options enable, in a fixed order.

    Args:
        options: the `augment` section of the configuration.
        mean: mean of each channel, in units of the byte range scaled to 0..1; the colour of Cutout's squares.
        seed: seed of the random numbers.
    """

    def __init__(self, options: AugmentOptions, mean: Sequence[float], seed: int, device: torch.device) -> None:
        self.options, self.seed = options, seed
        self.mean_colour = (255 * torch.tensor(mean, device=device)).round().to(torch.uint8)

    def __call__(self, images: Tensor, ids: Tensor, epoch: EpochNumber) -> Tensor:
        """uint8 (N, H, W, 3) and int64 (N,) -> uint8 (N, H, W, 3)."""
        options, seed = self.options, self.seed
        if options.crop_padding:
            images = padded_crop(images, ids, seed, epoch, options.crop_padding)
        if options.flip:
            images = horizontal_flip(images, ids, seed, epoch)
        if options.randaugment_num_ops:
            images = randaugment(images, ids, seed, epoch, options.randaugment_num_ops, options.randaugment_magnitude)
        if options.cutout_size:
            images = cutout(images, ids, seed, epoch, options.cutout_size, self.mean_colour)
        return images


def padded_crop(images: Tensor, ids: Tensor, seed: int, epoch: EpochNumber, padding: int) -> Tensor:
    """Pads every side with `padding` black pixels and crops a random window of the original size."""
    count, height, width, _ = images.shape
    offsets = 2 * padding + 1
    rows = integers(seed, epoch, Purpose.crop_row, ids, offsets)
    columns = integers(seed, epoch, Purpose.crop_column, ids, offsets)
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    # A view of every window at every offset; indexing it copies one window per sample.
    row, column = padded.stride(1), padded.stride(2)
    shape = (count, offsets, offsets, height, width, 3)
    windows = padded.as_strided(shape, (padded.stride(0), row, column, row, column, 1))
    return windows[torch.arange(count, device=ids.device), rows, columns]


def horizontal_flip(images: Tensor, ids: Tensor, seed: int, epoch: EpochNumber) -> Tensor:
    """Flips half of the samples left to right."""
    flipped = integers(seed, epoch, Purpose.flip, ids, 2).bool()
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(2), images)


def cutout(images: Tensor, ids: Tensor, seed: int, epoch: EpochNumber, size: int, colour: Tensor) -> Tensor:
    """Fills a square of side `size` (pixels) around a random centre with a colour, uint8 (3,).

    Source: DeVries and Taylor, Improved Regularization of CNNs with Cutout (2017).
    """
    height, width = images.shape[1:3]
    rows = integers(seed, epoch, Purpose.cutout_row, ids, height).view(-1, 1, 1, 1)
    columns = integers(seed, epoch, Purpose.cutout_column, ids, width).view(-1, 1, 1, 1)
    y = torch.arange(height, device=images.device).view(1, -1, 1, 1)
    x = torch.arange(width, device=images.device).view(1, 1, -1, 1)
    top, left = rows - size // 2, columns - size // 2
    hole = (y >= top) & (y < top + size) & (x >= left) & (x < left + size)
    return torch.where(hole, colour, images)
