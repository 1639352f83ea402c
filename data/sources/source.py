"""The interface of image sources: training and validation images of the same classes, with a name for every image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image


class Images(Protocol):
    """A sequence of (PIL image, label); names are those of torchvision's datasets."""

    @property
    def classes(self) -> list[str]:
        """Class names, by label."""
        ...

    @property
    def targets(self) -> Sequence[int]:
        """The label of every image."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...


def _no_file(split: str, index: int) -> None:
    return None


@dataclass(frozen=True)
class Source:
    """Training and validation images.

    Attributes:
        name: a name for messages, given a split and an index: a path, or `cifar100 train[7]`.
        path: the file of an image, given a split and an index; None if the image has no file of its own.
    """

    train: Images
    val: Images
    name: Callable[[str, int], str]
    path: Callable[[str, int], Path | None] = _no_file

    @property
    def classes(self) -> list[str]:
        return self.train.classes

    def split(self, split: str) -> Images:
        return {"train": self.train, "val": self.val}[split]


@dataclass(frozen=True)
class Subset:
    """Some of the images, by index."""

    images: Images
    indices: Sequence[int]

    @property
    def classes(self) -> list[str]:
        return self.images.classes

    @property
    def targets(self) -> Sequence[int]:
        labels = self.images.targets
        return [labels[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.images[self.indices[index]]
