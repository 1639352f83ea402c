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
from data.run_ahead import RunAhead
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
            The pipeline is captured once per image side.

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
        self._ahead = RunAhead(rank.device) if rank.device.type == "cuda" else None

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch]:
        """The batches of an epoch (counted from 0), from step `first_step` on.

        On a GPU they are prepared on a second stream, concurrently with the step before, and a batch is valid until
        the next but one is requested.
        """
        batches = self._batches(epoch, first_step)
        return batches if self._ahead is None else self._ahead(batches)

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:
        pipeline, sampler = self.pipeline, self.sampler
        side = pipeline.resizing.side(epoch)
        boxes = pipeline.crop_boxes(self.reader.sizes["train"], epoch)
        steps = range(first_step, self.steps)
        own = sampler.rank_batches(epoch, steps, self.rank.rank, self.rank.world_size)
        to_read = pipeline.ids_to_read(own, epoch)
        random_numbers = pipeline.random_numbers(to_read, epoch)
        transform = self._batch_transform(side)
        with closing(self.reader.read("train", to_read, boxes)) as batches:
            for step, (stored, labels, _), numbers in zip(steps, batches, random_numbers, strict=True):
                yield Batch(*transform(stored, labels, numbers), sampler.global_size(step))

    def _batch_transform(self, side: int) -> BatchTransform:
        if self.capture is None:
            return self.pipeline.at(side)
        if side not in self._captured:
            self._captured[side] = with_own_memory(self.capture(self.pipeline.at(side)))
        return self._captured[side]


def with_own_memory(captured: BatchTransform) -> BatchTransform:
    """The transform with copies of its results, which the next replay overwrites while a step still uses them."""

    def transform(stored: Tensor, labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images, own_labels, targets = captured(stored, labels, numbers)
        return images.clone(), own_labels.clone(), targets.clone()

    return transform


class EvaluationLoader:
    """Every validation sample exactly once over all ranks, in the stored order and without augmentation.

    Args:
        boxes: centre crops; None for whole images.
        samples: number of validation samples.
        batch_size: samples of a batch on one rank.

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
        self.steps = math.ceil(largest_part(samples, rank.world_size) / batch_size)
        self._ids = list(own.split(batch_size)) if len(own) else []

    def __iter__(self) -> Generator[Batch]:
        with closing(self.reader.read("val", self._ids, self.boxes)) as batches:
            for stored, labels, _ in batches:
                yield Batch(self.resize_normalize(stored), labels, labels, len(labels))


def largest_part(samples: int, world_size: int) -> int:
    """The most samples that any rank gets of so many."""
    return math.ceil(samples / world_size)
