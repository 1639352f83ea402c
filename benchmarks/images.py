"""Images in memory, for loaders that are not this project's."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:  # a program that has the images already need not wait until FFCV is imported
    from data.loader import Source

CROP_PADDING = 4  # pixels of black border, of which all loaders cut at random


@dataclass(frozen=True)
class StoredImages:
    """Images in memory, in the form that torchvision's CIFAR100 has: arrays of bytes.

    Attributes:
        pixels: uint8 (N, H, W, 3).
        labels: of each image.
    """

    pixels: np.ndarray
    labels: list[int]

    @staticmethod
    def read(source: "Source", split: str, ids: Tensor, batch_size: int) -> "StoredImages":
        """The images of a split with these ids, int64 (N,), read so many at a time."""
        with closing(source.read(split, ids.split(batch_size))) as batches:
            parts = [(images.clone(), labels.clone()) for images, labels, _ in batches]
        pixels = torch.cat([images for images, _ in parts]).numpy()
        return StoredImages(pixels, torch.cat([labels for _, labels in parts]).tolist())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]), self.labels[index]


class ImageDataset(Dataset):
    """Images, each as `transform` makes it of a PIL image, and their labels."""

    def __init__(self, images: StoredImages, transform: Callable[[Image.Image], Any]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.images[index]
        return self.transform(image), label
