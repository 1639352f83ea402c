"""This project's augmentation for a torch DataLoader, image by image as in torchvision's examples."""

from collections.abc import Iterator

import torch

from benchmarks.images import CROP_PADDING, ImageDataset, StoredImages
from data.manifest import Manifest
from data.sources.torchvision_datasets import torchvision


class Transformed(ImageDataset):
    """Images transformed by torchvision: float32 (3, resolution, resolution), normalised.

    Args:
        training: apply random crop and flip.
    """

    def __init__(self, images: StoredImages, manifest: Manifest, resolution: int, training: bool = True) -> None:
        transforms = torchvision.transforms  # version 1: a third faster than v2 on PIL images
        stored = manifest.resolution
        steps = [transforms.RandomCrop(stored, padding=CROP_PADDING), transforms.RandomHorizontalFlip()]
        if not training:
            steps = []
        if resolution != stored:
            steps.append(transforms.Resize(resolution))
        steps += [transforms.ToTensor(), transforms.Normalize(manifest.mean, manifest.std)]
        super().__init__(images, transforms.Compose(steps))


class RandomBatches:
    """Batches of random sample ids for one pass of the DataLoader, each image equally often."""

    def __init__(self, samples: int, batch_size: int, batches: int) -> None:
        self.samples, self.batch_size, self.batches = samples, batch_size, batches

    def __iter__(self) -> Iterator[list[int]]:
        ids = torch.randperm(self.batches * self.batch_size) % self.samples
        return iter(ids.view(self.batches, self.batch_size).tolist())
