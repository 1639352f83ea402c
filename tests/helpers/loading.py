"""The loaders as the trainer opens them, and batches that can be compared."""

from dataclasses import replace
from pathlib import Path

import torch
from limits import LIMIT

from data.loader import RankInfo
from data.manifest import read_manifest
from data.open_loaders import LoaderOptions, open_loaders
from regnet.config.schema import AugmentConfig

CPU = torch.device("cpu")
LOADER_OPTIONS = LoaderOptions(
    resolution=40,
    initial_resolution=24,
    progressive_resizing_epochs=0,
    batch_size=96,
    drop_last=False,
    workers=1,
    prefetch_batches=2,
    loader_timeout=LIMIT,
    cache="none",
    shuffle_window=0,
    keep_page_cache=True,
    center_crop_ratio=0.875,
    seed=5,
    augment=AugmentConfig(flip=True, crop_padding=4, cutout_size=6, randaugment_num_ops=2, randaugment_magnitude=9),
)
MIXED = {"mixup_prob": 0.3, "cutmix_prob": 0.4}
CROPPED = {"rrc_min_scale": 0.3, "crop_padding": 0, "shuffle_window": 250}


def loaders(shards, rank=0, world_size=1, **changed):
    """The loaders of a rank; `changed` are options of the loader and of augmentation."""
    augment = {name: changed.pop(name) for name in list(changed) if name in vars(LOADER_OPTIONS.augment)}
    options = replace(LOADER_OPTIONS, **changed, augment=replace(LOADER_OPTIONS.augment, **augment))
    return open_loaders(Path(shards), read_manifest(Path(shards)), options, RankInfo(rank, world_size, CPU))


def global_batches(shards, world_size, epoch, first_step=0, **changed):
    """Each global batch of an epoch, images and targets, concatenated from those of the ranks."""
    ranks = [
        list(loaders(shards, rank, world_size, **changed)[0].epoch(epoch, first_step)) for rank in range(world_size)
    ]
    for parts in zip(*ranks, strict=True):
        assert sum(len(part.labels) for part in parts) == parts[0].global_size
        yield torch.cat([part.images for part in parts]), torch.cat([part.targets for part in parts])


def assert_batches_equal(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for (images, labels), (other_images, other_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(labels, other_labels)
        assert torch.equal(images, other_images), "bit-identical"


def images_and_targets(batches):
    return [(batch.images, batch.targets) for batch in batches]
