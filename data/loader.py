"""Batches of training and validation samples on a rank's device."""

import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.augment.pipeline import BatchTransform, TrainingPipeline
from data.augment.random_resized_crop import CropBoxes
from data.augment.resize_normalize import ResizeNormalize
from data.reading.device_reader import DeviceReader
from data.sampler import BatchSampler, rank_slice


class Batch(NamedTuple):
    """One rank's part of a global batch.

    Attributes:
        images: float32 (n, 3, side, side), channels last, normalised, on the device.
        labels: int64 (n,), on the device.
        targets: what the loss compares with: `labels`, or float32 (n, classes) where samples are mixed.
        global_size: samples in the global batch, over all ranks; in evaluation, where ranks do not proceed in step, in
            this part only.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    global_size: int


@dataclass(frozen=True)
class RankInfo:
    """A rank, the number of ranks, and the device that the rank's batches are on."""

    rank: int
    world_size: int
    device: torch.device


class TrainingLoader:
    """All training samples once per epoch, in a new order every epoch.

    Args:
        reader: opened for batches of this rank's part of a global batch, times `pipeline.images_per_sample`.

    Attributes:
        steps: global batches per epoch.
        dropped: samples dropped per epoch, because they do not fill a batch.
        capture: wraps a function of tensors in CUDA-graph capture; None for no capture. Set it before the first epoch.
            The pipeline is captured once per image side, and a batch is then overwritten by the next one.

    Raises:
        DataError: the last batch has fewer than the two samples per rank that BatchNorm needs.
    """

    def __init__(self, reader: DeviceReader, sampler: BatchSampler, pipeline: TrainingPipeline, rank: RankInfo) -> None:
        self.reader, self.sampler, self.pipeline, self.rank = reader, sampler, pipeline, rank
        self.samples = sampler.samples
        self.steps = sampler.steps(rank.world_size)
        self.dropped = max(0, sampler.samples - self.steps * sampler.batch_size)
        self.capture: Callable[[BatchTransform], BatchTransform] | None = None
        self._captured: dict[int, BatchTransform] = {}

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch]:
        """The batches of an epoch (counted from 0), from step `first_step` on."""
        pipeline, sampler = self.pipeline, self.sampler
        transform = self._batch_transform(pipeline.resizing.side(epoch))
        boxes = pipeline.crop_boxes(self.reader.sizes["train"], epoch)
        steps = range(first_step, self.steps)
        own = sampler.rank_batches(epoch, steps, self.rank.rank, self.rank.world_size)
        to_read = [pipeline.ids_to_read(ids, epoch) for ids in own]
        with closing(self.reader.read("train", to_read, boxes)) as batches:
            for step, (stored, labels, ids) in zip(steps, batches, strict=True):
                yield Batch(*transform(stored, labels, ids, epoch), sampler.global_size(step))

    def _batch_transform(self, side: int) -> BatchTransform:
        if self.capture is None:
            return self.pipeline.at(side)
        if side not in self._captured:
            self._captured[side] = self.capture(self.pipeline.at(side))
        return self._captured[side]


class EvaluationLoader:
    """Every validation sample exactly once over all ranks, in the stored order and without augmentation.

    Args:
        boxes: centre crops; None for whole images.
        samples: number of validation samples.
        batch_size: samples of a step, over all ranks.

    Attributes:
        steps: the largest number of batches of any rank.
    """

    def __init__(
        self,
        reader: DeviceReader,
        resize_normalize: ResizeNormalize,
        boxes: CropBoxes | None,
        samples: int,
        batch_size: int,
        rank: RankInfo,
    ) -> None:
        self.reader, self.resize_normalize, self.boxes = reader, resize_normalize, boxes
        self.samples = samples
        own = torch.arange(samples)[rank_slice(samples, rank.rank, rank.world_size)]
        size = largest_part(min(batch_size, samples), rank.world_size)
        self.steps = math.ceil(largest_part(samples, rank.world_size) / size)
        self._ids = list(own.split(size)) if len(own) else []

    def __iter__(self) -> Generator[Batch]:
        with closing(self.reader.read("val", self._ids, self.boxes)) as batches:
            for stored, labels, _ in batches:
                yield Batch(self.resize_normalize(stored), labels, labels, len(labels))


def largest_part(samples: int, world_size: int) -> int:
    """The most samples that any rank gets of so many."""
    return math.ceil(samples / world_size)
