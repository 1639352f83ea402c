"""What a torch DataLoader needs to do this project's augmentation, image by image, as torchvision's examples do."""

from collections.abc import Iterator
from contextlib import closing

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.loader import TrainingLoader
from data.shards import Manifest
from data.vision import torchvision

CROP_PADDING = 4  # pixels


class StoredImages:
    """The loader's images in memory, in the form that torchvision's CIFAR100 has: arrays of bytes."""

    def __init__(self, loader: TrainingLoader) -> None:
        ids = list(torch.arange(loader.samples).split(loader.batch_size))
        with closing(loader.source.read("train", ids)) as batches:
            parts = [(images.clone(), labels.clone()) for images, labels, _ in batches]
        self.pixels = torch.cat([images for images, _ in parts]).numpy()
        self.labels = torch.cat([labels for _, labels in parts]).tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]), self.labels[index]


class Transformed(Dataset):
    """What torchvision makes of each image: float32 (3, resolution, resolution), normalised."""

    def __init__(self, images: StoredImages, manifest: Manifest, resolution: int) -> None:
        transforms = torchvision.transforms  # the first version: on PIL images, a third faster than v2
        stored = manifest.resolution
        steps = [transforms.RandomCrop(stored, padding=CROP_PADDING), transforms.RandomHorizontalFlip()]
        if resolution != stored:
            steps.append(transforms.Resize(resolution))
        steps += [transforms.ToTensor(), transforms.Normalize(manifest.mean, manifest.std)]
        self.images, self.transform = images, transforms.Compose(steps)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        return self.transform(image), label


class RandomBatches:
    """The ids that the DataLoader asks its workers for in one pass, each image as often as any other."""

    def __init__(self, samples: int, batch_size: int, batches: int) -> None:
        self.samples, self.batch_size, self.batches = samples, batch_size, batches

    def __iter__(self) -> Iterator[list[int]]:
        ids = torch.randperm(self.batches * self.batch_size) % self.samples
        return iter(ids.view(self.batches, self.batch_size).tolist())
