"""All samples in the device's memory: decoded once; every batch is then gathered there."""

from collections.abc import Generator, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

from data.augment.random_resized_crop import CropBoxes
from data.errors import DataError
from data.manifest import Manifest
from data.reading.shard_reader import ShardReader, StoredBatch

_AUTO_FRACTION = 0.25  # of the free memory, at most, for `auto`: the network needs some as well


class CacheLocation(StrEnum):
    """Where decoded samples are kept during training."""

    none = "none"  # nowhere: decoded from the shards in every epoch
    device = "device"  # in the memory of the GPU, or of the process on a CPU
    auto = "auto"  # device on a GPU with enough free memory, none otherwise


class DeviceCache:
    """The samples of both splits in the memory of a device; implements DeviceReader.

    Args:
        reader: opened for batches of at least `batch_size`.

    Raises:
        LoaderError: decoding failed or timed out.
    """

    def __init__(self, reader: ShardReader, manifest: Manifest, batch_size: int, device: torch.device) -> None:
        self.sizes = reader.sizes
        self._splits: dict[str, tuple[Tensor, Tensor]] = {}
        for split in manifest.splits:
            samples, side = manifest.samples(split), manifest.resolution
            images = torch.empty((samples, side, side, 3), dtype=torch.uint8, device=device)
            first = 0
            for part in _images(reader, split, batch_size):
                images[first : first + len(part)] = part
                first += len(part)
            self._splits[split] = images, torch.from_numpy(reader.shards[split].labels).to(device)
        self._device = device

    def read(self, split: str, batches: Sequence[Tensor], boxes: CropBoxes | None = None) -> Generator[StoredBatch]:
        """The samples of each list of ids, in that order; images are whole, so `boxes` must be None."""
        assert boxes is None
        images, labels = self._splits[split]
        if not batches:
            return
        # one transfer for all batches, whose ids are then slices on the device
        order = torch.cat(list(batches)).to(self._device, non_blocking=True)
        for ids, device_ids in zip(batches, order.split([len(ids) for ids in batches]), strict=True):
            yield images.index_select(0, device_ids), labels.index_select(0, device_ids), ids


def _images(reader: ShardReader, split: str, batch_size: int) -> Iterator[Tensor]:
    """All images of a split in order; raw ones without FFCV's decoder, which takes seconds to compile."""
    shards = reader.shards[split]
    if shards.raw:
        yield from map(torch.from_numpy, shards.raw_images(batch_size))
    else:
        for images, _, _ in reader.read(split, torch.arange(len(shards.labels)).split(batch_size)):
            yield images


def use_device_cache(location: CacheLocation, manifest: Manifest, device: torch.device) -> bool:
    """Whether samples are kept on the device.

    Raises:
        DataError: they must be, and there is not enough memory.
    """
    needed = sum(manifest.samples(split) for split in manifest.splits) * (3 * manifest.resolution**2 + 8)
    if location is CacheLocation.auto:
        return device.type == "cuda" and needed <= _AUTO_FRACTION * _free_memory(device)
    if location is CacheLocation.device and needed > (free := _free_memory(device)):
        raise DataError(
            f"data.cache is device, which needs {needed / 1e9:.1f} GB on {device}, but {free / 1e9:.1f} GB are free: "
            "use data.cache none"
        )
    return location is CacheLocation.device


def _free_memory(device: torch.device) -> int:
    """Free memory of the device, bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
