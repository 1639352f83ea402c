"""Stored bytes to the network's input: resizing and normalisation, for training, evaluation and prediction alike."""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor
from torch.nn import functional as F


class ResizeNormalize:
    """Resizes square images and normalises their channels.

    Args:
        mean, std: of each channel, in units of the byte range scaled to 0..1.
        resolution: side of the output images in pixels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], resolution: int, device: torch.device) -> None:
        self._means, self._stds = torch.tensor(mean, device=device), torch.tensor(std, device=device)
        self._set_resolution(resolution)

    def _set_resolution(self, resolution: int) -> None:
        self.resolution = resolution
        # One row of interleaved pixels: normalising rows is twice as fast as broadcasting over channels.
        self._scale = (1 / (255 * self._stds)).repeat(resolution)
        self._shift = (-self._means / self._stds).repeat(resolution)

    def at(self, resolution: int) -> "ResizeNormalize":
        """The same transform with another output resolution."""
        if resolution == self.resolution:
            return self
        other = copy(self)
        other._set_resolution(resolution)
        return other

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, H, H, 3) -> float32 (N, 3, resolution, resolution), channels last."""
        rows = self._resize(images).reshape(len(images), self.resolution, -1).float()
        # in place: allocating a new result costs more than the arithmetic
        torch.addcmul(self._shift, rows, self._scale, out=rows)
        return rows.view(len(images), self.resolution, self.resolution, 3).permute(0, 3, 1, 2)

    def _resize(self, images: Tensor) -> Tensor:
        if images.shape[1] == self.resolution:
            return images
        planes = images.permute(0, 3, 1, 2)
        if images.device.type != "cpu":  # bilinear resizing of bytes exists on CPUs only, where it is ten times faster
            planes = planes.float()
        shrinks = self.resolution < images.shape[1]
        resized = F.interpolate(planes, self.resolution, mode="bilinear", antialias=shrinks)
        if resized.is_floating_point():
            resized = resized.round()
        return resized.permute(0, 2, 3, 1)
