"""The images of the other trainers: arrays in files that all processes map into shared memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.images import StoredImages
from benchmarks.peers.protocol import Settings
from data.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Samples:
    """Training and validation images of a trainer."""

    manifest: Manifest
    train: StoredImages
    val: StoredImages

    @property
    def classes(self) -> int:
        return len(self.manifest.classes)


def write(images: StoredImages, directory: Path, split: str) -> None:
    np.save(directory / f"{split}-pixels.npy", images.pixels)
    np.save(directory / f"{split}-labels.npy", np.array(images.labels))


def open_samples(settings: Settings) -> Samples:
    """The validation images, and the training images of one epoch, so that loaders prefetch no unused images."""
    directory = Path(settings.images)
    train = _read(directory, "train", settings.steps * settings.batch_size)
    return Samples(read_manifest(Path(settings.shards)), train, _read(directory, "val", None))


def _read(directory: Path, split: str, count: int | None) -> StoredImages:
    # asarray, because indexing a memmap takes several times as long.
    pixels = np.asarray(np.load(directory / f"{split}-pixels.npy", mmap_mode="r"))
    return StoredImages(pixels[:count], np.load(directory / f"{split}-labels.npy")[:count].tolist())


def loader_options(settings: Settings, processes: int) -> dict[str, Any]:
    """DataLoader settings that PyTorch's performance guide recommends, with the batch size of one process."""
    return {
        "batch_size": settings.batch_size // processes,
        "num_workers": settings.workers,
        "persistent_workers": True,
        "pin_memory": settings.on_gpu,
    }
