"""Which part of a stored image the network gets: one cut out at random and resized, or the middle in an evaluation.

Source: Szegedy et al., Going Deeper with Convolutions (2015), section 6; ten attempts at each image, as torchvision
and FFCV make them.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.draws import Purpose, integers, uniforms

_SHAPE = 4 / 3  # of width over height, or of height over width, at most
_ATTEMPTS = 10


class Boxes(NamedTuple):
    """What is cut out of each sample of a split, and the side that it is resized to.

    Attributes:
        places: int64 (samples, 4): top, left, height and width, pixels of the stored image.
        side: pixels.
    """

    places: Tensor
    side: int


@dataclass(frozen=True)
class Cut:
    """Boxes for all samples of a split, in the order of their ids.

    Attributes:
        sizes: of each split's images, int64 (samples, 2): height and width, pixels.
        smallest: share of the image's area that is cut out for training at least.
        middle: side of the square for evaluation, over the shorter side of the image.
        seed: of the draws.
    """

    sizes: dict[str, Tensor]
    smallest: float
    middle: float
    seed: int

    def training(self, epoch: int, side: int) -> Boxes:
        """Of an area and a shape drawn evenly (the shape on a logarithmic scale), at a place drawn evenly."""
        sizes = self.sizes["train"]
        heights, widths = sizes.unbind(1)
        found = _largest(heights, widths)
        open_ids = torch.arange(len(sizes))
        for attempt in range(_ATTEMPTS):
            height, width, fits = self._attempt(sizes[open_ids], open_ids * _ATTEMPTS + attempt, epoch)
            ids = open_ids[fits]
            keys = ids * _ATTEMPTS + attempt
            top = self._place(epoch, Purpose.cut_row, keys, heights[ids] - height[fits])
            left = self._place(epoch, Purpose.cut_column, keys, widths[ids] - width[fits])
            found[ids] = torch.stack([top, left, height[fits], width[fits]], 1)
            open_ids = open_ids[~fits]
        return Boxes(found, side)

    def evaluation(self, side: int) -> Boxes:
        """The middle, a square."""
        sizes = self.sizes["val"]
        square = (self.middle * sizes.min(1).values.double()).long().clamp(min=1)
        return Boxes(_centred(sizes, torch.stack([square, square], 1)), side)

    def _attempt(self, sizes: Tensor, keys: Tensor, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        share = self.smallest + (1 - self.smallest) * uniforms(self.seed, epoch, Purpose.cut_area, keys).double()
        area = share * sizes.prod(1)
        shape = ((2 * uniforms(self.seed, epoch, Purpose.cut_shape, keys).double() - 1) * math.log(_SHAPE)).exp()
        height, width = ((area * ratio).sqrt().round().long() for ratio in (1 / shape, shape))
        fits = (height > 0) & (height <= sizes[:, 0]) & (width > 0) & (width <= sizes[:, 1])
        return height, width, fits

    def _place(self, epoch: int, purpose: Purpose, keys: Tensor, room: Tensor) -> Tensor:
        return integers(self.seed, epoch, purpose, keys, room + 1)


def _largest(heights: Tensor, widths: Tensor) -> Tensor:
    """The largest box of a permitted shape in the middle, for images that ten attempts did not fit into."""
    height = torch.minimum(heights, (widths * _SHAPE).round().long())
    width = torch.minimum(widths, (heights * _SHAPE).round().long())
    return _centred(torch.stack([heights, widths], 1), torch.stack([height, width], 1))


def _centred(sizes: Tensor, parts: Tensor) -> Tensor:
    return torch.cat([(sizes - parts) // 2, parts], 1)
