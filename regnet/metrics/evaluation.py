"""What an evaluation counts of each sample, so that everything that is told afterwards can be worked out from it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regnet.distributed.world import World
from regnet.metrics.confident_errors import ConfidentErrors

BINS = 15  # of confidence, as in Guo et al., On Calibration of Modern Neural Networks (2017), section 2


@dataclass(frozen=True)
class Evaluation:
    """Over all samples, each once.

    Attributes:
        samples: how many.
        loss: mean of the samples.
        top1, top5: share of samples whose label was the first, or among the first five, 0 to 1.
        calibration_error: mean distance between confidence and accuracy, weighted by samples (ECE, 15 bins), 0 to 1.
        confusion: int64 (classes, classes): how often label r was predicted as c.
        mistaken: samples to look at; None while nobody asked for them.
    """

    samples: int
    loss: float
    top1: float
    top5: float
    calibration_error: float
    confusion: Tensor
    mistaken: ConfidentErrors | None = None

    def columns(self) -> dict[str, float]:
        """What an epoch's line in metrics.jsonl tells of it."""
        return {"val_loss": self.loss, "val_top1": self.top1, "val_top5": self.top5}

    def class_samples(self) -> list[int]:
        """Of each class, by label."""
        return self.confusion.sum(1).tolist()

    def class_accuracy(self) -> list[float]:
        """Of each class, by label, 0 to 1; not a number where there are no samples."""
        return (self.confusion.diagonal().double() / self.confusion.sum(1)).tolist()

    def group_accuracy(self, groups: Tensor) -> list[float]:
        """Share of samples predicted as a class of their own group; `groups` is int64 (classes,), the group of each."""
        together = groups.unsqueeze(0) == groups.unsqueeze(1)
        right, all_of_them = (self.confusion * together).sum(1), self.confusion.sum(1)
        count = int(groups.max()) + 1
        zeros = torch.zeros(count, dtype=torch.int64)
        return (zeros.index_add(0, groups, right) / zeros.index_add(0, groups, all_of_them)).tolist()


class EvaluationAccumulator:
    """Sums over samples, on the device: counts in int64, all else in float64."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.counts = torch.zeros(classes * classes + 1 + 2 * BINS, dtype=torch.int64, device=device)
        self.sums = torch.zeros(1 + BINS, dtype=torch.float64, device=device)
        self.classes = classes

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: logits float32 (n, classes), labels int64 (n,)."""
        best = logits.topk(min(5, self.classes), dim=1).indices
        predicted = best[:, 0]
        right = (predicted == labels).long()
        confidence = logits.softmax(1).max(1).values.double()
        # Bins are open on the left; a confidence of 1 belongs to the last one.
        bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        confusion, top5, seen, hits = self.counts.split([self.classes**2, 1, BINS, BINS])
        confusion.index_add_(0, labels * self.classes + predicted, torch.ones_like(labels))
        top5 += (best == labels.unsqueeze(1)).sum()
        seen.index_add_(0, bins, torch.ones_like(bins))
        hits.index_add_(0, bins, right)
        self.sums[0] += F.cross_entropy(logits, labels, reduction="none").double().sum()
        self.sums[1:].index_add_(0, bins, confidence)

    def result(self, world: World) -> Evaluation:
        """Over all ranks, which call it together."""
        counts, sums = world.sum_(self.counts.clone()).cpu(), world.sum_(self.sums.clone()).cpu()
        confusion, top5, _, hits = counts.split([self.classes**2, 1, BINS, BINS])
        table = confusion.view(self.classes, self.classes)
        samples = int(table.sum())
        divisor = samples or float("nan")
        return Evaluation(
            samples,
            float(sums[0]) / divisor,
            int(table.diagonal().sum()) / divisor,
            int(top5) / divisor,
            float((sums[1:] - hits).abs().sum()) / divisor,
            table,
        )
