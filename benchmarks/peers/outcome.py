"""Combines the reports of a launch's ranks and checks that the trainer did the requested work."""

import math
from dataclasses import dataclass

from benchmarks.launch import LaunchFailed
from benchmarks.peers.protocol import Epoch, RankReport, Settings
from benchmarks.peers.roster import Peer


@dataclass(frozen=True)
class Outcome:
    """One launch of one peer, over all ranks.

    Attributes:
        first_step, finished: seconds from the launch until the first step and until the end of all epochs.
        gpu_bytes: peak memory allocated by torch, summed over all GPUs.
    """

    first_step: float
    finished: float
    epochs: list[Epoch]
    gpu_bytes: int

    @property
    def images_per_second(self) -> float:
        """Training throughput without the first epoch, in which workers start and cuDNN algorithms are chosen."""
        later = self.epochs[1:]
        return sum(epoch.images for epoch in later) / sum(epoch.seconds for epoch in later)

    @property
    def learned(self) -> bool:
        return self.epochs[-1].loss < self.epochs[0].loss


def combine(reports: list[RankReport]) -> Outcome:
    """Sums images and averages losses over the ranks; steps, times and accuracies are those of rank zero."""
    epochs = []
    for index, first in enumerate(reports[0].epochs):
        parts = [report.epochs[index] for report in reports if index < len(report.epochs)]
        images = sum(part.images for part in parts)
        loss = sum(part.loss * part.images for part in parts) / images
        epochs.append(Epoch(first.steps, images, first.seconds, loss, first.accuracy))
    return Outcome(reports[0].first_step, reports[0].finished, epochs, sum(report.gpu_bytes for report in reports))


def check(outcome: Outcome, peer: Peer, settings: Settings) -> None:
    """Raises LaunchFailed if a trainer did more, less or other work than requested."""
    if len(outcome.epochs) != settings.epochs:
        raise LaunchFailed(f"{len(outcome.epochs)} epochs instead of {settings.epochs}")
    steps, images = settings.steps, settings.steps * settings.batch_size
    for number, epoch in enumerate(outcome.epochs, 1):
        if (epoch.steps, epoch.images) != (steps, images):
            actual = f"{epoch.steps} steps on {epoch.images} images"
            raise LaunchFailed(f"{actual} in epoch {number} instead of {steps} on {images}")
        if not math.isfinite(epoch.loss):
            raise LaunchFailed(f"the loss of epoch {number} is {epoch.loss}")
        if (epoch.accuracy is not None) != peer.evaluates:
            raise LaunchFailed(f"{'no' if peer.evaluates else 'an'} evaluation after epoch {number}")
