"""In-memory images for the loaders that this project is compared with."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:  # imports FFCV, which programs that only use the arrays do not need
    from data.reading.device_reader import DeviceReader

CROP_PADDING = 4  # pixels of black border around an image before the random crop, in all loaders


@dataclass(frozen=True)
class StoredImages:
    """Decoded images in memory, in the format of torchvision's CIFAR100.

    Attributes:
        pixels: uint8 (N, H, W, 3).
        labels: one per image.
    """

    pixels: np.ndarray
    labels: list[int]

    @staticmethod
    def read(reader: "DeviceReader", split: str, ids: Tensor, batch_size: int) -> "StoredImages":
        """Reads the images of a split with the given ids, int64 (N,), in batches."""
        with closing(reader.read(split, ids.split(batch_size))) as batches:
            parts = [(images.clone(), labels.clone()) for images, labels, _ in batches]
        pixels = torch.cat([images for images, _ in parts]).numpy()
        return StoredImages(pixels, torch.cat([labels for _, labels in parts]).tolist())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]), self.labels[index]


class ImageDataset(Dataset):
    """Pairs of a transformed PIL image and its label."""

    def __init__(self, images: StoredImages, transform: Callable[[Image.Image], Any]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.images[index]
        return self.transform(image), label
