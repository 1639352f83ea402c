"""Prepares an image that is not in any shard exactly as evaluation prepares a stored one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.augment.random_resized_crop import center_crop
from data.errors import import_errors
from data.image_encoding import to_stored_size
from data.manifest import Manifest
from data.open_loaders import check_sizes


@dataclass(frozen=True)
class InferenceTransform:
    """How a dataset's images are stored, and how evaluation crops stored images.

    Attributes:
        stored_resolution, mixed: `resolution` and `mixed` of the manifest.
        center_crop_ratio: side of the square centre crop divided by the image's shorter side; 0 for whole images.
        resolution: side that crops are resized to, in pixels; used only with center_crop_ratio.
    """

    stored_resolution: int
    mixed: bool
    center_crop_ratio: float
    resolution: int

    def __call__(self, image: Image.Image) -> np.ndarray:
        """An RGB image -> uint8 (height, width, 3), square."""
        stored = np.asarray(to_stored_size(image, self.stored_resolution, self.mixed))
        if not self.center_crop_ratio:
            return stored
        with import_errors():  # here, because it is slow, and needed for crops only
            from data.reading.ffcv_imports import resize_crop

        crop = center_crop(torch.tensor([stored.shape[:2]]), self.center_crop_ratio, self.resolution)
        top, left, height, width = crop.boxes[0].tolist()
        square = np.empty((self.resolution, self.resolution, 3), np.uint8)
        resize_crop(np.ascontiguousarray(stored), top, top + height, left, left + width, square)
        return square


def inference_transform(
    directory: Path, manifest: Manifest, rrc_min_scale: float, center_crop_ratio: float, resolution: int
) -> InferenceTransform:
    """The transform of a run with these options of `augment` and `data`.

    Raises:
        DataError: the run uses whole images, and those of this directory keep their own shapes.
    """
    check_sizes(directory, manifest, rrc_min_scale)
    return InferenceTransform(
        manifest.resolution, manifest.mixed, center_crop_ratio if rrc_min_scale else 0.0, resolution
    )
