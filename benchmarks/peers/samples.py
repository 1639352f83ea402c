"""The same images for all peers: arrays in files, which all processes map into memory and share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.images import StoredImages
from benchmarks.peers.protocol import Settings
from data.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Samples:
    """What a peer trains on and is tested on."""

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
    """The test images, and as many training images as an epoch takes: no loader reads ahead what nobody will use."""
    directory = Path(settings.images)
    train = _read(directory, "train", settings.steps * settings.batch_size)
    return Samples(read_manifest(Path(settings.shards)), train, _read(directory, "val", None))


def _read(directory: Path, split: str, count: int | None) -> StoredImages:
    # As a plain array: indexing a memmap costs several times as much.
    pixels = np.asarray(np.load(directory / f"{split}-pixels.npy", mmap_mode="r"))
    return StoredImages(pixels[:count], np.load(directory / f"{split}-labels.npy")[:count].tolist())


def loader_options(settings: Settings, processes: int) -> dict[str, Any]:
    """What PyTorch's performance guide recommends for a DataLoader; with the batch size of one process."""
    return {
        "batch_size": settings.batch_size // processes,
        "num_workers": settings.workers,
        "persistent_workers": True,
        "pin_memory": settings.on_gpu,
    }
