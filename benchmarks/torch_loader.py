"""What a torch DataLoader needs to do this project's augmentation, image by image, as torchvision's examples do."""

from collections.abc import Iterator

import torch

from benchmarks.images import CROP_PADDING, ImageDataset, StoredImages
from data.manifest import Manifest
from data.sources.torchvision_datasets import torchvision


class Transformed(ImageDataset):
    """What torchvision makes of each image: float32 (3, resolution, resolution), normalised.

    Args:
        training: crop and flip at random.
    """

    def __init__(self, images: StoredImages, manifest: Manifest, resolution: int, training: bool = True) -> None:
        transforms = torchvision.transforms  # the first version: on PIL images, a third faster than v2
        stored = manifest.resolution
        steps = [transforms.RandomCrop(stored, padding=CROP_PADDING), transforms.RandomHorizontalFlip()]
        if not training:
            steps = []
        if resolution != stored:
            steps.append(transforms.Resize(resolution))
        steps += [transforms.ToTensor(), transforms.Normalize(manifest.mean, manifest.std)]
        super().__init__(images, transforms.Compose(steps))


class RandomBatches:
    """The ids that the DataLoader asks its workers for in one pass, each image as often as any other."""

    def __init__(self, samples: int, batch_size: int, batches: int) -> None:
        self.samples, self.batch_size, self.batches = samples, batch_size, batches

    def __iter__(self) -> Iterator[list[int]]:
        ids = torch.randperm(self.batches * self.batch_size) % self.samples
        return iter(ids.view(self.batches, self.batch_size).tolist())
