"""All samples in the device's memory: read once, then every batch is cut out of them there."""

from collections.abc import Generator, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

from data.augment.random_resized_crop import CropBoxes
from data.errors import DataError
from data.manifest import Manifest
from data.reading.shard_reader import Batch, ShardReader

_SHARE = 0.25  # of the free memory that `auto` takes, for the network wants some as well


class Where(StrEnum):
    """Where the samples are while a run trains."""

    none = "none"  # in the shards, decoded again in each epoch
    device = "device"  # decoded once, into the memory of the GPU, or of the process
    auto = "auto"  # device where that is a GPU with plenty of room; none otherwise


class Cache:
    """The samples of both splits on a device.

    Args:
        reader: opened for batches of at least `batch_size`.

    Raises:
        LoaderError: as the reader does.
    """

    def __init__(self, reader: ShardReader, manifest: Manifest, batch_size: int, device: torch.device) -> None:
        self._splits: dict[str, tuple[Tensor, Tensor]] = {}
        for split in manifest.splits:
            samples, side = manifest.samples(split), manifest.resolution
            images = torch.empty((samples, side, side, 3), dtype=torch.uint8, device=device)
            first = 0
            for some in _images(reader, split, batch_size):
                images[first : first + len(some)] = some
                first += len(some)
            self._splits[split] = images, torch.from_numpy(reader.shards[split].labels).to(device)
        self.device = device

    def read(self, split: str, batches: Sequence[Tensor], boxes: CropBoxes | None = None) -> Generator[Batch]:
        """The samples of each list of ids, in that order, on the device; whole, so for no `boxes`."""
        assert boxes is None
        images, labels = self._splits[split]
        for ids in batches:
            here = ids.to(self.device, non_blocking=True)
            yield images.index_select(0, here), labels.index_select(0, here), here


def _images(reader: ShardReader, split: str, batch_size: int) -> Iterator[Tensor]:
    """All images of a split in order; raw ones seconds before FFCV has compiled a decoder."""
    shards = reader.shards[split]
    if shards.raw:
        yield from map(torch.from_numpy, shards.parts(batch_size))
    else:
        for images, _, _ in reader.read(split, torch.arange(len(shards.labels)).split(batch_size)):
            yield images


def wanted(where: Where, manifest: Manifest, device: torch.device) -> bool:
    """Whether the samples are to be kept on the device.

    Raises:
        DataError: they shall be, and there is no room.
    """
    needed = sum(manifest.samples(split) for split in manifest.splits) * (3 * manifest.resolution**2 + 8)
    if where is Where.auto:
        return device.type == "cuda" and needed <= _SHARE * _free(device)
    if where is Where.device and needed > (free := _free(device)):
        raise DataError(f"data.cache is device: {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free")
    return where is Where.device


def _free(device: torch.device) -> int:
    """Bytes of its memory that are free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
