"""A picture that is in no shard, made what an evaluation makes of those that are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.augment.random_resized_crop import RandomResizedCrop
from data.loader import check_sizes
from data.manifest import Manifest
from data.reading.ffcv_imports import resize_crop
from data.shard_writer import to_size


@dataclass(frozen=True)
class InferenceTransform:
    """How a data set stores pictures, and what of a stored one is evaluated.

    Attributes:
        resolution, mixed: as in the manifest.
        middle: side of the square that is cut out, over the shorter side; 0 for whole images.
        side: that it is resized to, pixels; read only if it is cut out.
    """

    resolution: int
    mixed: bool
    middle: float
    side: int

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """A picture in RGB -> uint8 (height, width, 3), square."""
        stored = np.asarray(to_size(picture, self.resolution, self.mixed))
        if not self.middle:
            return stored
        cut = RandomResizedCrop({"val": torch.tensor([stored.shape[:2]])}, smallest=1.0, middle=self.middle, seed=0)
        top, left, height, width = cut.evaluation(self.side).places[0].tolist()
        square = np.empty((self.side, self.side, 3), np.uint8)
        resize_crop(np.ascontiguousarray(stored), top, top + height, left, left + width, square)
        return square


def preparation(
    directory: Path, manifest: Manifest, smallest_cut: float, middle: float, side: int
) -> InferenceTransform:
    """For the options of a run: `augment.rrc_min_scale`, `data.center_crop_ratio` and `data.resolution`.

    Raises:
        DataError: the run sees whole images, and those of this directory have mixed sizes.
    """
    check_sizes(directory, manifest, smallest_cut)
    return InferenceTransform(manifest.resolution, manifest.mixed, middle if smallest_cut else 0.0, side)
