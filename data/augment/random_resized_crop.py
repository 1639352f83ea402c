"""Which part of a stored image the network gets: one cut out at random and resized, or the middle in an evaluation.

Source: Szegedy et al., Going Deeper with Convolutions (2015), section 6; ten attempts at each image, as torchvision
and FFCV make them.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.rng import Purpose, integers, uniforms

_SHAPE = 4 / 3  # of width over height, or of height over width, at most
_ATTEMPTS = 10


class CropBoxes(NamedTuple):
    """What is cut out of each sample of a split, and the side that it is resized to.

    Attributes:
        places: int64 (samples, 4): top, left, height and width, pixels of the stored image.
        side: pixels.
    """

    places: Tensor
    side: int


@dataclass(frozen=True)
class RandomResizedCrop:
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

    def training(self, epoch: int, side: int) -> CropBoxes:
        """Of an area and a shape drawn evenly (the shape on a logarithmic scale), at a place drawn evenly."""
        sizes = self.sizes["train"]
        found = _largest(sizes)
        open_ids = torch.arange(len(sizes))
        for attempt in range(_ATTEMPTS):
            keys = open_ids * _ATTEMPTS + attempt
            parts, fits = self._attempt(sizes[open_ids], keys, epoch)
            ids, keys, parts = open_ids[fits], keys[fits], parts[fits]
            room = sizes[ids] - parts + 1
            top = integers(self.seed, epoch, Purpose.cut_row, keys, room[:, 0])
            left = integers(self.seed, epoch, Purpose.cut_column, keys, room[:, 1])
            found[ids] = torch.cat([torch.stack([top, left], 1), parts], 1)
            open_ids = open_ids[~fits]
        return CropBoxes(found, side)

    def evaluation(self, side: int) -> CropBoxes:
        """The middle, a square."""
        sizes = self.sizes["val"]
        square = (self.middle * sizes.min(1).values.double()).long().clamp(min=1)
        return CropBoxes(_centred(sizes, torch.stack([square, square], 1)), side)

    def _attempt(self, sizes: Tensor, keys: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Heights and widths, int64 (n, 2), and whether they fit into the images."""
        share = self.smallest + (1 - self.smallest) * uniforms(self.seed, epoch, Purpose.cut_area, keys).double()
        area = share * sizes.prod(1)
        shape = ((2 * uniforms(self.seed, epoch, Purpose.cut_shape, keys).double() - 1) * math.log(_SHAPE)).exp()
        parts = torch.stack([(area * ratio).sqrt().round().long() for ratio in (1 / shape, shape)], 1)
        return parts, ((parts > 0) & (parts <= sizes)).all(1)


def _largest(sizes: Tensor) -> Tensor:
    """The largest box of a permitted shape in the middle, for images that ten attempts did not fit into."""
    return _centred(sizes, torch.minimum(sizes, (sizes.flip(1) * _SHAPE).round().long()))


def _centred(sizes: Tensor, parts: Tensor) -> Tensor:
    return torch.cat([(sizes - parts) // 2, parts], 1)
