"""Where images come from: CIFAR-100, a tree of class folders, or a generated set.

A source is a pair of data sets, each a sequence of (PIL image, label) with class names.
"""

import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from data.errors import DataError
from data.rng import Purpose, hashes
from data.sources.synthetic import SyntheticImages

ARCHIVE = "cifar-100-python"  # the folder in the official archive


class Kind(StrEnum):
    cifar100 = "cifar100"
    folder = "folder"
    synthetic = "synthetic"


class Images(Protocol):
    """A sequence of images with labels."""

    @property
    def classes(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...


@dataclass(frozen=True)
class Source:
    """Training and validation images of the same classes; `name(split, i)` says which image that is."""

    train: Images
    val: Images
    name: Callable[[str, int], str]

    @property
    def classes(self) -> list[str]:
        return self.train.classes

    def split(self, split: str) -> Images:
        return {"train": self.train, "val": self.val}[split]


@dataclass(frozen=True)
class Part:
    """Some of the images."""

    images: Images
    indices: Sequence[int]

    @property
    def classes(self) -> list[str]:
        return self.images.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.images[self.indices[index]]


def hold_out(source: Source, count: int) -> Source:
    """The training images alone, of which `count`, always the same, are for validation: to choose a recipe by.

    Raises:
        DataError: there are not more than `count`.
    """
    if count >= len(source.train):
        raise DataError(f"--hold-out {count} leaves none of {len(source.train)} training images")
    order = hashes(0, 0, Purpose.hold_out, torch.arange(len(source.train))).argsort(stable=True)
    parts = {"train": sorted(order[count:].tolist()), "val": sorted(order[:count].tolist())}
    return Source(
        Part(source.train, parts["train"]),
        Part(source.train, parts["val"]),
        lambda split, index: source.name("train", parts[split][index]),
    )


def open_source(kind: Kind, root: Path | None, download: bool = False, per_class: int = 0) -> Source:
    """Opens a source.

    Args:
        root: cifar100: the official folder `cifar-100-python`, the folder that holds it, its tar.gz, or a
            train/ test/ tree of class folders; folder: such a tree (val/ or test/); synthetic: not used.
        download: cifar100: fetch the official archive into `root` if it is not there.
        per_class: synthetic: training images of each class; a fifth as many for validation.

    Raises:
        DataError: nothing usable is there; the message says what was looked for.
    """
    if kind is Kind.synthetic:
        val = max(1, per_class // 5)
        return Source(SyntheticImages("train", per_class), SyntheticImages("val", val), "{}[{}]".format)
    if root is None:
        raise DataError(f"--root is needed for --source {kind}")
    if kind is Kind.cifar100 and not _is_class_tree(root):
        return _open_cifar100(root, download)
    return _open_tree(root)


def _is_class_tree(root: Path) -> bool:
    return (root / "train").is_dir()


def _open_tree(root: Path) -> Source:
    from data.sources.torchvision_datasets import ImageFolder

    if not root.is_dir():
        raise DataError(f"{root}: no such directory")
    if not _is_class_tree(root):
        raise DataError(f"{root}: no train/ directory of class folders in it")
    held_out = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    if held_out is None:
        raise DataError(f"{root}: no val/ or test/ directory beside train/")
    try:
        train, val = (ImageFolder(str(place), loader=_load_unchanged) for place in (root / "train", held_out))
    except FileNotFoundError as error:  # an empty class folder, or none at all
        raise DataError(str(error)) from error
    if train.classes != val.classes:
        different = sorted(set(train.classes) ^ set(val.classes))
        raise DataError(f"{root}: train/ and {held_out.name}/ have different classes: {', '.join(different[:5])}")
    files = {"train": train.samples, "val": val.samples}
    return Source(train, val, lambda split, index: files[split][index][0])


def _load_unchanged(path: str) -> Image.Image:
    """torchvision's own loader turns everything into RGB without a word."""
    with Image.open(path) as image:
        image.load()
        return image


def _open_cifar100(root: Path, download: bool) -> Source:
    if not root.is_file():
        return _load_cifar100(root.parent if root.name == ARCHIVE else root, download)
    with tempfile.TemporaryDirectory() as folder:  # loading takes all images into memory
        try:
            with tarfile.open(root) as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{root}: not a readable tar archive ({error})") from error
        return _load_cifar100(Path(folder), download=False)


def _load_cifar100(root: Path, download: bool) -> Source:
    from data.sources.torchvision_datasets import CIFAR100

    try:
        train = CIFAR100(str(root), train=True, download=download)
        val = CIFAR100(str(root), train=False)
    except OSError as error:  # urllib's errors are OSErrors: no network, refused, no such host
        raise DataError(f"CIFAR-100 could not be downloaded into {root} ({error}). {_WAYS_OUT}") from error
    except RuntimeError as error:  # torchvision's word for files that are absent or whose MD5 differs
        raise DataError(f"{root}: neither official CIFAR-100 files nor train/ and test/. {_WAYS_OUT}") from error
    return Source(train, val, "cifar100 {}[{}]".format)


_WAYS_OUT = (
    "Either run on a machine with network access, or name a copy: "
    "CIFAR100=/path/to/cifar-100-python (or its .tar.gz, or a train/ test/ tree of class folders)"
)
