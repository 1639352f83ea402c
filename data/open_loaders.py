"""Opens the loaders of a converted dataset: reader, sampler and augmentation, put together from the options."""

import math
from dataclasses import dataclass
from pathlib import Path

from data.augment import AugmentOptions
from data.augment.pipeline import TrainingPipeline
from data.augment.progressive_resizing import ProgressiveResizing
from data.augment.random_resized_crop import center_crop
from data.errors import DataError
from data.loader import EvaluationLoader, RankInfo, TrainingLoader, largest_part
from data.manifest import Manifest
from data.reading.device_cache import CacheLocation, DeviceCache, use_device_cache
from data.reading.device_reader import DeviceReader, StreamingReader
from data.reading.shard_reader import ShardReader
from data.sampler import BatchSampler

# An evaluation batch on a GPU: so many images of at most this side (pixels), fewer of larger ones.
_EVALUATION_BATCH, _EVALUATION_SIDE = 1000, 56


@dataclass(frozen=True)
class LoaderOptions:
    """How shards are read and images augmented: the configuration's options of the same names."""

    resolution: int
    initial_resolution: int
    progressive_resizing_epochs: int
    batch_size: int
    drop_last: bool
    workers: int
    prefetch_batches: int
    loader_timeout: float
    cache: str
    shuffle_window: int
    keep_page_cache: bool
    center_crop_ratio: float
    seed: int
    augment: AugmentOptions


def check_sizes(directory: Path, manifest: Manifest, rrc_min_scale: float) -> None:
    """Raises DataError if images keep their own shapes and are to be used whole."""
    if manifest.mixed and not rrc_min_scale:
        raise DataError(
            f"{directory}: its images keep their own shapes, and a network for whole images needs squares: train with "
            "augment.rrc_min_scale, e.g. 0.25, or convert with --resolution N --resize"
        )


def open_loaders(
    directory: Path, manifest: Manifest, options: LoaderOptions, rank: RankInfo
) -> tuple[TrainingLoader, EvaluationLoader]:
    """The training and validation batches of a verified dataset.

    Raises:
        DataError: the options do not suit these shards.
    """
    check_sizes(directory, manifest, options.augment.rrc_min_scale)
    resizing = ProgressiveResizing(options.initial_resolution, options.resolution, options.progressive_resizing_epochs)
    pipeline = TrainingPipeline(options.augment, manifest, resizing, options.seed, rank.device)
    crops = pipeline.random_resized_crop is not None
    val_samples = manifest.samples("val")
    side = options.resolution if crops else max(options.resolution, manifest.resolution)
    val_batch = evaluation_batch(options.batch_size, side, val_samples, rank)
    reader = _open_reader(directory, manifest, options, rank, pipeline.images_per_sample, val_batch, crops)
    sampler = BatchSampler(
        manifest.samples("train"), options.batch_size, options.drop_last, options.shuffle_window, options.seed
    )
    boxes = center_crop(reader.sizes["val"], options.center_crop_ratio, options.resolution) if crops else None
    return (
        TrainingLoader(reader, sampler, pipeline, rank),
        EvaluationLoader(reader, pipeline.resize_normalize, boxes, val_samples, val_batch, rank),
    )


def evaluation_batch(train_batch: int, side: int, samples: int, rank: RankInfo) -> int:
    """Samples of an evaluation batch on one rank: its part of a training batch, or more on a GPU if images are small.

    Args:
        train_batch: samples of a training step, over all ranks.
        side: side of the images in pixels, as decoded or as the network's input, whichever is larger.
        samples: number of validation samples.
    """
    size = largest_part(train_batch, rank.world_size)
    if rank.device.type == "cuda":  # on CPUs larger batches exceed the caches and are slower
        size = max(size, _EVALUATION_BATCH * _EVALUATION_SIDE**2 // max(side, _EVALUATION_SIDE) ** 2)
    return min(size, largest_part(samples, rank.world_size))


def _open_reader(
    directory: Path,
    manifest: Manifest,
    options: LoaderOptions,
    rank: RankInfo,
    images_per_sample: int,
    val_batch: int,
    crops: bool,
) -> DeviceReader:
    # A batch larger than the dataset needs no more memory than the dataset.
    train_batch = largest_part(min(options.batch_size, manifest.samples("train")), rank.world_size) * images_per_sample
    size = max(train_batch, val_batch)
    release_every = 0 if options.keep_page_cache else math.ceil(max(options.shuffle_window, 1) / options.batch_size)
    shards = ShardReader(
        directory, manifest, size, options.workers, options.prefetch_batches, options.loader_timeout, release_every
    )
    if not crops and use_device_cache(CacheLocation(options.cache), manifest, rank.device):
        return DeviceCache(shards, manifest, size, rank.device)
    return StreamingReader(shards, rank.device)
