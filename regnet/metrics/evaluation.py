"""Evaluation metrics: loss, accuracies, calibration error and confusion matrix, accumulated on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regnet.distributed.world import World
from regnet.metrics.confident_errors import ConfidentErrors

BINS = 15  # confidence bins, as in Guo et al., On Calibration of Modern Neural Networks (2017), section 2


@dataclass(frozen=True)
class Evaluation:
    """Metrics over all samples of a split, each counted once.

    Attributes:
        samples: number of samples.
        loss: mean cross-entropy over the samples.
        top1, top5: accuracies, 0 to 1.
        calibration_error: expected calibration error (ECE, 15 bins), 0 to 1.
        confusion: int64 (classes, classes); entry [r, c]: number of samples with label r that were predicted as c.
        confident_errors: the most confident errors; None if they were not collected.
        calibration: float64 (3, 15): number of samples, correct predictions and sum of confidences in each confidence
            bin, of which calibration_error is computed; None for metrics that were not accumulated from samples.
    """

    samples: int
    loss: float
    top1: float
    top5: float
    calibration_error: float
    confusion: Tensor
    confident_errors: ConfidentErrors | None = None
    calibration: Tensor | None = None

    def columns(self) -> dict[str, float]:
        """Columns of an epoch's line in metrics.jsonl."""
        return {"val_loss": self.loss, "val_top1": self.top1, "val_top5": self.top5}

    def class_samples(self) -> list[int]:
        """Number of samples of each class, by label."""
        return self.confusion.sum(1).tolist()

    def class_accuracy(self) -> list[float | None]:
        """Accuracy of each class, by label, 0 to 1; None for classes without samples."""
        return _fractions(self.confusion.diagonal(), self.confusion.sum(1))

    def group_accuracy(self, groups: Tensor) -> list[float | None]:
        """Accuracy of each group (superclass): a prediction is correct if its class is in the label's group.

        None for groups without samples.

        Args:
            groups: int64 (classes,), the group of each class.
        """
        same_group = groups.unsqueeze(0) == groups.unsqueeze(1)
        correct, samples = (self.confusion * same_group).sum(1), self.confusion.sum(1)
        zeros = torch.zeros(int(groups.max()) + 1, dtype=torch.int64)
        return _fractions(zeros.index_add(0, groups, correct), zeros.index_add(0, groups, samples))


def _fractions(counts: Tensor, totals: Tensor) -> list[float | None]:
    pairs = zip(counts.tolist(), totals.tolist(), strict=True)
    return [count / total if total else None for count, total in pairs]


class EvaluationAccumulator:
    """Sums over samples, kept on the device: counts in int64, everything else in float64."""

    def __init__(self, classes: int, device: torch.device) -> None:
        # confusion matrix, top-5 hits, samples per bin, correct per bin
        self.counts = torch.zeros(classes * classes + 1 + 2 * BINS, dtype=torch.int64, device=device)
        # loss, confidence per bin
        self.sums = torch.zeros(1 + BINS, dtype=torch.float64, device=device)
        self.classes = classes

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: logits float32 (n, classes), labels int64 (n,)."""
        top = logits.topk(min(5, self.classes), dim=1).indices
        predicted = top[:, 0]
        correct = (predicted == labels).long()
        confidence = logits.softmax(1).max(1).values.double()
        # Bins are half-open intervals (a, b], so a confidence of 1 belongs to the last one.
        bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        confusion, top5, bin_samples, bin_correct = self.counts.split([self.classes**2, 1, BINS, BINS])
        confusion.index_add_(0, labels * self.classes + predicted, torch.ones_like(labels))
        top5 += (top == labels.unsqueeze(1)).sum()
        bin_samples.index_add_(0, bins, torch.ones_like(bins))
        bin_correct.index_add_(0, bins, correct)
        self.sums[0] += F.cross_entropy(logits, labels, reduction="none").double().sum()
        self.sums[1:].index_add_(0, bins, confidence)

    def result(self, world: World) -> Evaluation:
        """The metrics over the samples of all ranks. Collective call."""
        counts, sums = world.sum_(self.counts.clone()).cpu(), world.sum_(self.sums.clone()).cpu()
        confusion, top5, bin_samples, bin_correct = counts.split([self.classes**2, 1, BINS, BINS])
        confusion = confusion.view(self.classes, self.classes)
        samples = int(confusion.sum())
        divisor = samples or float("nan")
        return Evaluation(
            samples=samples,
            loss=float(sums[0]) / divisor,
            top1=int(confusion.diagonal().sum()) / divisor,
            top5=int(top5) / divisor,
            calibration_error=float((sums[1:] - bin_correct).abs().sum()) / divisor,
            confusion=confusion,
            calibration=torch.stack([bin_samples.double(), bin_correct.double(), sums[1:]]),
        )
