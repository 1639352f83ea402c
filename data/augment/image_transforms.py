"""Batched augmentation on the device: bytes in, normalised images of the training resolution out.

What happens to a sample depends on (seed, epoch, sample id) alone; see data.draws.
"""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from data.augment.randaugment import randaugment
from data.rng import Epoch, Purpose, integers


class Augment:
    """Padded crop, flip, RandAugment and cutout of the stored bytes; then, in evaluation too, resizing, normalisation.

    Every output pixel is computed from its own sample by itself, so a sample's image is the same to the bit
    in whatever batch it comes.

    Args:
        mean, std: of each channel, in units of the byte range scaled to 0..1.
        resolution: side of the images that come out, pixels.
        flip: mirror half of the samples left to right.
        crop_padding: pad with this many black pixels on each side and cut the original size at random.
        cutout: side of a square, pixels of the stored image, replaced by the mean colour around a random
            centre (DeVries and Taylor, Improved Regularization of CNNs with Cutout, 2017); 0 for none.
        operations, magnitude: of RandAugment; see data.randaugment.
        seed: of the draws.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        resolution: int,
        device: torch.device,
        *,
        flip: bool = False,
        crop_padding: int = 0,
        cutout: int = 0,
        operations: int = 0,
        magnitude: int = 0,
        seed: int = 0,
    ) -> None:
        self.flip = flip
        self.crop_padding = crop_padding
        self.cutout = cutout
        self.operations, self.magnitude = operations, magnitude
        self.seed = seed
        self.means, self.stds = torch.tensor(mean, device=device), torch.tensor(std, device=device)
        self.mean_colour = (255 * self.means).round().to(torch.uint8)
        self._set_resolution(resolution)

    def _set_resolution(self, resolution: int) -> None:
        self.resolution = resolution
        # One row of interleaved pixels: normalising rows is twice as fast as broadcasting over channels.
        self.scale = (1 / (255 * self.stds)).repeat(resolution)
        self.shift = (-self.means / self.stds).repeat(resolution)

    def at(self, resolution: int) -> "Augment":
        """The same, for images of another side."""
        if resolution == self.resolution:
            return self
        other = copy(self)
        other._set_resolution(resolution)
        return other

    def training(self, images: Tensor, ids: Tensor, epoch: Epoch) -> Tensor:
        """uint8 (N, H, W, 3) and int64 (N,) -> float32 (N, 3, resolution, resolution), channels last."""
        if self.crop_padding:
            images = self._crop(images, ids, epoch)
        if self.flip:
            mirrored = integers(self.seed, epoch, Purpose.flip, ids, 2).bool()
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(2), images)
        if self.operations:
            images = randaugment(images, ids, self.seed, epoch, self.operations, self.magnitude)
        if self.cutout:
            images = self._cut_out(images, ids, epoch)
        return self.evaluation(images)

    def evaluation(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3), square -> float32 (N, 3, resolution, resolution), channels last."""
        rows = self._resize(images).reshape(len(images), self.resolution, -1).float()
        torch.addcmul(self.shift, rows, self.scale, out=rows)  # in place: fresh pages cost more than the sum
        return rows.view(len(images), self.resolution, self.resolution, 3).permute(0, 3, 1, 2)

    def _resize(self, images: Tensor) -> Tensor:
        if images.shape[1] == self.resolution:
            return images
        planes = images.permute(0, 3, 1, 2)
        if images.device.type != "cpu":  # bilinear of bytes exists, and is ten times faster, on CPUs only
            planes = planes.float()
        shrinks = self.resolution < images.shape[1]
        resized = F.interpolate(planes, self.resolution, mode="bilinear", antialias=shrinks)
        if resized.is_floating_point():
            resized = resized.round()
        return resized.permute(0, 2, 3, 1)

    def _crop(self, images: Tensor, ids: Tensor, epoch: Epoch) -> Tensor:
        pad = self.crop_padding
        count, height, width, _ = images.shape
        places = 2 * pad + 1
        rows = integers(self.seed, epoch, Purpose.crop_row, ids, places)
        columns = integers(self.seed, epoch, Purpose.crop_column, ids, places)
        padded = F.pad(images, (0, 0, pad, pad, pad, pad))
        # A view of every window at every place; indexing it copies one window for each sample.
        row, column = padded.stride(1), padded.stride(2)
        shape = (count, places, places, height, width, 3)
        windows = padded.as_strided(shape, (padded.stride(0), row, column, row, column, 1))
        return windows[torch.arange(count, device=ids.device), rows, columns]

    def _cut_out(self, images: Tensor, ids: Tensor, epoch: Epoch) -> Tensor:
        height, width = images.shape[1:3]
        rows = integers(self.seed, epoch, Purpose.cutout_row, ids, height).view(-1, 1, 1, 1)
        columns = integers(self.seed, epoch, Purpose.cutout_column, ids, width).view(-1, 1, 1, 1)
        y = torch.arange(height, device=images.device).view(1, -1, 1, 1)
        x = torch.arange(width, device=images.device).view(1, 1, -1, 1)
        top, left = rows - self.cutout // 2, columns - self.cutout // 2
        hole = (y >= top) & (y < top + self.cutout) & (x >= left) & (x < left + self.cutout)
        return torch.where(hole, self.mean_colour, images)
